"""Where a document lies among a run's tokens, and which document a token belongs to.

Token shards hold one document per row, which the index (rows of `token_shards`) names. A phase's Arrow shard says which
documents each sequence joins; its Megatron twin holds the same tokens in the same order, so places are the same in both.
Without the Arrow shard, places in concatenated phases follow from the slice's pieces and the index; a packed one's do not.

Cost: an Arrow shard's document ids are read whole (16 bytes each, memory-mapped), its tokens not at all.
"""

# ruff: noqa: S608 - paths are quoted by `parquet`

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stats.run_files import Run, first_row, parquet
from pipeline.stats.story import Span

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """A file of tokens. `format` is `megatron`, `arrow`, or `tokens` for a dataset's token shard, which has no phase."""

    path: str
    format: str
    dataset: str
    bucket: str
    phase: str = ""
    slice: str = ""

    @property
    def stem(self) -> str:
        """The path without its ending: what Megatron calls the prefix."""
        return self.path.rsplit(".", 1)[0]

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What the Arrow and the Megatron form of the same tokens share."""
        return (self.phase, self.dataset, self.bucket, self.slice)


@dataclass(frozen=True)
class Piece:
    """Rows [first_row, end_row) of a token shard."""

    path: str
    first_row: int
    end_row: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class SliceOfPhase:
    """One row of the `slices` table."""

    phase: str
    dataset: str
    bucket: str
    slice: str
    reads: int
    packing: str
    pieces: tuple[Piece, ...]

    @property
    def place(self) -> tuple[str, str, str, str]:
        """As a shard's."""
        return (self.phase, self.dataset, self.bucket, self.slice)


@dataclass(frozen=True)
class Found:
    """The document at a token: its row in a token shard, the sequence, and how far into the document the token is."""

    id: bytes
    path: str
    row: int
    sequence: int
    document_offset: int


class Shards:
    """The token files of one run. Memory: the lists of shards and slices, and one Arrow batch's document ids."""

    def __init__(self, run: Run, con: duckdb.DuckDBPyConnection) -> None:
        self.run, self.con = run, con
        self.index = [
            path
            for dataset in run.mixed
            if (step := run.index(dataset)) is not None
            for path in run.files[step.key].outputs
        ]
        self.shards = [*self._phase_shards(), *self._token_shards()]
        self.slices = self._slices()

    # -------------------------------------------------------------------------------------------- lists

    def _phase_shards(self) -> Iterator[Shard]:
        path = self.run.table("curriculum/shards_written.parquet")
        if path is None:
            return
        columns = "path, format, dataset, bucket, phase, slice"
        for row in self.con.execute(f"SELECT {columns} FROM {parquet([path])}").fetchall():
            yield Shard(*row)

    def _token_shards(self) -> Iterator[Shard]:
        if not self.index:
            return
        rows = self.con.execute(f"SELECT DISTINCT path, dataset, bucket FROM {parquet(self.index)} ORDER BY ALL")
        for path, dataset, bucket in rows.fetchall():
            yield Shard(path, "tokens", dataset, bucket)

    def _slices(self) -> list[SliceOfPhase]:
        path = self.run.table("curriculum/slices.parquet")
        if path is None:
            return []
        columns = "phase, dataset, bucket, slice, reads, packing, pieces"
        rows = self.con.execute(f"SELECT {columns} FROM {parquet([path])} ORDER BY phase_index").fetchall()
        names = Piece.__dataclass_fields__
        found = []
        for phase, dataset, bucket, name, reads, packing, pieces in rows:
            parts = tuple(Piece(**{field: piece[field] for field in names}) for piece in pieces)
            found.append(SliceOfPhase(phase, dataset, bucket, name, reads, packing, parts))
        return found

    # -------------------------------------------------------------------------------------------- by document

    def slices_of(self, path: str, row: int) -> list[SliceOfPhase]:
        """The slices that hold a document, in the order of the phases."""
        return [
            one for one in self.slices if any(p.path == path and p.first_row <= row < p.end_row for p in one.pieces)
        ]

    def forms(self, place: tuple[str, str, str, str]) -> list[Shard]:
        """The shards of one slice, Megatron's first."""
        return sorted((s for s in self.shards if s.phase and s.place == place), key=lambda s: s.format != "megatron")

    def spans(self, one: SliceOfPhase, document: bytes, path: str, row: int, tokens: int) -> list[Span] | None:
        """Where a slice's shards hold the document; None where nothing says so."""
        arrow = next((shard for shard in self.forms(one.place) if shard.format == "arrow"), None)
        if arrow is not None:
            return self._spans_in(arrow, document, path, row, tokens)
        if one.packing != "concatenate":
            return None
        start = sequence = 0
        for piece in one.pieces:
            if piece.path == path and piece.first_row <= row < piece.end_row:
                before = self._tokens_of(path, piece.first_row, row)
                return [Span(sequence + row - piece.first_row, start + before, start + before + tokens, 0)]
            start, sequence = start + piece.tokens, sequence + piece.documents
        return []

    def _tokens_of(self, path: str, first: int, end: int) -> int:
        """Tokens of the rows [first, end) of a token shard."""
        found = first_row(
            self.con,
            f"SELECT coalesce(sum(num_tokens), 0)::BIGINT FROM {parquet(self.index)} WHERE path = ? AND row >= ? AND row < ?",
            [path, first, end],
        )
        assert found is not None
        return int(found[0])

    def _spans_in(self, shard: Shard, document: bytes, path: str, row: int, tokens: int) -> list[Span]:
        spans = []
        whole: npt.NDArray[np.int32] | None = None
        for block in self._blocks(shard.path):
            for at in block.pieces_of(document):
                start, end = int(block.starts[at]), int(block.starts[at] + block.lengths[at])
                from_token: int | None = 0
                if end - start != tokens:
                    whole = self.tokens(path, row) if whole is None else whole
                    from_token = _where(whole, block.values(at))
                spans.append(Span(int(block.sequences[at]), start, end, from_token))
        return sorted(spans, key=lambda span: (span.document_start or 0, span.start))

    # -------------------------------------------------------------------------------------------- by token

    def at(self, shard: Shard, offset: int) -> Found:
        """The document at token `offset` of a shard. Raises LookupError with the reason when there is none."""
        if shard.format == "tokens":
            return self._at_rows(shard, [Piece(shard.path, 0, 1 << 62, 0, 0)], offset)
        arrow = next((one for one in self.forms(shard.place) if one.format == "arrow"), None)
        if arrow is not None:
            return self._at_arrow(arrow, offset, shard.path)
        one = next((s for s in self.slices if s.place == shard.place), None)
        if one is None or one.packing != "concatenate":
            msg = f"{shard.path}: its sequences are packed, and only Arrow shards say from what: run with `outputs: {{arrow: true}}`"
            raise LookupError(msg)
        return self._at_rows(shard, one.pieces, offset)

    def _at_rows(self, shard: Shard, pieces: Sequence[Piece], offset: int) -> Found:
        """By running sums over the index of the pieces' rows."""
        rest, sequence = offset, 0
        for piece in pieces:
            if piece.tokens and rest >= piece.tokens:
                rest, sequence = rest - piece.tokens, sequence + piece.documents
                continue
            found = first_row(
                self.con,
                f"""SELECT id, row, num_tokens, "end" FROM (SELECT id, row, num_tokens,
                    sum(num_tokens) OVER (ORDER BY row) AS "end" FROM {parquet(self.index)}
                    WHERE path = ? AND row >= ? AND row < ?) WHERE "end" > ? ORDER BY row LIMIT 1""",
                [piece.path, piece.first_row, piece.end_row, rest],
            )
            if found is not None:
                document, row, tokens, end = found
                return Found(document, piece.path, row, sequence + row - piece.first_row, rest - int(end) + tokens)
        total = self._total(shard)
        msg = f"{shard.path} holds {total:,} tokens, so offsets go from 0 to {total - 1:,}, not {offset:,}"
        raise LookupError(msg)

    def _total(self, shard: Shard) -> int:
        if shard.format == "tokens":
            return self._tokens_of(shard.path, 0, 1 << 62)
        return sum(piece.tokens for one in self.slices if one.place == shard.place for piece in one.pieces)

    def _at_arrow(self, shard: Shard, offset: int, asked: str) -> Found:
        total = 0
        for block in self._blocks(shard.path):
            total = block.first_token + block.tokens
            if offset >= total:
                continue
            at = int(np.searchsorted(block.starts, offset, side="right")) - 1
            document = bytes(block.documents[at].as_py())
            into = offset - int(block.starts[at])
            if into >= int(block.lengths[at]):
                msg = f"token {offset:,} of {asked} is padding at the end of sequence {int(block.sequences[at]):,}, of no document"
                raise LookupError(msg)
            path, row, tokens = self.row_of(document, shard.dataset)
            if int(block.lengths[at]) != tokens:
                into += _where(self.tokens(path, row), block.values(at)) or 0
            return Found(document, path, row, int(block.sequences[at]), into)
        msg = f"{asked} holds {total:,} tokens, so offsets go from 0 to {total - 1:,}, not {offset:,}"
        raise LookupError(msg)

    def row_of(self, document: bytes, dataset: str) -> tuple[str, int, int]:
        """(path, row, tokens) of a document in the token shards of a dataset."""
        step = self.run.index(dataset)
        assert step is not None
        found = first_row(
            self.con,
            f"SELECT path, row, num_tokens FROM {parquet(self.run.files[step.key].outputs)} WHERE id = ?",
            [document],
        )
        if found is None:
            msg = f"document {document.hex()} is in a shard, but not in the index of dataset '{dataset}'"
            raise LookupError(msg)
        return str(found[0]), int(found[1]), int(found[2])

    # -------------------------------------------------------------------------------------------- tokens

    def tokens(self, path: str, row: int) -> npt.NDArray[np.int32]:
        """int32[tokens]: one row of a token shard."""
        with self.run.open(path) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                if row < batch.num_rows:
                    values: npt.NDArray[np.int32] = batch["tokens"][row].values.to_numpy(zero_copy_only=False).copy()
                    return values
                row -= batch.num_rows
        msg = f"{path} has no row {row}"
        raise LookupError(msg)

    def _blocks(self, path: str) -> Iterator[_Block]:
        """A phase's Arrow shard, one record batch at a time."""
        tokens = sequences = 0
        with self.run.open(path) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                block = _Block.of(reader.get_batch(number), tokens, sequences)
                yield block
                tokens, sequences = tokens + block.tokens, sequences + block.rows


@dataclass(frozen=True)
class _Block:
    """The pieces of documents in one record batch of a phase's Arrow shard; `starts` counts tokens from the file's start."""

    batch: Any
    documents: Any  # binary(16)[pieces]
    lengths: Ints  # int64[pieces]
    starts: Ints  # int64[pieces]
    sequences: Ints  # int64[pieces], from the file's start
    first_token: int
    first_sequence: int
    tokens: int

    @classmethod
    def of(cls, batch: Any, first_token: int, first_sequence: int) -> _Block:
        per_sequence = batch["documents"].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        sizes = batch["tokens"].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = batch["lengths"].flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        before = np.cumsum(lengths) - lengths  # tokens of the pieces before, padding left out
        rows = np.repeat(np.arange(batch.num_rows), per_sequence)
        first_pieces = np.cumsum(per_sequence) - per_sequence
        sequence_starts = np.cumsum(sizes) - sizes
        starts = before - before[first_pieces[rows]] + sequence_starts[rows] + first_token
        documents = batch["documents"].flatten()
        return cls(
            batch, documents, lengths, starts, rows + first_sequence, first_token, first_sequence, int(sizes.sum())
        )

    @property
    def rows(self) -> int:
        return int(self.batch.num_rows)

    def pieces_of(self, document: bytes) -> list[int]:
        """Positions of the document's pieces."""
        found = pc.indices_nonzero(pc.equal(self.documents, pa.scalar(document, self.documents.type)))
        return [int(at) for at in found.to_pylist()]

    def values(self, at: int) -> npt.NDArray[np.int32]:
        """int32[lengths[at]]: the tokens of one piece."""
        start = int(self.starts[at]) - self.first_token
        flat = self.batch["tokens"].flatten()
        values: npt.NDArray[np.int32] = flat.slice(start, int(self.lengths[at])).to_numpy(zero_copy_only=False)
        return values


def _where(whole: npt.NDArray[np.int32], piece: npt.NDArray[np.int32]) -> int | None:
    """The first place at which `piece` stands within `whole`, in tokens."""
    text, wanted = whole.astype("<i4").tobytes(), piece.astype("<i4").tobytes()
    at = text.find(wanted)
    while at >= 0 and at % 4:
        at = text.find(wanted, at + 1)
    return at // 4 if at >= 0 else None


def matching(shards: Sequence[Shard], run: Run, name: str) -> list[Shard]:
    """The shards that `name` could mean: a path (absolute or within the run) or a file name, with or without its ending.

    A prefix names both forms of the same tokens: one of them is returned.
    """
    path = run.relative(name).removeprefix("./").removesuffix(".idx")
    whole = [shard for shard in shards if path in (shard.path, shard.stem)]
    found = whole or [
        shard for shard in shards if path in (shard.path.rsplit("/", 1)[-1], shard.stem.rsplit("/", 1)[-1])
    ]
    found = found or [
        shard for shard in shards if f"/{shard.path}".endswith(f"/{path}") or f"/{shard.stem}".endswith(f"/{path}")
    ]
    twins: dict[tuple[str, ...], Shard] = {}
    for shard in found:
        twins.setdefault(shard.place if shard.phase else (shard.path,), shard)
    return list(twins.values())


def tokenizer_json(run: Run, con: duckdb.DuckDBPyConnection) -> str | None:
    """The run's tokenizer: `tokenizer.json`, or the one trained in a run that is still going."""
    if run.exists("tokenizer.json"):
        return str(run.fs.cat_file(run.url("tokenizer.json")).decode())
    step = next((one for one in run.steps if one.key == "tokenizer/train"), None)
    if step is None or not run.files[step.key].outputs:
        return None
    found = first_row(con, f"SELECT tokenizer_json FROM {parquet(run.files[step.key].outputs)}")
    return bytes(found[0]).decode() if found else None
