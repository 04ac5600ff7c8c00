"""Keep documents whose number in one column lies within bounds."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.schema import (
    CLUSTER_SIZE,
    GROUP_SIZE,
    LANGUAGE_CONFIDENCE,
    NUM_CHARS,
    NUM_TOKENS,
    QUALITY_RANK,
    SIMILARITY,
    field,
)
from pipeline.stage import Filter

_NUMERIC = {
    one.name: one
    for one in (CLUSTER_SIZE, GROUP_SIZE, LANGUAGE_CONFIDENCE, NUM_CHARS, NUM_TOKENS, QUALITY_RANK, SIMILARITY)
}


def numeric_field(column: str) -> pa.Field:
    """The column as the schema declares it; a name that the schema does not know is taken as a score, float32."""
    return _NUMERIC.get(column) or field(column, pa.float32(), "a number to compare")


class Threshold(Filter):
    """Keeps rows with `min` <= column <= `max`; `missing` says what happens to rows without a number.

    Bounds of a float32 column are compared as float32, so that a bound written as it was printed means that very
    value. Memory: one column. Example: DCLM keeps scores from 0.018112 (recipe of arXiv:2406.11794).
    """

    kind: ClassVar[str] = "threshold"

    column: str = Field(min_length=1)
    min: float | None = None
    max: float | None = None
    missing: Literal["keep", "drop"] = "keep"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min is None and self.max is None:
            msg = "threshold needs min, max or both"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = f"threshold: min {self.min} is above max {self.max}, nothing could pass"
            raise ValueError(msg)
        return self

    def needs(self) -> tuple[pa.Field, ...]:
        return (numeric_field(self.column),)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        column = docs[self.column]
        kind = np.float32 if column.type == pa.float32() else np.float64
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(kind)
        code = np.full(len(values), -1)
        if self.min is not None:
            code[values < kind(self.min)] = 0
        if self.max is not None:
            code[values > kind(self.max)] = 1
        if self.missing == "drop":
            code[np.isnan(values)] = 2
        names = pa.array([f"{self.column}_{what}" for what in ("below", "above", "missing")], pa.string())
        return names.take(pa.array(code, pa.int64(), mask=code < 0))
