"""`catalog.duckdb`: a run as SQL views, the contract of DESIGN.md section 5, readable with any duckdb client.

On a disk the catalog holds views over the run's files by absolute path: a few hundred KB whatever the run's size, never
stale for finished steps, and gone the moment the folder moves (`connect` then writes it anew). For a run on an object
store it holds tables, since a plain client there would need credentials and an extension; that copies one row per
document, so beyond about a hundred million documents query the Parquet files where they lie instead.

Every view is there for every run, empty but typed where a step has not come that far. Ids are 32 hex digits.
"""

# ruff: noqa: S608 - a view takes no parameters: every value goes through `quoted`

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.stats.run_files import Run, RunStep, columns_of, first_row, hex_id, parquet, quoted

CATALOG = "catalog.duckdb"
STORAGE_VERSION = "v1.0.0"  # read by every client since June 2024; DuckDB 2.0's own format is refused by 1.x clients

Columns = Mapping[str, str]
"""Names and SQL types, in order."""

DOCUMENTS: Columns = {
    "id": "VARCHAR", "dataset": "VARCHAR", "origin": "VARCHAR", "language": "VARCHAR", "chars": "BIGINT",
    "tokens": "BIGINT", "bucket": "VARCHAR", "kept": "BOOLEAN", "score": "FLOAT", "step": "VARCHAR",
    "reason": "VARCHAR", "token_shard": "VARCHAR", "row": "BIGINT",
}  # fmt: skip
DROPS: Columns = {
    "id": "VARCHAR", "dataset": "VARCHAR", "step": "VARCHAR", "reason": "VARCHAR", "chars": "BIGINT",
    "origin": "VARCHAR", "language": "VARCHAR", "text": "VARCHAR", "keeper_id": "VARCHAR", "cluster_id": "VARCHAR",
    "cluster_size": "BIGINT", "method": "VARCHAR", "similarity": "FLOAT",
}  # fmt: skip
ACCOUNTS: Columns = {
    "dataset": "VARCHAR", "step": "VARCHAR", "kind": "VARCHAR", "part": "BIGINT", "rows_in": "BIGINT",
    "rows_out": "BIGINT", "rows_dropped": "BIGINT", "seconds": "DOUBLE", "folder": "VARCHAR", "part_name": "VARCHAR",
}  # fmt: skip
SUPPLY: Columns = {
    "dataset": "VARCHAR",
    "bucket": "VARCHAR",
    "path": "VARCHAR",
    "documents": "BIGINT",
    "tokens": "BIGINT",
}
EPOCHS: Columns = {
    "phase": "VARCHAR", "dataset": "VARCHAR", "bucket": "VARCHAR", "epoch_weight": "DOUBLE",
    "tokens_available": "BIGINT", "tokens_planned": "BIGINT", "phase_index": "INTEGER",
    "sequence_length": "BIGINT", "packing": "VARCHAR", "total_epochs": "DOUBLE", "value": "DOUBLE",
}  # fmt: skip
LEDGER: Columns = {
    "phase": "VARCHAR", "dataset": "VARCHAR", "bucket": "VARCHAR", "epoch_weight": "DOUBLE",
    "tokens_planned": "BIGINT", "tokens_written": "BIGINT", "tokens_delivered": "BIGINT",
    "delivered_by": "VARCHAR", "epochs_written": "DOUBLE", "phase_index": "INTEGER",
}  # fmt: skip
SHARDS: Columns = {
    "phase": "VARCHAR", "dataset": "VARCHAR", "bucket": "VARCHAR", "slice": "VARCHAR", "path": "VARCHAR",
    "format": "VARCHAR", "sequences": "BIGINT", "tokens": "BIGINT", "bytes": "BIGINT", "checksum": "VARCHAR",
    "reads": "INTEGER", "document_tokens": "BIGINT", "documents": "BIGINT", "sequence_length": "BIGINT",
    "packing": "VARCHAR", "phase_index": "INTEGER",
}  # fmt: skip
SLICES: Columns = {
    "phase": "VARCHAR", "dataset": "VARCHAR", "bucket": "VARCHAR", "slice": "VARCHAR", "reads": "INTEGER",
    "packing": "VARCHAR", "sequence_length": "BIGINT", "sequences": "BIGINT", "tokens_planned": "BIGINT",
    "tokens": "BIGINT", "documents": "BIGINT", "phase_index": "INTEGER",
    "pieces": "STRUCT(path VARCHAR, first_row BIGINT, end_row BIGINT, documents BIGINT, tokens BIGINT)[]",
    "digest": "VARCHAR",
}  # fmt: skip

_STAGES = (
    "STRUCT(dataset VARCHAR, step VARCHAR, kind VARCHAR, rows_in BIGINT, rows_out BIGINT, rows_dropped BIGINT, "
    "seconds DOUBLE)[]"
)


# ---------------------------------------------------------------------------------------------------- columns


def shaped(wanted: Columns, source: str, there: Columns, given: Mapping[str, str] | None = None) -> str:
    """`source` as exactly the columns `wanted`: those in `given` by its SQL, the others by name, absent ones null."""
    expressions = given or {}
    chosen = [
        f"CAST({expressions.get(name) or (_name(name) if name in there else 'NULL')} AS {kind}) AS {_name(name)}"
        for name, kind in wanted.items()
    ]
    return f"SELECT {', '.join(chosen)} FROM {source}"


def empty(wanted: Columns) -> str:
    """No rows of these columns."""
    return f"SELECT {', '.join(f'CAST(NULL AS {kind}) AS {_name(name)}' for name, kind in wanted.items())} WHERE false"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


# ---------------------------------------------------------------------------------------------------- views


@dataclass
class Views:
    """The SQL of every view of one run. `con` reads footers of Parquet files: one per scan."""

    run: Run
    con: duckdb.DuckDBPyConnection

    def all(self) -> dict[str, str]:
        """By name, each after those that it reads."""
        return {
            "drops": self.drops(),
            "documents": self.documents(),
            "accounts": self.accounts(),
            "buckets": BUCKETS,
            "duplicates": DUPLICATES,
            "token_shards": self.table("curriculum/supply.parquet", SUPPLY, {"path": self._absolute("path")}),
            "supply": "SELECT dataset, bucket, CAST(sum(documents) AS BIGINT) AS documents, "
            "CAST(sum(tokens) AS BIGINT) AS tokens, count(*) AS shards FROM token_shards GROUP BY ALL ORDER BY ALL",
            "epochs": self.table("curriculum/solution.parquet", EPOCHS),
            "slices": self.table("curriculum/slices.parquet", SLICES),
            "shards": self.table("curriculum/shards_written.parquet", SHARDS, {"path": self._absolute("path")}),
            "ledger": self.ledger(),
        }

    def _absolute(self, column: str) -> str:
        return f"{quoted(self.run.root + '/')} || {column}"

    def _within(self, column: str) -> str:
        """SQL: the path within the run of the absolute one in `column`."""
        return f"substr({column}, {len(self.run.root) + 2})"

    def drops(self) -> str:
        """All drops in one scan: every file has the same columns, and its folder names the dataset."""
        files = [path for step in self.run.steps for path in self.run.files[step.key].drops]
        if not files:
            return empty(DROPS)
        ids = {name: hex_id(name) for name in ("id", "keeper_id", "cluster_id")}
        dataset = f"split_part({self._within('filename')}, '/', 2)"
        return shaped(DROPS, parquet(files, filename=True), columns_of(self.con, files), {**ids, "dataset": dataset, "step": "stage"})  # fmt: skip

    def documents(self) -> str:
        """Kept documents of every dataset, then the dropped ones."""
        kept = [sql for dataset in self.run.datasets if (sql := self.kept(dataset))]
        return " UNION ALL ".join([*kept, shaped(DOCUMENTS, "drops", DROPS, {"kept": "false"})])

    def kept(self, dataset: str) -> str | None:
        """From the index of its token shards, once that is complete; else from its rows, which know no tokens."""
        index = self.run.index(dataset)
        if index is not None and self.run.files[index.key].done:
            given = {"chars": "num_chars", "tokens": "num_tokens", "token_shard": self._absolute("path")}
            return self._kept(dataset, index, given)
        rows = self.run.final_rows(dataset)
        return self._kept(dataset, rows, {"chars": "length(text)", "tokens": "NULL"}) if rows is not None else None

    def _kept(self, dataset: str, step: RunStep, given: Mapping[str, str]) -> str | None:
        files = self.run.files[step.key].outputs
        if not files:
            return None
        there = columns_of(self.con, files)
        known = {name: sql for name, sql in given.items() if name != "chars" or "text" in there or "num_chars" in there}
        fixed = {"id": hex_id("id"), "dataset": quoted(dataset), "kept": "true", "step": "NULL", "reason": "NULL"}
        return shaped(DOCUMENTS, parquet(files), there, {**known, **fixed})

    def accounts(self) -> str:
        """One row per part file and stage."""
        files = [path for step in self.run.steps for path in self.run.files[step.key].accounts]
        if not files:
            return empty(ACCOUNTS)
        paths = ", ".join(map(quoted, files))
        read = (
            f"SELECT part, name AS part_name, unnest(stages) AS one, "
            f"regexp_replace({self._within('filename')}, '/account/[^/]*$', '') AS folder "
            f"FROM read_json([{paths}], format = 'unstructured', filename = true, "
            f"columns = {{part: 'BIGINT', name: 'VARCHAR', stages: '{_STAGES}'}})"
        )
        return (
            "SELECT one.dataset, one.step, one.kind, part, one.rows_in, one.rows_out, one.rows_dropped, one.seconds, "
            f"folder, part_name FROM ({read})"
        )

    def table(self, publish: str, wanted: Columns, given: Mapping[str, str] | None = None) -> str:
        """A table of the curriculum."""
        path = self.run.table(publish)
        return shaped(wanted, parquet([path]), columns_of(self.con, [path]), given) if path else empty(wanted)

    def ledger(self) -> str:
        """The ledger in force, with what `verify` counted where that was for the same written tokens.

        `verify` rewrites the published copy only, which may be left from a run with other settings.
        """
        published = "curriculum/ledger.parquet"
        ledger = self.table(published, LEDGER)
        if self.run.table(published) is None or not self.run.exists(published):
            return ledger
        path = self.run.url(published)
        verified = shaped(LEDGER, parquet([path]), columns_of(self.con, [path]))
        return (
            f"SELECT l.* EXCLUDE (number) REPLACE (coalesce(v.tokens_delivered, l.tokens_delivered) AS tokens_delivered, "
            f"coalesce(v.delivered_by, l.delivered_by) AS delivered_by) FROM (SELECT *, row_number() OVER () AS number FROM ({ledger})) l LEFT JOIN ({verified}) v "
            "ON l.phase = v.phase AND l.dataset = v.dataset AND l.bucket = v.bucket "
            "AND l.tokens_planned = v.tokens_planned AND l.tokens_written = v.tokens_written "
            "ORDER BY l.number"
        )


BUCKETS = """SELECT dataset, language, bucket, count(*) AS documents, CAST(sum(tokens) AS BIGINT) AS tokens,
    min(score) AS score_min, avg(score) AS score_mean, max(score) AS score_max, CAST(sum(chars) AS BIGINT) AS chars
    FROM documents WHERE kept GROUP BY dataset, language, bucket ORDER BY ALL"""

DUPLICATES = """SELECT id, keeper_id, cluster_id, cluster_size, method, similarity, dataset, step
    FROM drops WHERE keeper_id IS NOT NULL"""


# ---------------------------------------------------------------------------------------------------- writing


def write_catalog(run: str) -> str:
    """Make RUN/catalog.duckdb for what the run holds now; returns its path or URL. Atomic: readers see old or new."""
    files = Run(run)
    with tempfile.TemporaryDirectory() as scratch:
        folder = files.root if files.local else scratch
        temporary = os.path.join(folder, f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{CATALOG}")
        try:
            _build(files, temporary)
            if files.local:
                os.replace(temporary, files.url(CATALOG))
            else:
                files.fs.put_file(temporary, files.url(CATALOG))
        finally:
            for leftover in (temporary, f"{temporary}.wal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(leftover)
    return files.url(CATALOG)


def _build(run: Run, path: str) -> None:
    kind = "VIEW" if run.local else "TABLE"
    with run.database() as con:
        con.execute(f"ATTACH {quoted(path)} AS catalog (STORAGE_VERSION '{STORAGE_VERSION}')")
        con.execute("USE catalog")
        for name, sql in Views(run, con).all().items():
            con.execute(f"CREATE {kind} {name} AS {sql}")
        con.register("steps_now", _steps(run))
        con.execute("CREATE TABLE steps AS SELECT * FROM steps_now")
        con.execute(f"CREATE TABLE run AS SELECT {quoted(run.root)} AS root, {int(run.plan.get('seed', 0))} AS seed")
        con.execute("USE memory")
        con.execute("DETACH catalog")


def _steps(run: Run) -> pa.Table:
    """The folders in force and how far each is, as of the writing of the catalog."""
    rows = []
    for number, step in enumerate(run.steps):
        files = run.files[step.key]
        rows.append(
            {
                "number": number, "dataset": step.dataset, "step": step.label, "kind": step.kind, "done": files.done,
                "parts": files.parts, "rows": files.rows, "seconds": files.seconds, "folder": run.url(step.folder),
                "stages": list(step.nodes),
            }
        )  # fmt: skip
    schema = pa.schema(
        [
            ("number", pa.int32()), ("dataset", pa.string()), ("step", pa.string()), ("kind", pa.string()),
            ("done", pa.bool_()), ("parts", pa.int64()), ("rows", pa.int64()), ("seconds", pa.float64()),
            ("folder", pa.string()), ("stages", pa.list_(pa.string())),
        ]
    )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


# ---------------------------------------------------------------------------------------------------- reading


def connect(run: str) -> duckdb.DuckDBPyConnection:
    """The catalog, read-only. It is written first where it is missing, older than the plan, or the folder has moved."""
    files = Run(run)
    if not files.local:
        return _downloaded(files)
    path = files.url(CATALOG)
    if _outdated(files, path):
        write_catalog(run)
    con = duckdb.connect(path, read_only=True)
    if _root(con) != files.root:
        con.close()
        write_catalog(run)
        con = duckdb.connect(path, read_only=True)
    return con


def _outdated(run: Run, path: str) -> bool:
    """Whether a step finished, or the plan changed, after the catalog was written."""
    if not os.path.exists(path):
        return True
    written = os.path.getmtime(path)
    paths = [run.url("plan.json"), *(run.url(f"{step.folder}/manifest.json") for step in run.steps)]
    return any(os.path.exists(one) and os.path.getmtime(one) > written for one in paths)


def _root(con: duckdb.DuckDBPyConnection) -> str:
    found = first_row(con, "SELECT root FROM run")
    return str(found[0]) if found else ""


def _downloaded(run: Run) -> duckdb.DuckDBPyConnection:
    with tempfile.TemporaryDirectory() as scratch:  # DuckDB keeps the file open; its name may go
        path = os.path.join(scratch, CATALOG)
        if run.exists(CATALOG):
            run.fs.get_file(run.url(CATALOG), path)
            con = duckdb.connect(path, read_only=True)
            if _root(con) == run.root and _progress(con) == [
                (s.key, s.folder, run.files[s.key].done) for s in run.steps
            ]:
                return con
            con.close()
            os.unlink(path)
        write_catalog(run.root)
        run.fs.get_file(run.url(CATALOG), path)
        return duckdb.connect(path, read_only=True)


def _progress(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str, bool]]:
    """(key, folder, done) of every step when the catalog was written."""
    root = _root(con)
    rows = con.execute("SELECT dataset || '/' || step, folder, done FROM steps ORDER BY number").fetchall()
    return [(key, folder.removeprefix(f"{root}/"), done) for key, folder, done in rows]
