"""Small real stages, one per word of the contract, for tests of the engine (importable by worker processes)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import ID, ORIGIN, PARENT_ID, TEXT, child_id, document_id, field, schema_of
from pipeline.stage import (
    Annotate,
    Compound,
    Exchange,
    Expand,
    Filter,
    Fold,
    RunFiles,
    Sink,
    Source,
    SourcePart,
    Step,
    Unreadable,
    in_batches,
    random_keys,
)

FIRST_WORD = field("first_word", pa.string(), "first word of the text")
LENGTH = field("length", pa.int64(), "code points of the text")


class Lines(Source):
    """One document per line of each text file; a line `!bad` is unreadable."""

    kind = "lines"
    folder: str
    max_rows: int = 3

    def schema(self) -> pa.Schema:  # type: ignore[override]
        return schema_of([ID, ORIGIN, TEXT])

    def parts(self) -> list[SourcePart]:
        from pipeline.stage import InputFile

        return [
            SourcePart(p.name, (InputFile(str(p), p.stat().st_size, str(p.stat().st_mtime_ns)),))
            for p in sorted(Path(self.folder).glob("*.txt"))
        ]

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        def rows() -> Iterator[Mapping[str, object] | Unreadable]:
            for number, line in enumerate(Path(part.files[0].path).read_text().splitlines()):
                place = f"{part.name}#{number}"
                if line == "!bad":
                    yield Unreadable(place, "unreadable: bad line", len(line))
                else:
                    yield {"id": document_id(part.name, str(number)), "origin": place, "text": line}

        return in_batches(rows(), self.schema(), max_rows=self.max_rows)


class MinLength(Filter):
    """Drops texts of fewer code points."""

    kind = "min_length"
    least: int = 3

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        return pc.if_else(pc.less(pc.utf8_length(docs["text"]), self.least), "too_short", None)


class Upper(Annotate):
    """Upper-cases the text."""

    kind = "upper"

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        return {"text": pc.utf8_upper(docs["text"])}


class FirstWord(Annotate):
    """Adds the first word."""

    kind = "first_word"

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (FIRST_WORD,)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        return {"first_word": pa.array([t.split(" ")[0] for t in docs["text"].to_pylist()], pa.string())}


class Words(Expand):
    """One child per word longer than `least`."""

    kind = "words"
    childless_reason = "no_long_word"
    least: int = 0

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def output(self, schema: pa.Schema) -> pa.Schema:
        return schema_of([ID, PARENT_ID, TEXT])

    def rows(self, docs: pa.RecordBatch) -> pa.RecordBatch:
        rows = [
            {"id": child_id(parent, "words", n), "parent_id": parent, "text": word}
            for parent, text in zip(docs["id"].to_pylist(), docs["text"].to_pylist(), strict=True)
            for n, word in enumerate(text.split())
            if len(word) > self.least
        ]
        return pa.RecordBatch.from_pylist(rows, schema=self.output(docs.schema))


class Joined(Expand):
    """All texts that share a first word, joined."""

    kind = "joined"

    def groups_by(self) -> str | None:
        return "first_word"

    def output(self, schema: pa.Schema) -> pa.Schema:
        from pipeline.schema import PARENT_IDS

        return schema_of([ID, PARENT_IDS, TEXT])

    def rows(self, docs: pa.RecordBatch) -> pa.RecordBatch:
        groups: dict[str, list[tuple[bytes, str]]] = {}
        for word, key, text in zip(
            docs["first_word"].to_pylist(), docs["id"].to_pylist(), docs["text"].to_pylist(), strict=True
        ):
            groups.setdefault(word, []).append((key, text))
        rows = [
            {
                "id": child_id(members[0][0], "joined", 0),
                "parent_ids": [k for k, _ in members],
                "text": "|".join(t for _, t in members),
            }
            for members in groups.values()
        ]
        return pa.RecordBatch.from_pylist(rows, schema=self.output(docs.schema))


class CountRows(Fold):
    """How many rows, and the sum of their lengths."""

    kind = "count_rows"

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        rows = chars = 0
        for batch in batches:
            rows += batch.num_rows
            chars += pc.sum(pc.utf8_length(batch["text"])).as_py() or 0
        return pa.RecordBatch.from_pydict({"label": [label], "rows": [rows], "chars": [chars]})

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        return (
            pa.Table.from_batches(list(summaries))
            .group_by("label")
            .aggregate([("rows", "sum"), ("chars", "sum")])
            .sort_by("label")
        )


class ShareOfAll(Annotate):
    """Length of each text as a share of all, from a fold's table."""

    kind = "share_of_all"

    def adds(self) -> tuple[pa.Field, ...]:
        return (field("share", pa.float64(), "share of all code points"),)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        total = pc.sum(self.table("totals")["chars_sum"])
        return {"share": pc.divide(pc.utf8_length(docs["text"]).cast(pa.float64()), total.cast(pa.float64()))}


class Share(Compound):
    """A fold and the stage that uses its table."""

    kind = "share"

    def steps(self) -> list[Step]:
        return [
            Step("totals", CountRows()),
            Step("share", ShareOfAll(), after=("<input>",), tables={"totals": "totals"}),
        ]


class ShuffleKey(Annotate):
    """A random key per document."""

    kind = "shuffle_key"
    seeded = True

    def adds(self) -> tuple[pa.Field, ...]:
        from pipeline.schema import SHUFFLE_KEY

        return (SHUFFLE_KEY,)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        return {"shuffle_key": pa.array(random_keys(docs["id"], self.seed, "shuffle"))}


class TextFile(Sink):
    """Writes texts as lines."""

    kind = "text_file"

    def output(self) -> pa.Schema:
        return pa.schema([("path", pa.string()), ("lines", pa.int64())])

    def write(self, batches: Iterator[pa.RecordBatch], files: RunFiles, part: int) -> Iterator[pa.RecordBatch]:
        path = f"out/part-{part:05d}.txt"
        lines = 0
        out = files.create(path)
        for batch in batches:
            for text in batch["text"].to_pylist():
                out.write(f"{text}\n".encode())
                lines += 1
        out.close()
        yield pa.RecordBatch.from_pylist([{"path": path, "lines": lines}], schema=self.output())


class KillsItsWorkerOnce(Annotate):
    """Kills the process that runs it, the first time it meets `victim` (a file remembers)."""

    kind = "kills_its_worker_once"
    victim: str
    memory: str

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        if self.victim in docs["text"].to_pylist() and not os.path.exists(self.memory):
            Path(self.memory).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


class Fails(Annotate):
    """Raises on a given text."""

    kind = "fails"
    on: str

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        if self.on in docs["text"].to_pylist():
            msg = f"cannot digest {self.on!r}"
            raise ValueError(msg)
        return {}


class SortedTexts(Compound):
    """Exchange by first word, with the group's columns."""

    kind = "by_first_word"
    partitions: int = 3

    def steps(self) -> list[Step]:
        return [
            Step("word", FirstWord()),
            Step("exchange", Exchange(by="first_word", partitions=self.partitions, group_columns=True)),
        ]
