"""The files of a run as its readers find them: `plan.json` names the folders in force, accounts say which parts count.

Folders of earlier settings may lie beside those in force, and a killed worker may leave a part without an account;
neither is ever listed here. A finished step costs one read (its manifest) whatever its number of parts: on a disk DuckDB
is given a pattern, on an object store the names in the manifest, since a listing could hide some. A step in progress is
listed part by part.
"""

# ruff: noqa: S608 - paths go through `quoted`

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import fsspec
import pyarrow as pa


class NoRun(FileNotFoundError):
    """The folder holds no run."""


@dataclass(frozen=True)
class RunStep:
    """One folder in force, as `plan.json` describes it."""

    key: str
    dataset: str
    label: str
    kind: str
    folder: str
    nodes: tuple[str, ...]
    publish: str | None
    keep: bool


@dataclass(frozen=True)
class RunNode:
    """One stage in its place: `kind` is what the recipe calls it, `word` its shape."""

    key: str
    dataset: str
    step: str
    kind: str
    word: str


@dataclass(frozen=True)
class StepFiles:
    """What a step has written so far. Files are absolute paths or URLs; a finished step's may be patterns."""

    done: bool
    parts: int
    rows: int
    seconds: float
    outputs: tuple[str, ...]
    """Part files (Parquet), or the table of a fold."""
    drops: tuple[str, ...]
    accounts: tuple[str, ...]


NOTHING_YET = StepFiles(False, 0, 0, 0.0, (), (), ())


class Run:
    """A run's folder, for reading. Paths are relative to it unless said otherwise."""

    def __init__(self, address: str) -> None:
        self.fs, bare = fsspec.core.url_to_fs(str(address))
        protocols = self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        self.local = "file" in protocols or "local" in protocols
        self.root = os.path.abspath(bare) if self.local else f"{protocols[0]}://{bare.rstrip('/')}"
        plan = self.read_json("plan.json")
        if plan is None:
            msg = f"{address}: no run here (no plan.json); `tokenmill run RECIPE --out {address}` makes one"
            raise NoRun(msg)
        self.plan: dict[str, Any] = plan
        self.steps = tuple(
            RunStep(
                one["key"], one["dataset"], one["label"], one["kind"], one["folder"],
                tuple(one["nodes"]), one.get("publish"), bool(one.get("keep")),
            )
            for one in plan["steps"]
        )  # fmt: skip
        self.nodes = tuple(
            RunNode(one["key"], one["dataset"], one["step"], one["kind"], one["word"]) for one in plan.get("nodes", ())
        )
        self.datasets: tuple[str, ...] = tuple(plan.get("datasets", ()))
        self.mixed: tuple[str, ...] = tuple(plan.get("mixed", ()))

    # -------------------------------------------------------------------------------------------- paths and bytes

    def url(self, path: str) -> str:
        """Absolute path or URL."""
        return f"{self.root}/{path}"

    def relative(self, url: str) -> str:
        """The path within the run of an absolute one."""
        return url[len(self.root) + 1 :] if url.startswith(f"{self.root}/") else url

    def exists(self, path: str) -> bool:
        return bool(self.fs.exists(self.url(path)))

    def read_json(self, path: str) -> Any:
        """A JSON file, or None when it is absent."""
        try:
            return json.loads(self.fs.cat_file(self.url(path)))
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when it is absent. Temporary files are left out."""
        try:
            if self.local:
                found = os.listdir(self.url(folder))
            else:
                entries = self.fs.ls(self.url(folder), detail=False, refresh=True)
                found = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if not name.startswith("."))

    def open(self, path: str) -> pa.NativeFile:
        """For reading at any offset: memory-mapped on a disk, ranged requests elsewhere."""
        if self.local:
            return pa.memory_map(self.url(path), "r")
        return pa.PythonFile(self.fs.open(self.url(path), "rb"), mode="r")

    # -------------------------------------------------------------------------------------------- steps

    @cached_property
    def files(self) -> Mapping[str, StepFiles]:
        """Per step key, what it has written so far: one manifest per step, read side by side on an object store."""
        if self.local:
            found = [self._step_files(step) for step in self.steps]
        else:
            with ThreadPoolExecutor(16) as pool:
                found = list(pool.map(self._step_files, self.steps))
        return {step.key: files for step, files in zip(self.steps, found, strict=True)}

    def _step_files(self, step: RunStep) -> StepFiles:
        manifest = self.read_json(f"{step.folder}/manifest.json")
        if manifest is None:
            return self._unfinished(step)
        paths = [file["path"] for file in manifest["files"]]
        return StepFiles(
            done=True,
            parts=manifest["parts"],
            rows=manifest["rows"],
            seconds=manifest["seconds"],
            outputs=self._outputs(step, paths),
            drops=self._pattern(f"{step.folder}/drops", "parquet", paths),
            accounts=self._accounts(step, manifest["parts"]),
        )

    def _outputs(self, step: RunStep, paths: Sequence[str]) -> tuple[str, ...]:
        if step.kind == "fold":
            table = f"{step.folder}/table.parquet"
            return (self._escaped(table),) if table in paths else ()
        return self._pattern(step.folder, "parquet", paths)

    def _pattern(self, folder: str, suffix: str, paths: Sequence[str]) -> tuple[str, ...]:
        """A pattern over the parts in `folder`, where there are any (DuckDB refuses a pattern that matches nothing)."""
        start, end = f"{folder}/part-", f".{suffix}"
        found = [path for path in paths if path.startswith(start) and path.endswith(end)]
        if self.local and found:
            return (self._escaped(f"{start}*{end}"),)
        return tuple(self._escaped(path) for path in sorted(found))

    def _accounts(self, step: RunStep, parts: int) -> tuple[str, ...]:
        folder = f"{step.folder}/account"
        if self.local and parts:
            return (self._escaped(f"{folder}/part-*.json"),)
        return tuple(self._escaped(f"{folder}/part-{part:05d}.json") for part in range(parts))

    def _unfinished(self, step: RunStep) -> StepFiles:
        """Parts that have an account, one by one: their number is what a killed or running step got to."""
        names = self.names(f"{step.folder}/account")
        if not names:
            return NOTHING_YET
        stems = [name.removesuffix(".json") for name in names]
        listing, dropped = set(self.names(step.folder)), set(self.names(f"{step.folder}/drops"))
        outputs = [f"{stem}.parquet" for stem in stems] if step.kind != "fold" else ["table.parquet"]
        return StepFiles(
            done=False,
            parts=len(stems),
            rows=0,
            seconds=0.0,
            outputs=tuple(self._escaped(f"{step.folder}/{name}") for name in outputs if name in listing),
            drops=tuple(
                self._escaped(f"{step.folder}/drops/{stem}.parquet") for stem in stems if f"{stem}.parquet" in dropped
            ),
            accounts=tuple(self._escaped(f"{step.folder}/account/{name}") for name in names),
        )

    def _escaped(self, path: str) -> str:
        """An absolute path whose folder DuckDB takes literally, though a run may lie in `runs/[1]*`."""
        root = "".join({"[": "[[]", "*": "[*]", "?": "[?]"}.get(c, c) for c in self.root) if self.local else self.root
        return f"{root}/{path}"

    def steps_of(self, dataset: str) -> list[RunStep]:
        """Its steps, in order."""
        return [step for step in self.steps if step.dataset == dataset]

    def index(self, dataset: str) -> RunStep | None:
        """The step whose rows index the dataset's token shards."""
        return next((step for step in self.steps if step.key == f"{dataset}/token_shards"), None)

    def final_rows(self, dataset: str) -> RunStep | None:
        """The step that writes the dataset's own rows."""
        return next((step for step in self.steps if step.dataset == dataset and step.keep), None)

    def table(self, publish: str) -> str | None:
        """The table of the curriculum published as `publish`: the fold's own file, which no later run overwrites."""
        step = next((one for one in self.steps if one.publish == publish), None)
        if step is not None:
            outputs = self.files[step.key].outputs
            return outputs[0] if outputs else None
        return self._escaped(publish) if self.exists(publish) else None

    # -------------------------------------------------------------------------------------------- DuckDB

    def database(self) -> duckdb.DuckDBPyConnection:
        """A connection in memory that can read the run's files, through fsspec where they are not on a disk."""
        con = duckdb.connect()
        if not self.local:
            con.register_filesystem(self.fs)
        return con


def quoted(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def parquet(paths: Sequence[str], *, filename: bool = False) -> str:
    """The SQL of a scan; `filename` adds a column of that name."""
    return f"read_parquet([{', '.join(map(quoted, paths))}]{', filename = true' if filename else ''})"


def columns_of(con: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> dict[str, str]:
    """Names and SQL types of the columns of Parquet files, read from the first one's footer."""
    rows = con.execute(f"describe select * from {parquet(paths[:1])}").fetchall()
    return {row[0]: row[1] for row in rows}


def first_row(con: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first row of a small result. Reads it to its end: DuckDB 2 refuses a connection with a result half read."""
    rows = con.execute(sql, list(values)).fetchall()
    return rows[0] if rows else None


def hex_id(column: str) -> str:
    """SQL that shows an id as 32 hex digits."""
    return f"lower(hex({column}))"
