"""The ledger: one row per planned bucket, one format counted, nothing lost in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from pipeline.curriculum.ledger import LEDGER, Ledger, with_delivered
from pipeline.curriculum.solver import SOLUTION


def planned(*rows: tuple[str, str, str, int, int]) -> pa.Table:
    """(phase, dataset, bucket, tokens_available, tokens_planned)"""
    phases = list(dict.fromkeys(row[0] for row in rows))
    return pa.Table.from_pylist(
        [
            {
                "phase": p,
                "phase_index": phases.index(p),
                "dataset": d,
                "bucket": b,
                "epoch_weight": n / u,
                "tokens_available": u,
                "tokens_planned": n,
            }
            for p, d, b, u, n in rows
        ],
        schema=SOLUTION,
    )


def shard(
    phase: str, dataset: str, bucket: str, kind: str, tokens: int, reads: int = 1, padding: int = 0
) -> dict[str, Any]:
    return {"phase": phase, "dataset": dataset, "bucket": bucket, "format": kind, "tokens": tokens, "document_tokens": tokens - padding, "reads": reads,
            "phase_index": 0, "slice": "0.0000-1.0000", "path": "x", "sequences": 1, "documents": 1, "sequence_length": 64, "packing": "concatenate",
            "bytes": 1, "checksum": "0"}  # fmt: skip


SHARDS = pa.schema([*Ledger().needs(), pa.field("slice", pa.string()), pa.field("path", pa.string())])
PLAN = planned(("a", "web", "low", 500, 0), ("a", "web", "high", 1000, 1900), ("b", "web", "high", 1000, 128))
WRITTEN = [
    shard("a", "web", "high", "megatron", 900, reads=2),
    shard("a", "web", "high", "arrow", 900, reads=2),
    shard("a", "web", "high", "megatron", 101),
    shard("a", "web", "high", "arrow", 101),
    shard("b", "web", "high", "megatron", 128, padding=28),
    shard("b", "web", "high", "arrow", 128, padding=28),
]


def batches(rows: list[dict[str, Any]], size: int = 100) -> Iterator[pa.RecordBatch]:
    whole = pa.RecordBatch.from_pylist(rows, schema=SHARDS)
    for at in range(0, max(len(rows), 1), size):
        yield whole.slice(at, size)


def folded(*parts: list[dict[str, Any]], size: int = 100) -> pa.Table:
    stage = Ledger().bound(tables={"solution": PLAN})
    return stage.fold(iter([stage.summary(batches(part, size), "web") for part in parts]))


def test_tokens_are_counted_once_per_read_and_in_one_format() -> None:
    table = folded(WRITTEN)
    assert table.schema == LEDGER
    rows = table.to_pylist()
    assert [(r["phase"], r["bucket"], r["tokens_planned"], r["tokens_written"], r["epochs_written"]) for r in rows] == [
        ("a", "low", 0, 0, 0.0),
        ("a", "high", 1900, 1901, 1.901),
        ("b", "high", 128, 128, 0.1),
    ]
    assert all(r["tokens_delivered"] is None and r["delivered_by"] is None for r in rows)
    assert rows[1]["epoch_weight"] == 1.9


def test_arrow_shards_count_where_no_megatron_files_were_asked_for() -> None:
    rows = folded([row for row in WRITTEN if row["format"] == "arrow"]).to_pylist()
    assert [r["tokens_written"] for r in rows] == [0, 1901, 128]


def test_a_slice_missing_from_megatron_is_not_made_up_from_arrow() -> None:
    rows = folded([row for row in WRITTEN if (row["phase"], row["format"]) != ("b", "megatron")]).to_pylist()
    assert [r["tokens_written"] for r in rows] == [0, 1901, 0]


def test_the_ledger_does_not_depend_on_parts_or_batches() -> None:
    expected = folded(WRITTEN)
    assert folded(WRITTEN[3:], [], WRITTEN[:3]).equals(expected)
    assert folded(WRITTEN, size=1).equals(expected)


def test_nothing_written_shows_as_0_in_every_row() -> None:
    assert [r["tokens_written"] for r in folded().to_pylist()] == [0, 0, 0]
    assert [r["epochs_written"] for r in folded([]).to_pylist()] == [0, 0, 0]


def test_shards_that_nobody_planned_are_an_error() -> None:
    with pytest.raises(
        ValueError,
        match="shards were written for phase 'c', dataset 'web', bucket 'high', which the solution does not plan",
    ):
        folded([*WRITTEN, shard("c", "web", "high", "megatron", 5)])


def test_delivered_tokens_are_filled_in_with_who_counted_them() -> None:
    before = folded(WRITTEN)
    after = with_delivered(before, {("a", "web", "high"): 1901, ("b", "web", "high"): 127}, "megatron-core")
    assert after.schema == LEDGER
    assert after["tokens_delivered"].to_pylist() == [0, 1901, 127]
    assert after["delivered_by"].to_pylist() == ["megatron-core"] * 3
    assert after.drop_columns(["tokens_delivered", "delivered_by"]).equals(
        before.drop_columns(["tokens_delivered", "delivered_by"])
    )
    assert with_delivered(after, {}, "tokenmill")["tokens_delivered"].to_pylist() == [0, 0, 0]


def test_delivered_tokens_that_nobody_planned_are_an_error() -> None:
    with pytest.raises(
        ValueError, match="tokens were delivered for phase 'a', dataset 'code', bucket 'all' and 1 more"
    ):
        with_delivered(folded(WRITTEN), {("a", "code", "all"): 1, ("b", "code", "all"): 1}, "tokenmill")
