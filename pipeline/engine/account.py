"""The account: where every row went, per stage and part. It balances, or the task fails.

A part's account is one small JSON file, written last: it is what makes the part done (its files and their checksums
are listed in it).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.storage import WrittenFile
from pipeline.schema import DROPS, EVIDENCE
from pipeline.stage import random_keys, uniforms

SAMPLE_SHARE = 0.02
SAMPLE_CHARS = 2000


@dataclass
class StageCount:
    """Rows of one stage in one part. For a source `rows_in` counts the records met; for an expand `rows_dropped` counts
    childless parents, and `rows_out` children."""

    dataset: str
    step: str
    kind: str
    rows_in: int = 0
    rows_out: int = 0
    rows_dropped: int = 0
    seconds: float = 0.0
    rows_failed: int = 0
    """Of the dropped ones, those on which the stage failed (`on_error: drop`)."""

    def check(self) -> None:
        """Raise when rows went missing."""
        if self.kind not in ("expand", "fold") and self.rows_in != self.rows_out + self.rows_dropped:
            msg = (
                f"dataset '{self.dataset}', step '{self.step}': {self.rows_in} rows in, but {self.rows_out} out and "
                f"{self.rows_dropped} dropped: {self.rows_in - self.rows_out - self.rows_dropped} unaccounted for"
            )
            raise AssertionError(msg)


@dataclass
class PartAccount:
    """One part's account."""

    part: int
    name: str
    rows: int
    """Rows in the part's own output."""
    stages: list[StageCount] = field(default_factory=list)
    files: list[WrittenFile] = field(default_factory=list)
    seconds: float = 0.0
    bytes_in: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Drops by `step: reason`, for the summary; the drops themselves are in drops/."""

    def encoded(self) -> bytes:
        """As JSON on one line: a run has one such file per part."""
        lists = {"stages": [vars(one) for one in self.stages], "files": [vars(one) for one in self.files]}
        return json.dumps(vars(self) | lists).encode() + b"\n"

    @staticmethod
    def from_json(value: dict[str, Any]) -> PartAccount:
        known = dict(value)
        known["stages"] = [StageCount(**one) for one in value["stages"]]
        known["files"] = [WrittenFile(**one) for one in value["files"]]
        return PartAccount(**known)


def drop_rows(
    docs: pa.RecordBatch, stage: str, reasons: pa.Array, evidence: tuple[str, ...], seed: int
) -> pa.RecordBatch:
    """Rows of schema.DROPS for the documents (all of `docs`) that `stage` dropped, with text for a seeded sample."""
    columns: dict[str, pa.Array] = {"id": docs["id"], "reason": reasons}
    columns["stage"] = pa.repeat(pa.scalar(stage), docs.num_rows)
    columns["chars"] = _chars(docs)
    for name in ("origin", "language"):
        if name in docs.schema.names:
            columns[name] = docs[name]
    if "text" in docs.schema.names:
        sampled = pa.array(uniforms(random_keys(docs["id"], seed, "drop sample")) < SAMPLE_SHARE)
        columns["text"] = pc.if_else(sampled, pc.utf8_slice_codeunits(docs["text"], 0, SAMPLE_CHARS), None)
    allowed = {f.name for f in EVIDENCE}
    for name in evidence:
        if name not in allowed:
            msg = f"stage '{stage}': evidence may be {sorted(allowed)}, not {name!r}"
            raise ValueError(msg)
        columns[name] = docs[name]
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(docs.num_rows, f.type) for f in DROPS]
    return pa.RecordBatch.from_arrays(arrays, schema=DROPS)


def _chars(docs: pa.RecordBatch) -> pa.Array:
    if "text" in docs.schema.names:
        return pc.utf8_length(docs["text"]).cast(pa.int64())
    if "html" in docs.schema.names:
        return pc.binary_length(docs["html"]).cast(pa.int64())
    return pa.nulls(docs.num_rows, pa.int64())
