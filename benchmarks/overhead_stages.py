"""Stages of `overhead.py`, in a module of their own: Ray's workers import them by name."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import ID, ORIGIN, TEXT, document_id, schema_of
from pipeline.stage import Filter, Source, SourcePart, Unreadable


class OneRow(Source):
    """One short document per part."""

    kind = "one_row"
    count: int

    def schema(self) -> pa.Schema:  # type: ignore[override]
        return schema_of([ID, ORIGIN, TEXT])

    def parts(self) -> list[SourcePart]:
        return [SourcePart(f"{number:05d}") for number in range(self.count)]

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        row = {"id": document_id(part.name), "origin": part.name, "text": f"document {part.name}"}
        yield pa.RecordBatch.from_pylist([row], schema=self.schema())


class NotEmpty(Filter):
    """Drops empty texts."""

    kind = "not_empty"

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        return pc.if_else(pc.equal(pc.binary_length(docs["text"]), 0), "empty", None)
