"""A random sample of documents that does not depend on how they are cut into parts: the k lowest random keys.

Each part keeps its k lowest, and the k lowest of all parts are among those. Memory: at most 2k texts of bounded length.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.kernels import spans
from pipeline.schema import ID, TEXT, field
from pipeline.stage import random_keys

KEY = field("key", pa.uint64(), "hash of (seed, id): lowest are sampled")
POSITIVE_SIDE = field("positive", pa.bool_(), "which side the document teaches")
SAMPLE = pa.schema([POSITIVE_SIDE, KEY, ID, TEXT])


def lowest(rows: pa.Table, count: int) -> pa.Table:
    """The `count` rows with the lowest (key, id), in that order; a document that comes twice counts once."""
    ordered = rows.sort_by([(KEY.name, "ascending"), (ID.name, "ascending")]).combine_chunks()
    if ordered.num_rows > 1:
        ids = ordered[ID.name]
        repeated = pc.equal(ids.slice(1), ids.slice(0, len(ids) - 1))
        ordered = ordered.filter(pa.chunked_array([pa.array([True]), *pc.invert(repeated).chunks]))
    return ordered.slice(0, count)


class LowestKeys:
    """Gathers the sample of one part, batch by batch."""

    def __init__(self, count: int, max_chars: int, seed: int, purpose: str, positive: bool) -> None:
        self.count, self.max_chars, self.seed, self.purpose, self.positive = count, max_chars, seed, purpose, positive
        self._kept = SAMPLE.empty_table()
        self._bound = np.uint64(np.iinfo(np.uint64).max)

    def add(self, docs: pa.RecordBatch) -> None:
        """Consider the documents of a batch; null and blank texts are left out."""
        keys = random_keys(docs[ID.name], self.seed, self.purpose)
        low = np.flatnonzero(keys <= self._bound)
        texts = docs[TEXT.name].take(pa.array(low))
        texts = spans.first_chars(texts.cast(pa.large_string()), self.max_chars)
        sides = pa.array(np.full(len(low), self.positive))
        arrays = [sides, pa.array(keys[low]), docs[ID.name].take(pa.array(low)), texts]
        found = pa.RecordBatch.from_arrays(arrays, schema=SAMPLE)
        shown = pc.fill_null(pc.match_substring_regex(texts, r"\S"), False)
        self._kept = pa.concat_tables([self._kept, pa.Table.from_batches([found.filter(shown)])])
        if self._kept.num_rows >= 2 * self.count:
            self._shrink()

    def _shrink(self) -> None:
        self._kept = lowest(self._kept, self.count)
        if self._kept.num_rows == self.count:
            self._bound = np.uint64(self._kept[KEY.name][-1].as_py())

    def sample(self) -> pa.Table:
        """The sample so far, lowest key first."""
        self._shrink()
        return self._kept
