"""Gathers the rows of all parts of a small step into one table: the list of shards that the phases were written to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pyarrow as pa

from pipeline.stage import Fold


class Collect(Fold):
    """All rows, in part order. Memory: the rows; meant for rows that describe files, a few hundred per phase."""

    kind: ClassVar[str] = "collect"

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        """The rows of one part."""
        rows = list(batches)
        if not rows:
            return pa.RecordBatch.from_pylist([], schema=pa.schema([]))
        return pa.Table.from_batches(rows).combine_chunks().to_batches()[0]

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        """The rows of all parts."""
        rows = [batch for batch in summaries if batch.num_rows]
        return pa.Table.from_batches(rows) if rows else pa.table({})
