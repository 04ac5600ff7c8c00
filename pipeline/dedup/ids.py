"""Document ids as sorted columns of numbers: numbering them, and finding a batch's ids among millions.

An id is 16 bytes whose order is that of two big-endian 64-bit numbers. Sorting and searching look at the first only, which
numpy does an order of magnitude faster than comparing bytes; where two different ids share it (never, but for 1 in 2**64
pairs), the second decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.uint64]


def halves(ids: pa.Array) -> tuple[Numbers, Numbers]:
    """uint64[n] twice: the first and last eight bytes of each id (binary(16) without nulls)."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if ids.type != pa.binary(16) or ids.null_count:
        msg = f"ids are binary(16) without nulls, not {ids.type} with {ids.null_count} nulls"
        raise TypeError(msg)
    if len(ids) == 0:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    words = np.frombuffer(ids.buffers()[1], ">u8", count=2 * len(ids), offset=16 * ids.offset).reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


def order(high: Numbers, low: Numbers) -> npt.NDArray[np.int64]:
    """int64[n]: the rows in the order of their ids."""
    rows = np.argsort(high)
    ties = high[rows][1:] == high[rows][:-1]
    if np.any(low[rows][1:][ties] < low[rows][:-1][ties]):
        return np.lexsort((low, high))
    return rows


def numbered(ids: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The distinct ids in order, and for each row of `ids` its place among them."""
    high, low = halves(ids)
    rows = order(high, low)
    sorted_high, sorted_low = high[rows], low[rows]
    fresh = np.ones(len(rows), np.bool_)
    fresh[1:] = (sorted_high[1:] != sorted_high[:-1]) | (sorted_low[1:] != sorted_low[:-1])
    places = np.empty(len(rows), np.int64)
    places[rows] = np.cumsum(fresh) - 1
    return ids.take(pa.array(rows[fresh])), places


@dataclass(frozen=True)
class Index:
    """A sorted column of distinct ids, for looking up batches of them. Memory: 16 bytes per id."""

    high: Numbers
    low: Numbers

    @classmethod
    def of(cls, ids: pa.Array) -> Index:
        """`ids` must be ascending and distinct."""
        high, low = halves(ids)
        unsorted = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] <= low[:-1]))
        if np.any(unsorted):
            msg = f"ids to look up among must be ascending and distinct; row {int(np.argmax(unsorted)) + 1} is not"
            raise ValueError(msg)
        return cls(high, low)

    def find(self, ids: pa.Array) -> npt.NDArray[np.int64]:
        """int64[n]: the place of each id, or -1 where it is not there."""
        high, low = halves(ids)
        places = np.searchsorted(self.high, high)
        if len(self.high) == 0:
            return np.full(len(high), -1, np.int64)
        while True:  # one turn, but for ids that share their first half
            here = np.minimum(places, len(self.high) - 1)
            behind = (places < len(self.high)) & (self.high[here] == high) & (self.low[here] < low)
            if not np.any(behind):
                break
            places = places + behind
        found = (places < len(self.high)) & (self.high[here] == high) & (self.low[here] == low)
        return np.where(found, places, -1)
