"""Parts on disk: rows as Parquet, one row group per batch, so that reading never holds more than a batch.

Small columns are dictionary-encoded, text is not. Intermediate rows use lz4 (written once, read once or twice), a
dataset's rows zstd (they stay). Row groups depend on the rows alone, never on the batches that brought them; a row beyond
ROW_GROUP_BYTES is a row group of its own, up to Parquet's 2 GiB a value.
Memory: two row groups of about ROW_GROUP_BYTES and one incoming batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.sizes import cumulated, last_fitting, row_bytes
from pipeline.engine.storage import Storage, Transaction

ROW_GROUP_BYTES = 16 << 20
ROW_GROUP_ROWS = 16384
LARGE_BYTES = 4 * ROW_GROUP_BYTES
"""A row group beyond this was one huge row: its memory goes back at once, the allocator would keep it."""
Compression = Literal["lz4", "zstd"]


def _small_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type)]


class PartWriter:
    """Writes batches of one schema to one Parquet file, gathered into row groups of about ROW_GROUP_BYTES."""

    def __init__(self, files: Transaction, path: str, schema: pa.Schema, compression: Compression) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(
            files.create(path),
            schema,
            compression=compression,
            compression_level=1 if compression == "zstd" else None,
            use_dictionary=_small_columns(schema),
            write_statistics=[name for name in ("id",) if name in schema.names],
        )
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = self._rows = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; written out once a row group is full."""
        cumulative, total, at = cumulated(row_bytes(batch)), batch.num_rows, 0
        self.rows += total
        while at < total:
            fits = last_fitting(cumulative, at, ROW_GROUP_BYTES - self._bytes)
            end = min(max(fits, at), at + ROW_GROUP_ROWS - self._rows, total)
            if not self._waiting:
                end = max(end, at + 1)
            if end > at:
                self._waiting.append(batch.slice(at, end - at))
                self._bytes += int(cumulative[end] - cumulative[at])
                self._rows += end - at
            if end < total:
                self._flush()
            at = end

    def _flush(self) -> None:
        if self._waiting:
            batches, self._waiting = self._waiting, []
            rows = pa.concat_batches(batches) if len(batches) > 1 else batches[0]
            batches.clear()
            self._writer.write_batch(rows, row_group_size=rows.num_rows)
            large = rows.nbytes > LARGE_BYTES
            del rows
            if large:
                pa.default_memory_pool().release_unused()
        self._bytes = self._rows = 0

    def close(self) -> None:
        """Write the rest and the footer; the file appears when its transaction commits."""
        self._flush()
        self._writer.close()


def read_batches(storage: Storage, path: str, schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """One batch per row group. With `schema`, its columns in its order; a missing one is null."""
    # not mapped on a disk: the pages of a whole part would count as this process's memory
    with pa.OSFile(storage.url(path)) if storage.local else storage.open(path) as file:
        parquet = pq.ParquetFile(file)
        columns = None if schema is None else [name for name in schema.names if name in parquet.schema_arrow.names]
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=columns, use_threads=False)
            large = table.nbytes > LARGE_BYTES
            batch = one_batch(table if schema is None else fitted(table, schema))
            del table
            yield batch
            del batch
            if large:
                pa.default_memory_pool().release_unused()


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """The table as a single batch (its columns made contiguous)."""
    batches = table.combine_chunks().to_batches()
    return (
        batches[0]
        if batches
        else pa.RecordBatch.from_arrays([pa.array([], f.type) for f in table.schema], schema=table.schema)
    )


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns of `schema`; absent ones are null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def read_table(storage: Storage, path: str) -> pa.Table:
    """A small table, whole."""
    with storage.open(path) as file:
        return pq.read_table(file, use_threads=False)


def write_table(files: Transaction, path: str, table: pa.Table) -> None:
    """A small table, whole."""
    pq.write_table(table, files.create(path), compression="zstd", write_statistics=False)
