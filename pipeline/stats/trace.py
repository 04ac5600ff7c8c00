"""`tokenmill trace`: from a document, a URL or a token in a shard to the whole story of one document.

The story is read from the part files themselves, so it needs no index of its own and works for a run in progress. The
price is one scan of the `id` column of every step that keeps its rows: under a second for a run of 100 MB, about a
minute per billion documents and step on one machine. Statistics prune row groups only behind an exchange by id, so for
more than a few billion documents build a table (id, file) first.
"""

# ruff: noqa: S608 - paths are quoted by `parquet`, values are parameters

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import duckdb

from pipeline.stats.run_files import Run, RunStep, columns_of, first_row, parquet
from pipeline.stats.shards import Found, Shard, Shards, matching, tokenizer_json
from pipeline.stats.story import (
    Chapter,
    Dropped,
    Match,
    Passage,
    Passed,
    Place,
    Position,
    Relative,
    Sighting,
    Story,
    Value,
    render,
)

__all__ = ["NotFound", "Story", "render", "trace"]

MATCHES = 20
RELATIVES = 20
CONTEXT_TOKENS = 40
MIN_PREFIX = 6

_HEX = re.compile(r"[0-9a-fA-F]{1,32}")
_SHARD = re.compile(r"(?P<shard>.+):(?P<offset>[0-9][0-9_,]*)")
_PLACE = ("path", "row", "num_tokens", "bucket")
_UNSHOWN = ("id", "origin", "parent_id", "parent_ids", "text", "html", "tokens")


class NotFound(LookupError):
    """Nothing in the run answers to that name."""


def trace(run: str, what: str) -> Story:
    """The story of what `what` names: an id (or 6 digits of one), an origin (or a part of one), SHARD:TOKEN_OFFSET.

    Raises NotFound. Where several documents match, the story holds only `matches`.
    """
    files = Run(run)
    with files.database() as con:
        return _Tracer(files, con).story(what.strip())


@dataclass(frozen=True)
class _Rows:
    """A step that keeps rows with ids, and the columns they have."""

    step: RunStep
    files: tuple[str, ...]
    columns: dict[str, str]

    def scan(self) -> str:
        return parquet(self.files)


class _Tracer:
    def __init__(self, run: Run, con: duckdb.DuckDBPyConnection) -> None:
        self.run, self.con = run, con
        self.nodes = {node.key: node for node in run.nodes}
        self.drop_files = [path for step in run.steps for path in run.files[step.key].drops]

    @cached_property
    def shards(self) -> Shards:
        """Lists of shards and slices, read when a token is asked for."""
        return Shards(self.run, self.con)

    @cached_property
    def rows(self) -> list[_Rows]:
        """Every step whose part files hold documents, in order."""
        found = []
        for step in self.run.steps:
            files = self.run.files[step.key].outputs
            if step.kind in ("rows", "sink") and files:
                columns = columns_of(self.con, files)
                if columns.get("id") == "BLOB":
                    found.append(_Rows(step, files, columns))
        return found

    # -------------------------------------------------------------------------------------------- what is meant

    def story(self, what: str) -> Story:
        matches = self._by_id(what) or self._by_origin("origin = ?", what)
        if not matches and (place := _SHARD.fullmatch(what)):
            shards = matching(self.shards.shards, self.run, place["shard"])
            if shards:
                return self._of_token(what, shards, int(re.sub("[_,]", "", place["offset"])))
        matches = matches or self._by_origin("suffix(origin, ?)", what) or self._by_origin("contains(origin, ?)", what)
        if not matches:
            msg = (
                f"no document and no shard of {self.run.root} answers to '{what}'; give an id (32 hex digits, or at least "
                f"{MIN_PREFIX} of them), an origin or a part of one, or SHARD:TOKEN_OFFSET"
            )
            raise NotFound(msg)
        if len(matches) == 1:
            return self._of_document(what, next(iter(matches)))
        shown = [self._match(key, *matches[key]) for key in list(matches)[:MATCHES]]
        return Story(what, matches=tuple(shown), more_matches=len(matches) - len(shown))

    @staticmethod
    def _match(key: bytes, origin: str | None, datasets: set[str]) -> Match:
        return Match(key.hex(), origin or "", tuple(sorted(datasets)))

    def _by_id(self, what: str) -> dict[bytes, tuple[str | None, set[str]]]:
        if not _HEX.fullmatch(what) or len(what) < MIN_PREFIX:
            return {}
        low, high = bytes.fromhex(what.ljust(32, "0")), bytes.fromhex(what.ljust(32, "f"))
        return self._matching("id >= ? AND id <= ?", [low, high], needs="id")

    def _by_origin(self, condition: str, what: str) -> dict[bytes, tuple[str | None, set[str]]]:
        return self._matching(condition, [what], needs="origin")

    def _matching(self, condition: str, values: list[Any], *, needs: str) -> dict[bytes, tuple[str | None, set[str]]]:
        """Documents by id, with origin and datasets, among rows and drops; those that were looked for least deep first."""
        found: dict[bytes, tuple[str | None, set[str]]] = {}
        for rows in self.rows:
            if needs in rows.columns:
                origin = "origin" if "origin" in rows.columns else "NULL"
                sql = f"SELECT DISTINCT id, {origin} FROM {rows.scan()} WHERE {condition} ORDER BY ALL"
                for key, place in self.con.execute(sql, values).fetchall():
                    _note(found, key, place, rows.step.dataset)
        for key, place, dataset in self._drops("id, origin, dataset", condition, values):
            _note(found, key, place, dataset)
        return found

    def _drops(self, columns: str, condition: str, values: list[Any]) -> list[tuple[Any, ...]]:
        if not self.drop_files:
            return []
        prefix = len(self.run.root) + 2
        scan = (
            f"SELECT *, split_part(substr(filename, {prefix}), '/', 2) AS dataset, "
            f"regexp_replace(substr(filename, {prefix}), '/drops/[^/]*$', '') AS folder "
            f"FROM {parquet(self.drop_files, filename=True)}"
        )
        return self.con.execute(f"SELECT {columns} FROM ({scan}) WHERE {condition} ORDER BY ALL", values).fetchall()

    # -------------------------------------------------------------------------------------------- a document

    def _of_document(self, what: str, key: bytes) -> Story:
        chapters = self._chapters(key)
        parents, more_parents = self._parents(key)
        children, more_children = self._children(key)
        kept_instead = self._drops("count(*)", "keeper_id = ? AND id <> keeper_id", [key])
        return Story(
            what=what,
            id=key.hex(),
            origin=self._origin(key),
            chapters=tuple(chapters),
            parents=parents,
            more_parents=more_parents,
            children=children,
            more_children=more_children,
            duplicates=int(kept_instead[0][0]) if kept_instead else 0,
        )

    def _origin(self, key: bytes) -> str:
        for rows in self.rows:
            if "origin" in rows.columns:
                found = first_row(self.con, f"SELECT origin FROM {rows.scan()} WHERE id = ? LIMIT 1", [key])
                if found is not None and found[0] is not None:
                    return str(found[0])
        dropped = self._drops("origin", "id = ?", [key])
        return str(dropped[0][0] or "") if dropped else ""

    def _chapters(self, key: bytes) -> list[Chapter]:
        """One per dataset that met the document, in the order of the plan."""
        dropped = {
            str(folder): rest
            for folder, *rest in self._drops(
                "folder, stage, reason, chars, keeper_id, cluster_size, method, similarity, text", "id = ?", [key]
            )
        }
        datasets = dict.fromkeys(step.dataset for step in self.run.steps)
        chapters = [self._chapter(dataset, key, dropped) for dataset in datasets]
        return [one for one in chapters if one.passages or one.dropped]

    def _chapter(self, dataset: str, key: bytes, dropped: dict[str, list[Any]]) -> Chapter:
        by_step = {rows.step.key: rows for rows in self.rows}
        passages: list[Passage] = []
        known: dict[str, Value] = {}
        waiting: list[Passed] = []
        fate, place = None, None
        for step in self.run.steps_of(dataset):
            if step.folder in dropped:
                fate = self._dropped(dropped[step.folder])
                before = self._passed(step, waiting, until=fate.step)
                if before:
                    passages.append(Passage(tuple(before), {}, step.folder))
                break
            if step.key not in by_step:
                waiting = self._passed(step, waiting)
                continue
            found = self._row(by_step[step.key], key)
            if found is None:
                continue
            values, made_here = found
            if step.key == f"{dataset}/token_shards":
                place = Place(str(values["path"]), int(values["row"]), int(values["num_tokens"]), str(values["bucket"]))
                passages.append(Passage(tuple(self._passed(step, waiting)), {}, step.folder))
                break
            stages = self._passed(step, waiting)
            if made_here and not passages:
                stages = _from_last_expand(stages)
            news = {name: value for name, value in values.items() if known.get(name) != value}
            passages.append(Passage(tuple(stages), news, step.folder))
            known |= values
            waiting = []
        return Chapter(dataset, tuple(passages), fate, place, tuple(self._sightings(key, place)))

    def _passed(self, step: RunStep, waiting: Sequence[Passed], until: str | None = None) -> list[Passed]:
        """The stages so far, each once; up to but not including `until`."""
        stages = list(waiting)
        for name in step.nodes:
            node = self.nodes.get(name)
            if node is None:
                continue
            if node.step == until:
                break
            one = Passed(node.step, node.kind, node.word)
            if one not in stages:
                stages.append(one)
        return stages

    def _row(self, rows: _Rows, key: bytes) -> tuple[dict[str, Value], bool] | None:
        """The document's small columns in a step, and whether it has parents; None where the step does not hold it."""
        columns = {name: sql for name, kind in rows.columns.items() if (sql := _shown(name, kind))}
        if "text" in rows.columns:
            columns["chars"] = "length(text)"
        has_parents = [
            f"coalesce({'len(parent_ids) > 0' if name == 'parent_ids' else 'parent_id IS NOT NULL'}, false)"
            for name in ("parent_id", "parent_ids")
            if name in rows.columns
        ]
        made = " OR ".join(has_parents) or "false"
        chosen = ", ".join([made, *(f'{sql} AS "{name}"' for name, sql in columns.items())])
        found = first_row(self.con, f"SELECT {chosen} FROM {rows.scan()} WHERE id = ? LIMIT 1", [key])
        if found is None:
            return None
        values = {name: value for name, value in zip(columns, found[1:], strict=True) if value is not None}
        return values, bool(found[0])

    def _dropped(self, row: Sequence[Any]) -> Dropped:
        stage, reason, chars, keeper, cluster_size, method, similarity, text = row
        return Dropped(
            step=stage,
            reason=reason,
            chars=chars,
            keeper_id=None if keeper is None else bytes(keeper).hex(),
            keeper_origin=None if keeper is None else self._origin(bytes(keeper)),
            cluster_size=cluster_size,
            method=method,
            similarity=similarity,
            text=text,
        )

    def _sightings(self, key: bytes, place: Place | None) -> Iterator[Sighting]:
        if place is None:
            return
        for one in self.shards.slices_of(place.path, place.row):
            spans = self.shards.spans(one, key, place.path, place.row, place.tokens)
            share = 1.0 if spans is None else sum(span.end - span.start for span in spans) / max(1, place.tokens)
            shards = tuple(shard.path for shard in self.shards.forms(one.place))
            yield Sighting(
                one.phase, one.slice, one.reads, one.packing, shards,
                None if spans is None else tuple(spans), one.reads * share,
            )  # fmt: skip

    # -------------------------------------------------------------------------------------------- relatives

    def _parents(self, key: bytes) -> tuple[tuple[Relative, ...], int]:
        """What the document was made from, in the order in which it was joined."""
        ids = list(dict.fromkeys(parent for rows in self.rows for parent in self._parent_ids(rows, key)))
        return self._relatives(ids[:RELATIVES]), max(0, len(ids) - RELATIVES)

    def _parent_ids(self, rows: _Rows, key: bytes) -> list[bytes]:
        parts = [
            name if name == "parent_ids" else "[parent_id]"
            for name in ("parent_ids", "parent_id")
            if name in rows.columns
        ]
        if not parts:
            return []
        sql = f"SELECT list_concat({', '.join([*parts, '[]'])}) FROM {rows.scan()} WHERE id = ? LIMIT 1"
        found = first_row(self.con, sql, [key])
        return [bytes(one) for one in found[0] if one is not None] if found is not None and found[0] is not None else []

    def _children(self, key: bytes) -> tuple[tuple[Relative, ...], int]:
        """Documents made from this one; rows without text (bands of a signature) are no documents."""
        ids: dict[bytes, None] = {}
        for rows in self.rows:
            conditions = [
                "list_contains(parent_ids, ?::BLOB)" if name == "parent_ids" else "parent_id = ?"
                for name in ("parent_ids", "parent_id")
                if name in rows.columns and "text" in rows.columns
            ]
            if conditions:
                sql = f"SELECT id FROM {rows.scan()} WHERE {' OR '.join(conditions)} ORDER BY id"
                ids |= dict.fromkeys(row[0] for row in self.con.execute(sql, [key] * len(conditions)).fetchall())
        found = list(ids)
        return self._relatives(found[:RELATIVES]), max(0, len(found) - RELATIVES)

    def _relatives(self, ids: Sequence[bytes]) -> tuple[Relative, ...]:
        """In brief, with one scan per step for all of them."""
        if not ids:
            return ()
        chapters: dict[bytes, dict[str, Chapter]] = {key: {} for key in ids}
        origins: dict[bytes, str] = {}
        for rows in self.rows:
            wanted = ", ".join(name if name in rows.columns else "NULL" for name in ("id", "origin", *_PLACE))
            sql = f"SELECT {wanted} FROM {rows.scan()} WHERE id IN (SELECT unnest(?::BLOB[]))"
            for key, origin, *where in self.con.execute(sql, [list(ids)]).fetchall():
                if origin is not None:
                    origins.setdefault(key, origin)
                is_index = rows.step.key == f"{rows.step.dataset}/token_shards"
                place = Place(*where) if is_index else None
                sightings = tuple(self._sightings(key, place))
                chapters[key][rows.step.dataset] = Chapter(rows.step.dataset, (), None, place, sightings)
        columns = "id, origin, dataset, stage, reason, chars"
        for key, origin, dataset, *fate in self._drops(columns, "id IN (SELECT unnest(?::BLOB[]))", [list(ids)]):
            origins.setdefault(key, origin or "")
            chapters[key][dataset] = Chapter(dataset, (), Dropped(*fate))
        return tuple(self._relative(key, origins.get(key, ""), chapters[key]) for key in ids)

    @staticmethod
    def _relative(key: bytes, origin: str, chapters: dict[str, Chapter]) -> Relative:
        fates = "; ".join(f"{name}: {one.fate}" for name, one in chapters.items())
        return Relative(key.hex(), origin, next(iter(chapters), ""), fates)

    # -------------------------------------------------------------------------------------------- a token

    def _of_token(self, what: str, shards: list[Shard], offset: int) -> Story:
        if len(shards) > 1:
            names = ", ".join(shard.path for shard in shards[:4])
            msg = f"{len(shards)} shards answer to '{what}' ({names}{', ...' if len(shards) > 4 else ''}); give more of the path"
            raise NotFound(msg)
        try:
            found = self.shards.at(shards[0], offset)
        except LookupError as error:
            raise NotFound(str(error)) from error
        story = self._of_document(what, found.id)
        return replace(story, position=self._position(shards[0], offset, found))

    def _position(self, shard: Shard, offset: int, found: Found) -> Position:
        tokens = self.shards.tokens(found.path, found.row)
        at = found.document_offset
        position = Position(shard.path, offset, found.sequence, int(tokens[at]), at, len(tokens))
        config = tokenizer_json(self.run, self.con)
        if config is None:
            return position
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(config)

        def text(start: int, end: int) -> str:
            return str(tokenizer.decode(tokens[start:end].tolist(), skip_special_tokens=False))

        start, end = max(0, at - CONTEXT_TOKENS), at + 1 + CONTEXT_TOKENS
        position = replace(position, before=text(start, at), token=text(at, at + 1), after=text(at + 1, end))
        so_far = str(tokenizer.decode(tokens[:at].tolist(), skip_special_tokens=True))
        file, line = self._file(found.id, shard.dataset, so_far)
        return replace(position, file=file, line=line)

    def _file(self, key: bytes, dataset: str, so_far: str) -> tuple[Relative | None, int | None]:
        """Which of the joined documents the text after `so_far` belongs to, and its line there.

        A path header belongs to the file below it. None where a step changed the text after it was joined.
        """
        joined = self._final_text(key, dataset)
        if joined is None or not joined.startswith(so_far.rstrip("\ufffd")):
            return None, None
        cursor = 0
        for parent, text in self._parent_texts(key, joined):
            start = joined.find(text, cursor)
            if start < 0:
                return None, None
            cursor = start + len(text)
            if len(so_far) < cursor:
                inside = max(0, len(so_far) - start)
                return self._relatives([parent])[0], text.count("\n", 0, inside) + 1
        return None, None

    def _final_text(self, key: bytes, dataset: str) -> str | None:
        step = self.run.final_rows(dataset)
        rows = next((one for one in self.rows if step is not None and one.step.key == step.key), None)
        if rows is None or "text" not in rows.columns:
            return None
        found = first_row(self.con, f"SELECT text FROM {rows.scan()} WHERE id = ? LIMIT 1", [key])
        return None if found is None else found[0]

    def _parent_texts(self, key: bytes, joined: str) -> list[tuple[bytes, str]]:
        """The documents joined into this one with the text that they had then, in order; none unless all are found.

        A document's text changes from step to step (FIM rearranges it), so of the steps before the joining the last one
        whose text occurs in `joined` is taken.
        """
        joining = next((rows for rows in self.rows if self._parent_ids(rows, key)), None)
        if joining is None:
            return []
        ids = list(dict.fromkeys(self._parent_ids(joining, key)))
        texts: dict[bytes, str] = {}
        for rows in reversed(self.rows[: self.rows.index(joining)]):
            missing = [one for one in ids if one not in texts]
            if missing and "text" in rows.columns:
                sql = f"SELECT id, text FROM {rows.scan()} WHERE id IN (SELECT unnest(?::BLOB[])) AND text IS NOT NULL"
                found = self.con.execute(sql, [missing]).fetchall()
                texts |= {parent: text for parent, text in found if text in joined}
        return [(one, texts[one]) for one in ids] if len(texts) == len(ids) else []


def _note(found: dict[bytes, tuple[str | None, set[str]]], key: bytes, origin: str | None, dataset: str) -> None:
    """Add one place where a document was met."""
    before = found.get(key)
    if before is None:
        found[key] = (origin, {dataset})
    else:
        found[key] = (before[0] or origin, before[1] | {dataset})


def _shown(name: str, kind: str) -> str | None:
    """SQL of a column for reading, or None where it is too large or says nothing alone."""
    if name in _UNSHOWN:
        return None
    quoted = f'"{name}"'
    if kind == "BLOB":
        return f"lower(hex({quoted}))"
    if kind == "VARCHAR":
        return f"left({quoted}, 200)"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return f"CAST({quoted} AS VARCHAR)"
    if kind.endswith("[]") or "]" in kind or kind.startswith(("STRUCT", "MAP")):
        return None
    return quoted


def _from_last_expand(stages: list[Passed]) -> list[Passed]:
    """A child's own stages: from the Expand that made it on."""
    last = max((number for number, one in enumerate(stages) if one.word == "expand"), default=0)
    return stages[last:]
