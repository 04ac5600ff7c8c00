"""Small tables in plain sight: `curriculum/ledger.parquet` is a copy of its fold's table, which lies in the step's folder.

A copy says in its schema's metadata which step folder it came from. So a run that goes back to earlier settings, and
reuses the fold without running it, brings the right copies back, while one that `verify` has filled in is left alone.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.parts import read_table, write_table
from pipeline.engine.plan import Plan
from pipeline.engine.storage import Storage
from pipeline.engine.task import ORIGIN_KEY, marked, table_path


def publish_tables(plan: Plan, storage: Storage) -> None:
    """Bring every published table up to date with the plan's steps."""
    for step in plan.steps:
        if step.publish is None or _origin(storage, step.publish) == step.folder:
            continue
        table = read_table(storage, table_path(step.folder))
        republish(storage, step.publish, marked(table, step.folder))


def republish(storage: Storage, path: str, table: pa.Table) -> None:
    """Replace a published table; keep its metadata to keep its origin."""
    with storage.transaction() as files:
        write_table(files, path, table)
        files.commit()


def _origin(storage: Storage, path: str) -> str | None:
    if not storage.exists(path):
        return None
    with storage.open(path) as file:
        metadata = pq.read_schema(file).metadata or {}
    return metadata.get(ORIGIN_KEY, b"").decode() or None
