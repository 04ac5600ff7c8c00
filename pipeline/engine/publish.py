"""Small tables in plain sight: `curriculum/ledger.parquet` is a copy of its fold's table, which lies in the step's folder.

A copy says in its schema's metadata which step folder it came from. So a run that goes back to earlier settings, and
reuses the fold without running it, brings the right copies back, while one that `verify` has filled in is left alone.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.engine.parts import read_table, write_table
from pipeline.engine.plan import Plan
from pipeline.engine.storage import Storage
from pipeline.engine.task import table_path

_FOLDER = b"tokenmill.step"


def publish_tables(plan: Plan, storage: Storage) -> None:
    """Bring every published table up to date with the plan's steps."""
    for step in plan.steps:
        if step.publish is None or _origin(storage, step.publish) == step.folder:
            continue
        table = read_table(storage, table_path(step.folder))
        marked = table.replace_schema_metadata({**(table.schema.metadata or {}), _FOLDER: step.folder.encode()})
        republish(storage, step.publish, marked)


def republish(storage: Storage, path: str, table: pa.Table) -> None:
    """Replace a published table; keep its metadata to keep its origin."""
    with storage.transaction() as files:
        write_table(files, path, table)
        files.commit()


def _origin(storage: Storage, path: str) -> str | None:
    if not storage.exists(path):
        return None
    metadata = read_table(storage, path).schema.metadata or {}
    return metadata.get(_FOLDER, b"").decode() or None
