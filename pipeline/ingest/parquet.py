"""Parquet files with any column names, read row group by row group and only the columns that are mapped.

A file that is not Parquet, or whose pages are damaged, is a counted drop that names file and row group; the other row groups
are still read. A file is one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipeline.ingest.mapped import MappedSource
from pipeline.ingest.paths import Defect, open_file
from pipeline.stage import InputFile, Unreadable


class Parquet(MappedSource):
    """One document per row (`kind: parquet`).

    Memory: one batch plus `batch_rows` rows plus one column chunk. Ids as in `jsonl`, the record number counting rows of the
    file from 0. Format: Apache Parquet.
    """

    kind = "parquet"

    batch_rows: int = Field(default=1024, gt=0)
    """Rows decoded at once."""

    def rows_of(self, file: InputFile, name: str) -> Iterator[Mapping[str, Any] | Unreadable]:
        """One row per row."""
        with open_file(file) as stream:
            try:
                table = pq.ParquetFile(stream)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                msg = "not a Parquet file"
                raise Defect(msg) from error
            wanted = self._wanted(table.schema_arrow)
            number = 0
            for group in range(table.num_row_groups):
                end = number + table.metadata.row_group(group).num_rows
                try:
                    for batch in table.iter_batches(self.batch_rows, row_groups=[group], columns=wanted):
                        for record in batch.to_pylist():
                            yield self._row(record, name, number)
                            number += 1
                except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                    if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
                        raise  # the disk or the network, not the data
                    yield Unreadable(f"{name}#{number}", f"unreadable: damaged row group {group}, {end - number} rows")
                number = end

    def _wanted(self, schema: pa.Schema) -> list[str]:
        """Columns of the file that the settings name, whole or down to a nested field."""
        named = {*self.columns.values(), *self.extra}
        top = {name if name in schema.names else name.split(".")[0] for name in named}
        missing = sorted(top - set(schema.names))
        if missing:
            msg = f"no column '{missing[0]}' (columns are {', '.join(schema.names)[:200]})"
            raise Defect(msg)
        return sorted(top)

    def _row(self, record: Mapping[str, Any], name: str, number: int) -> Mapping[str, Any] | Unreadable:
        try:
            return self.row(record, (name, str(number)))
        except Defect as defect:
            return Unreadable(f"{name}#{number}", f"unreadable: {defect}")
