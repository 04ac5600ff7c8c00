"""The ledger: tokens planned, written and delivered, per phase, dataset and bucket.

One row for every row of the solution, whether or not anything was written for it: what is missing shows as 0, not as
an absent row. `tokens_delivered` stays null until `verify` has read the shards back, and says who did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import BUCKET, field
from pipeline.stage import Fold

PHASE = field("phase", pa.string(), "phase of the curriculum")
DATASET = field("dataset", pa.string(), "dataset that the phase mixes")
FORMAT = field("format", pa.string(), "megatron or arrow; every slice is written once in each format asked for")
TOKENS = field("tokens", pa.int64(), "tokens of the shard, padding included")
DOCUMENT_TOKENS = field("document_tokens", pa.int64(), "tokens of documents in the shard, padding not included")
READS = field("reads", pa.int32(), "times that the phase reads the shard")

LEDGER = pa.schema(
    [
        PHASE,
        field("phase_index", pa.int32(), "place of the phase, from 0"),
        DATASET,
        BUCKET,
        field("epoch_weight", pa.float64(), "times that the bucket's tokens should be seen in this phase"),
        field("tokens_planned", pa.int64(), "tokens that the phase should read of the bucket"),
        field("tokens_written", pa.int64(), "tokens of the written shards times their reads, padding included"),
        field("tokens_delivered", pa.int64(), "tokens that a trainer gets; null until verified"),
        field(
            "delivered_by", pa.string(), "who counted tokens_delivered: megatron-core or tokenmill; null until verified"
        ),
        field("epochs_written", pa.float64(), "document tokens written times reads, over the bucket's supply"),
    ]
)

_KEY = ("phase", "dataset", "bucket")
_SUMS = pa.schema([PHASE, DATASET, BUCKET, FORMAT, TOKENS, DOCUMENT_TOKENS])
Key = tuple[str, str, str]


def read_sums(shards: pa.Table) -> pa.Table:
    """Tokens and document tokens times reads, per phase, dataset, bucket and format."""
    reads = shards["reads"].cast(pa.int64())
    read = pa.table(
        [
            *(shards[name] for name in (*_KEY, "format")),
            pc.multiply_checked(shards["tokens"], reads),
            pc.multiply_checked(shards["document_tokens"], reads),
        ],
        names=_SUMS.names,
    )
    return summed(read)


def summed(table: pa.Table) -> pa.Table:
    """The sums over rows that share phase, dataset, bucket and format."""
    keys = [*_KEY, "format"]
    sums = table.group_by(keys, use_threads=False).aggregate([("tokens", "sum"), ("document_tokens", "sum")])
    sums = sums.select([*keys, "tokens_sum", "document_tokens_sum"]).rename_columns(_SUMS.names)
    return sums.cast(_SUMS).sort_by([(key, "ascending") for key in keys])


def ledger(sums: pa.Table, solution: pa.Table) -> pa.Table:
    """The ledger of one format: Megatron's where anything was written for it, else Arrow's, never a mixture."""
    formats = set(sums["format"].to_pylist())
    counted = "megatron" if "megatron" in formats else "arrow"
    written = {tuple(row[name] for name in _KEY): row for row in sums.to_pylist() if row["format"] == counted}
    planned = solution.to_pylist()
    _refuse_strangers("shards were written", written, {tuple(row[name] for name in _KEY) for row in planned})
    rows = []
    for row in planned:
        found = written.get(tuple(row[name] for name in _KEY), {"tokens": 0, "document_tokens": 0})
        rows.append(
            {
                **{name: row[name] for name in LEDGER.names if name in row},
                "tokens_written": found["tokens"],
                "epochs_written": found["document_tokens"] / row["tokens_available"],
            }
        )
    return pa.Table.from_pylist(rows, schema=LEDGER)


def with_delivered(ledger: pa.Table, delivered: Mapping[Key, int], by: str) -> pa.Table:
    """The ledger with what a trainer got, counted by `by`; rows that are not in `delivered` got nothing."""
    keys = [tuple(row[name] for name in _KEY) for row in ledger.select(_KEY).to_pylist()]
    _refuse_strangers("tokens were delivered", delivered, set(keys))
    columns = {
        "tokens_delivered": pa.array([delivered.get(key, 0) for key in keys], pa.int64()),
        "delivered_by": pa.array([by] * len(keys), pa.string()),
    }
    for name, column in columns.items():
        ledger = ledger.set_column(LEDGER.get_field_index(name), LEDGER.field(name), column)
    return ledger


def _refuse_strangers(what: str, found: Mapping[Key, object], known: set[Key]) -> None:
    strangers = sorted(set(found) - known)
    if strangers:
        phase, dataset, bucket = strangers[0]
        msg = (f"{what} for phase '{phase}', dataset '{dataset}', bucket '{bucket}'"
               f"{f' and {len(strangers) - 1} more' if len(strangers) > 1 else ''}, which the solution does not plan")  # fmt: skip
        raise ValueError(msg)


class Ledger(Fold):
    """Planned and written tokens per phase, dataset and bucket, from the rows of `phase_shards` and the table `solution`.

    Memory: one row per phase, dataset, bucket and format of a part.
    """

    kind: ClassVar[str] = "ledger"

    def needs(self) -> tuple[pa.Field, ...]:
        return (PHASE, DATASET, BUCKET, FORMAT, TOKENS, DOCUMENT_TOKENS, READS)

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        sums = _SUMS.empty_table()
        for batch in batches:
            sums = summed(pa.concat_tables([sums, read_sums(pa.Table.from_batches([batch]))]))
        return sums.combine_chunks().to_batches()[0] if sums.num_rows else pa.RecordBatch.from_pylist([], schema=_SUMS)

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        return ledger(summed(pa.Table.from_batches(list(summaries), schema=_SUMS)), self.table("solution"))
