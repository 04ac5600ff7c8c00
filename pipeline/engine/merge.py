"""Many sorted runs become one order, seen through a window: memory does not grow with the runs.

A run is a row of Arrow messages in a mapped file. Every SAMPLE_ROWS-th row of each run is a sample; the samples,
sorted, say up to which (key, id) the next WINDOW_BYTES of all runs reach. Only the keys, ids and sizes of that window
are held (about 60 bytes a row); text is touched once, when a batch is gathered as one contiguous slice of each run,
and the pages behind it are given back. Since the border is a (key, id), not a key, one key may hold any share of the rows.

Bound: WINDOW_ROWS + runs * SAMPLE_ROWS keys, FORGET_BYTES of mapped pages, and the batch. Rows that agree in key and id
come in one window, however many they are.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.sizes import cumulated, row_bytes

SAMPLE_ROWS = 512
WINDOW_BYTES = 32 << 20
WINDOW_ROWS = 1 << 18
FORGET_BYTES = 32 << 20
"""After so much gathered text the pages of all runs are given back; they come again from the page cache if touched."""

Cut = Callable[[np.ndarray, np.ndarray, int], int]
"""(bytes before each row, rows where a key begins, first row of the batch) -> end of the batch."""


def mapped(path: str, offset: int, length: int) -> pa.Buffer:
    """A part of a local file: its pages come when touched. No descriptor stays open, so files may be many."""
    with pa.memory_map(path, "r") as file:
        file.seek(offset)
        return file.read_buffer(length)


def mapped_file(file: BinaryIO) -> pa.Buffer:
    """A whole open file that may have no name; it can be closed meanwhile."""
    return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def forget(data: pa.Buffer) -> None:
    """Give back the pages of a mapped file: they stay in the page cache and no longer count as ours.

    Never for other memory: the kernel would empty it.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)  # not mmap.mmap.madvise: that class keeps a descriptor per map
    start = data.address // mmap.PAGESIZE * mmap.PAGESIZE
    length = data.address + data.size - start
    if advise is not None and hasattr(mmap, "MADV_DONTNEED"):
        advise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(mmap.MADV_DONTNEED))


class Run:
    """One sorted run: its blocks lie in `data`, a mapped file, and are never copied as a whole."""

    def __init__(self, data: pa.Buffer, schema: pa.Schema) -> None:
        self.data = data
        messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(data))
        self.blocks = [
            pa.ipc.read_record_batch(message, schema) for message in messages if message.type == "record batch"
        ]
        self.ranks: list[int] = []  # of each block's last row among all samples
        self._block = self._row = 0
        self.queue: deque[pa.RecordBatch] = deque()

    def samples(self, by: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, np.ndarray, int]]:
        """Per block: its samples' keys, the rows that each stands for, the block's bytes."""
        for block in self.blocks:
            rows = np.unique(np.append(np.arange(SAMPLE_ROWS - 1, block.num_rows, SAMPLE_ROWS), block.num_rows - 1))
            yield block.select(by).take(pa.array(rows)), np.diff(rows, prepend=-1), block.nbytes

    def advance(self, rank: int, border: tuple[Any, ...] | None, by: Sequence[str]) -> list[pa.RecordBatch]:
        """Rows up to and including `border`, the sample of that rank; all that are left without one."""
        found = []
        while self._block < len(self.blocks):
            block = self.blocks[self._block]
            whole = border is None or self.ranks[self._block] <= rank
            end = block.num_rows if whole else _rows_upto(block, by, border or (), self._row)
            found.append(block.slice(self._row, end - self._row))
            if end < block.num_rows:
                self._row = end
                break
            self._block, self._row = self._block + 1, 0
        found = [block for block in found if block.num_rows]
        self.queue.extend(found)
        return found

    def rows_ahead(self, column: str, key: tuple[Any, ...]) -> int:
        """How many of the next rows hold `key`; none that is left holds a lower one."""
        total, row = 0, self._row
        for block in self.blocks[self._block :]:
            last = _rows_upto(block, (column,), key, block.num_rows - 1) == block.num_rows
            end = block.num_rows if last else _rows_upto(block, (column,), key, row)
            total += end - row
            if not last:
                break
            row = 0
        return total

    def pull(self, count: int) -> list[pa.RecordBatch]:
        """The next `count` rows that `advance` found."""
        found = []
        while count:
            head = self.queue.popleft()
            if head.num_rows > count:
                self.queue.appendleft(head.slice(count))
                head = head.slice(0, count)
            found.append(head)
            count -= head.num_rows
        return found


def _rank(value: Any) -> tuple[bool, Any]:
    return value is None, value  # nulls last, as Arrow sorts them


def _key(columns: Sequence[pa.Array], row: int) -> tuple[Any, ...]:
    return tuple(_rank(column[row].as_py()) for column in columns)


def _rows_upto(block: pa.RecordBatch, by: Sequence[str], border: tuple[Any, ...], low: int) -> int:
    """How many rows of a sorted block stand at or before `border`; at least `low` are known to."""
    columns = [block[name] for name in by]
    return bisect_right(range(block.num_rows), border, low, key=lambda row: _key(columns, row))


class Merge:
    """The rows of `runs`, each sorted by `by`, in one order; equal rows in the order of their runs.

    `group` is the column whose change is a border in the sense of `Cut`. With `group_columns` each batch ends in
    (lowest id, number of rows) of the row's group, however many windows that group fills.
    """

    def __init__(self, runs: Sequence[Run], by: Sequence[str], group: str, *, group_columns: bool = False) -> None:
        self._runs, self._by, self._group = list(runs), list(by), group
        self._sizes = np.zeros(0, np.int64)  # [n] of the rows that wait, in order
        self._owners = np.zeros(0, np.int32)  # [n] which run
        self._starts = np.zeros(0, np.bool_)  # [n] whether a group begins
        self._firsts = np.zeros((0, 16), np.uint8) if group_columns else None  # [n, 16] lowest id of the group
        self._counts = np.zeros(0, np.int64)  # [n] rows of the group
        self._open: tuple[Any, ...] | None = None  # key of the group that the last window ended in
        self._open_first = np.zeros(16, np.uint8)
        self._open_count = 0
        self._forgettable = 0
        self._sample()

    def _sample(self) -> None:
        keys, rows, sizes, lasts = [], [], [], []
        for run in self._runs:
            for found, stands_for, weight in run.samples(self._by):
                keys.append(found)
                rows.append(stands_for)
                sizes.append(stands_for * weight // max(1, int(stands_for.sum())))
                lasts.append(len(stands_for))
            forget(run.data)
        self._window = 0  # samples behind the window
        if not keys:
            self._bytes = self._rows = np.zeros(1, np.int64)
            return
        samples = pa.Table.from_batches(keys).combine_chunks()
        order = _order(samples, self._by)
        self._samples = samples.take(order).combine_chunks()
        places = np.asarray(order).astype(np.int64)
        ranks = np.empty(len(places), np.int64)
        ranks[places] = np.arange(len(places))
        of_blocks = iter(ranks[np.cumsum(lasts) - 1].tolist())
        for run in self._runs:
            run.ranks = [next(of_blocks) for _ in run.blocks]
        self._bytes = cumulated(np.concatenate(sizes)[places])
        self._rows = cumulated(np.concatenate(rows)[places])

    @property
    def _exhausted(self) -> bool:
        return self._window == len(self._rows) - 1

    def _extend(self) -> None:
        """One more window of keys."""
        at = self._window
        by_bytes = int(np.searchsorted(self._bytes, self._bytes[at] + WINDOW_BYTES, side="right")) - 1
        by_rows = int(np.searchsorted(self._rows, self._rows[at] + WINDOW_ROWS, side="right")) - 1
        self._window = max(at + 1, min(by_bytes, by_rows))
        rank = self._window - 1
        border = None if self._exhausted else _key([self._samples[n].chunk(0) for n in self._by], rank)
        found: list[pa.RecordBatch] = []
        owners: list[int] = []
        for number, run in enumerate(self._runs):
            slices = run.advance(rank, border, self._by)
            found += slices
            owners += [number] * len(slices)
        if not found:
            return
        keys = pa.Table.from_batches([one.select(self._by) for one in found]).combine_chunks()
        order = _order(keys, self._by)
        places = np.asarray(order).astype(np.int64)
        lengths = [one.num_rows for one in found]
        self._sizes = np.append(self._sizes, np.concatenate([row_bytes(one) for one in found])[places])
        self._owners = np.append(self._owners, np.repeat(np.array(owners, np.int32), lengths)[places])
        self._see_groups(keys[self._group].chunk(0).take(order), keys["id"].chunk(0).take(order))

    def _see_groups(self, keys: pa.Array, ids: pa.Array) -> None:
        starts = np.ones(len(keys), np.bool_)
        starts[0] = self._open is None or _key([keys], 0) != self._open
        starts[1:] = _changes(keys)
        self._starts = np.append(self._starts, starts)
        self._open = _key([keys], len(keys) - 1)
        if self._firsts is None:
            return
        begins = np.flatnonzero(starts)
        group = np.cumsum(starts)  # [n]: 0 is the group that was open before
        raw = np.frombuffer(ids.buffers()[1], np.uint8).reshape(-1, 16)[ids.offset : ids.offset + len(ids)]
        counts = np.append(self._open_count, np.diff(np.append(begins, len(keys))))
        if len(begins):
            counts[-1] += sum(run.rows_ahead(self._group, self._open) for run in self._runs)
        firsts = np.concatenate([self._open_first[None, :], raw[begins]])
        self._firsts = np.concatenate([self._firsts, firsts[group]])
        self._counts = np.append(self._counts, counts[group])
        self._open_first, self._open_count = firsts[-1], int(counts[-1])

    def batches(self, ahead: int, cut: Cut) -> Iterator[pa.RecordBatch]:
        """All rows. `cut` looks at most `ahead` bytes and one row further than where it stands."""
        while True:
            while not self._exhausted and self._sizes.sum() <= ahead:
                self._extend()
            cumulative = cumulated(self._sizes)
            total, at = len(self._sizes), 0
            starts = np.concatenate([[0], np.flatnonzero(self._starts[1:]) + 1, [total]])
            while at < total and (self._exhausted or cumulative[-1] - cumulative[at] > ahead):
                end = cut(cumulative, starts, at)
                yield self._gathered(at, end, int(cumulative[end] - cumulative[at]))
                at = end
            self._sizes, self._owners = self._sizes[at:], self._owners[at:]
            self._starts, self._counts = self._starts[at:], self._counts[at:]
            self._firsts = None if self._firsts is None else self._firsts[at:]
            if self._exhausted and not len(self._sizes):
                return

    def _gathered(self, start: int, end: int, size: int) -> pa.RecordBatch:
        """One contiguous slice of each run, interleaved as the order says."""
        sources = self._owners[start:end]
        counts = np.bincount(sources, minlength=len(self._runs))
        used = np.flatnonzero(counts)
        slices = [piece for number in used for piece in self._runs[number].pull(int(counts[number]))]
        if len(sources) == 1:  # a row may be larger than memory for two of it: no copy
            batch = slices[0]
        else:
            positions = np.empty(len(sources), np.int64)
            positions[np.argsort(sources, kind="stable")] = np.arange(len(sources))
            batch = pa.concat_batches(slices).take(pa.array(positions))
        self._forgettable += size
        if self._forgettable >= FORGET_BYTES:
            self._forgettable = 0
            for run in self._runs:
                forget(run.data)
            pa.default_memory_pool().release_unused()
        if self._firsts is None:
            return batch
        firsts = pa.py_buffer(np.ascontiguousarray(self._firsts[start:end]))
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), end - start, [None, firsts]),
            pa.array(self._counts[start:end]),
        ]
        return pa.RecordBatch.from_arrays(
            [*batch.columns, *columns], names=[*batch.schema.names, "group_first", "group_size"]
        )


def _order(keys: pa.Table, by: Sequence[str]) -> pa.Array:
    return pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in by])


def _changes(keys: pa.Array) -> np.ndarray:
    """bool[n - 1]: whether a row's key differs from the one before; nulls are equal to each other."""
    before, now = keys.slice(0, len(keys) - 1), keys.slice(1)
    nulls = pc.not_equal(before.is_null(), now.is_null())
    return np.asarray(pc.or_(nulls, pc.fill_null(pc.not_equal(before, now), False)))
