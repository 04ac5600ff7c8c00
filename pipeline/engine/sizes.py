"""How many bytes each row of a batch weighs, from its offsets alone, and where to cut so that pieces stay small.

Rows of a crawl differ by a factor of a million, so nothing in the engine is bounded by a number of rows alone.
Weighing touches no text: 4,096 rows of ten columns take about 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

ROW_BYTES = 32
"""What every row weighs beside its texts, binaries and lists: ids, numbers, validity."""


def row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """int64[n]: bytes of each row's texts, binaries and lists, plus ROW_BYTES."""
    positions = np.arange(batch.num_rows + 1, dtype=np.int64)
    total = np.full(batch.num_rows, ROW_BYTES, np.int64)
    for column in batch.columns:
        if not (pa.types.is_primitive(column.type) or pa.types.is_fixed_size_binary(column.type)):
            total += np.diff(_bytes_before(column, positions))
    return total


def _bytes_before(array: pa.Array, positions: np.ndarray) -> np.ndarray:
    """int64: bytes of the values before each of `positions` (0..len), counted from anywhere."""
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        return _bytes_before(array.values, (positions + array.offset) * kind.list_size)
    if pa.types.is_struct(kind):
        total = np.zeros(len(positions), np.int64)
        for number in range(kind.num_fields):
            total += _bytes_before(array.field(number), positions)
        return total
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return _offsets(array, positions, np.int64)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _offsets(array, positions, np.int32)
    if pa.types.is_large_list(kind):
        return _bytes_before(array.values, _offsets(array, positions, np.int64))
    if pa.types.is_list(kind):
        return _bytes_before(array.values, _offsets(array, positions, np.int32))
    if pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind):
        width = int(kind.bit_width)
        return positions * width // 8
    average = int(array.nbytes) // max(1, len(array))  # maps, unions, views: none is used today
    return positions * average


def _offsets(array: pa.Array, positions: np.ndarray, width: type[np.signedinteger]) -> np.ndarray:
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.zeros(len(positions), np.int64)
    offsets: np.ndarray = np.frombuffer(buffer, width)[positions + array.offset].astype(np.int64)
    return offsets


def cumulated(sizes: np.ndarray) -> np.ndarray:
    """int64[n + 1]: bytes before each row, and of all."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def last_fitting(cumulative: np.ndarray, at: int, max_bytes: int) -> int:
    """The end of the longest piece from row `at` that weighs at most `max_bytes`; `at` when not even one row fits."""
    return int(np.searchsorted(cumulative, cumulative[at] + max_bytes, side="right")) - 1


def pieces(sizes: np.ndarray, max_bytes: int, max_rows: int) -> Iterator[tuple[int, int]]:
    """(start, end) of pieces within both limits; a row beyond `max_bytes` is a piece of its own."""
    cumulative, at, total = cumulated(sizes), 0, len(sizes)
    while at < total:
        end = min(max(last_fitting(cumulative, at, max_bytes), at + 1), at + max_rows, total)
        yield at, end
        at = end
