"""The exchange: map tasks write one sorted file each, reduce tasks read one range of each and merge with bounded memory.

A map task gathers rows up to `SPILL_BYTES`, orders them by (partition, key, id), and writes them as one Arrow stream;
when there is more, sorted runs go to a scratch file first and are merged into that stream at the end. Beside it lies a
table of three little-endian int64 per partition: offset, length, rows. So there are M files for M map tasks, and a reduce
task needs 24 bytes and one range of each, whatever the number of partitions. A block (one Arrow message) holds rows of
one partition, about a megabyte of them; a row that is larger is a block of its own.

A reduce task maps its ranges. Those of an object store are first fetched into a scratch file, in requests of up to
`REQUEST_BYTES`; nothing is unpacked there, so the network carries what the file holds. Then see `merge`.

Memory: a map task holds two times SPILL_BYTES, a reduce task a window of keys and two times its batch, whatever the size of
the corpus and of any group; a row larger than all that adds itself. Scratch files have no name, so nothing is left of
them when a worker is killed; they lie in the run's folder, or in TMPDIR where that is an object store (which must hold a
partition, and must not be memory). Rate: about 150 MB a core and second, both sides together (benchmarks/exchange.py).
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.engine.merge import Merge, Run, mapped, mapped_file
from pipeline.engine.sizes import last_fitting, pieces, row_bytes
from pipeline.engine.storage import Storage, Transaction
from pipeline.schema import GROUP_FIRST, GROUP_SIZE, ID_TYPE, schema_of
from pipeline.stage import Exchange, random_keys

SPILL_BYTES = 64 << 20
SPILL_ROW_BYTES = 64
"""What sorting holds beside each row: its place, number, weight."""
PIECE_BYTES = 8 << 20
"""What is put in order at once while writing."""
BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 4096
BATCH_BYTES = 16 << 20
BATCH_ROWS = 16384
REQUEST_BYTES = 16 << 20
REQUESTS = 4
"""Requests in flight to an object store, each held in memory until it is on the disk."""
INDEX = ".index"
"""Suffix of the table beside an exchange file: little-endian int64[partitions, 3] of (offset, length, rows)."""
_ENTRY = 24
_PARTITION = pa.field("partition number", pa.int32())  # a blank in it: no stage's column is called so


def exchanged_schema(stage: Exchange, schema: pa.Schema) -> pa.Schema:
    """Columns after the exchange."""
    if stage.columns is None:
        fields = list(schema)
    else:
        wanted = {*stage.columns, stage.by, "id"}
        fields = [f for f in schema if f.name in wanted]
    return schema_of([*fields, GROUP_FIRST, GROUP_SIZE] if stage.group_columns else fields)


def partition_numbers(stage: Exchange, keys: pa.Array) -> np.ndarray:
    """int64[n]: which partition each key belongs to; a function of the key's bytes alone. Null keys go to partition 0."""
    count = stage.partitions
    if stage.placement == "range":
        high = np.asarray(pc.fill_null(keys, 0)).astype(np.uint64) >> np.uint64(32)
        return ((high * np.uint64(count)) >> np.uint64(32)).astype(np.int64)
    if keys.type == ID_TYPE:
        hashed = random_keys(pc.fill_null(keys, bytes(16)), 0, "exchange")
    elif pa.types.is_integer(keys.type):
        words = np.zeros((len(keys), 2), np.uint64)
        words[:, 0] = np.asarray(pc.fill_null(keys, 0)).astype(np.uint64)
        wide = pa.FixedSizeBinaryArray.from_buffers(ID_TYPE, len(keys), [None, pa.py_buffer(words)])
        hashed = random_keys(wide, 0, "exchange")
    else:  # each distinct key once: hashing is a Python loop, and keys repeat (that is what a group is)
        plain = pa.types.is_primitive(keys.type)  # dates, truth values
        codes = pc.dictionary_encode(keys.cast(pa.string()) if plain else keys)
        distinct = codes.dictionary.cast(pa.large_binary()).to_pylist()
        seen = [0 if key is None else xxhash.xxh3_64_intdigest(key) for key in distinct]
        hashed = np.array([*seen, 0], np.uint64)[np.asarray(pc.fill_null(codes.indices, len(seen))).astype(np.int64)]
    if keys.null_count:
        hashed = np.where(np.asarray(keys.is_valid()), hashed, np.uint64(0))
    return (hashed % np.uint64(count)).astype(np.int64)


# ---------------------------------------------------------------------------------------------------- the map side


class ExchangeWriter:
    """The map side: one sorted file and its table of ranges."""

    def __init__(self, files: Transaction, path: str, stage: Exchange, schema: pa.Schema) -> None:
        self._files, self._path, self._stage = files, path, stage
        self._schema = exchanged_schema(stage.model_copy(update={"group_columns": False}), schema)
        for field in self._schema:
            if pa.types.is_dictionary(field.type):  # its values would lie outside a partition's range
                msg = f"column '{field.name}' is {field.type}, which cannot be exchanged: use {field.type.value_type}"
                raise TypeError(msg)
        self._out = files.create(path)
        self._by = list(dict.fromkeys([_PARTITION.name, stage.by, "id"]))
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self._scratch: _Stream | None = None
        self._runs: list[tuple[int, int]] = []
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; once enough wait they become a sorted run."""
        if batch.num_rows == 0:
            return
        batch = _compact(batch.select(self._schema.names))
        size = batch.nbytes + batch.num_rows * SPILL_ROW_BYTES
        if self._bytes and self._bytes + size > SPILL_BYTES:
            self._spill()
        self._waiting.append(batch)
        self._bytes += size
        self.rows += batch.num_rows

    def _spill(self) -> None:
        if self._scratch is None:
            self._scratch = _Stream(_scratch_file(self._files.url(self._path)), self._schema.append(_PARTITION))
        start = self._scratch.tell()
        for piece in self._sorted():
            self._scratch.write(piece)
        self._runs.append((start, self._scratch.tell() - start))
        pa.default_memory_pool().release_unused()

    def _sorted(self) -> Iterator[pa.RecordBatch]:
        """What waits, with partition numbers, in order, piece by piece."""
        batches, self._waiting, self._bytes = self._waiting, [], 0
        if not batches:
            return
        rows = pa.concat_batches(batches) if len(batches) > 1 else batches[0]
        batches.clear()
        numbers = partition_numbers(self._stage, rows[self._stage.by]).astype(np.int32)
        rows = pa.RecordBatch.from_arrays([*rows.columns, numbers], schema=self._schema.append(_PARTITION))
        order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in self._by])
        for start, end in pieces(row_bytes(rows)[np.asarray(order)], PIECE_BYTES, SPILL_BYTES):
            # a row alone may be larger than memory for two of it: no copy
            yield rows.slice(order[start].as_py(), 1) if end == start + 1 else rows.take(order[start:end])

    def _merged(self, scratch: _Stream) -> Iterator[pa.RecordBatch]:
        """All runs of the scratch file as one."""
        scratch.flush()
        data = mapped_file(scratch.file)
        runs = [Run(data.slice(*run), self._schema.append(_PARTITION)) for run in self._runs]
        return Merge(runs, self._by, _PARTITION.name).batches(
            PIECE_BYTES, lambda cumulative, _, at: max(at + 1, last_fitting(cumulative, at, PIECE_BYTES))
        )

    def close(self) -> None:
        """Merge the runs into the file and write its table."""
        out = _Stream(self._out, self._schema)
        ranges = np.zeros((self._stage.partitions, 3), "<i8")
        if self._scratch is None:
            ordered = self._sorted()
        else:
            self._spill()
            ordered = self._merged(self._scratch)
        for rows in ordered:
            _write_partitions(out, rows, ranges)
        out.close()
        if self._scratch is not None:
            self._scratch.file.close()
        index = self._files.create(self._path + INDEX)
        index.write(ranges.tobytes())
        index.close()


def _write_partitions(out: _Stream, rows: pa.RecordBatch, ranges: np.ndarray) -> None:
    """Append ordered rows in blocks of one partition each, and note where they lie."""
    numbers = np.asarray(rows[_PARTITION.name])
    rows = rows.drop_columns([_PARTITION.name])
    borders = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1, [len(numbers)]]).tolist()
    for start, end in itertools.pairwise(borders):
        entry = ranges[numbers[start]]
        before = out.tell()
        if entry[2] == 0:
            entry[0] = before
        out.write(rows.slice(start, end - start))
        entry[1] += out.tell() - before
        entry[2] += end - start


def _compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, copied when it is a small view of something large, which would stay in memory with it."""
    if batch.get_total_buffer_size() > 2 * batch.nbytes + BLOCK_BYTES:
        return batch.take(pa.array(np.arange(batch.num_rows)))
    return batch


class _Stream:
    """One Arrow stream, of which any range of whole blocks can be read by itself."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self.file = file
        self._out = pa.BufferedOutputStream(pa.PythonFile(file, mode="w"), BLOCK_BYTES // 4)
        self._writer = pa.ipc.new_stream(self._out, schema)

    def tell(self) -> int:
        return int(self._out.tell())

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows == 1:
            self._writer.write_batch(batch)
            return
        for start, end in pieces(row_bytes(batch), BLOCK_BYTES, BLOCK_ROWS):
            self._writer.write_batch(batch.slice(start, end - start))

    def flush(self) -> None:
        self._out.flush()
        self.file.flush()

    def close(self) -> None:
        self._writer.close()
        self._out.close()


def _scratch_file(beside: str) -> BinaryIO:
    """A nameless file on the disk that holds `beside`, or in TMPDIR when that is a URL."""
    folder = None if "://" in beside else os.path.dirname(beside)
    return tempfile.TemporaryFile(dir=folder)


# ---------------------------------------------------------------------------------------------------- the reduce side


def read_partition(
    storage: Storage, stage: Exchange, paths: list[str], partition: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Batches of one partition in (key, id) order, out of the map tasks' files.

    With `stage.max_group_bytes` a batch never cuts a group up to that size. How rows are cut into batches depends on
    the rows alone, never on how many files they came in.
    """
    added = 2 if stage.group_columns else 0
    stored = pa.schema(list(schema)[: len(schema) - added])
    ranges = _local_ranges if storage.local else _fetched_ranges
    runs = [Run(data, stored) for data in ranges(storage, paths, partition)]
    merge = Merge(runs, list(dict.fromkeys([stage.by, "id"])), stage.by, group_columns=stage.group_columns)
    whole = stage.max_group_bytes

    def cut(cumulative: np.ndarray, starts: np.ndarray, at: int) -> int:
        end = min(max(last_fitting(cumulative, at, BATCH_BYTES), at + 1), at + BATCH_ROWS)
        if whole is None or end == len(cumulative) - 1:
            return end
        return _whole_groups(cumulative, starts, at, end, whole)

    for batch in merge.batches(max(BATCH_BYTES, whole or 0), cut):
        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def _whole_groups(cumulative: np.ndarray, starts: np.ndarray, at: int, end: int, max_group_bytes: int) -> int:
    """The last group border in (at, end], else the end of the group at hand, or as much of it as is allowed."""
    before = int(starts[np.searchsorted(starts, end, side="right") - 1])
    if before > at:
        return before
    after = int(starts[np.searchsorted(starts, at, side="right")])
    return max(at + 1, min(after, last_fitting(cumulative, at, max_group_bytes)))


def _entry(storage: Storage, path: str, partition: int) -> tuple[int, int]:
    """Where the partition lies in one map task's file: offset and length."""
    raw = storage.read_range(path + INDEX, partition * _ENTRY, _ENTRY)
    offset, length, _ = np.frombuffer(raw, "<i8").tolist()
    return offset, length


def _local_ranges(storage: Storage, paths: list[str], partition: int) -> list[pa.Buffer]:
    entries = [_entry(storage, path, partition) for path in paths]
    return [mapped(storage.url(path), *entry) for path, entry in zip(paths, entries, strict=True) if entry[1]]


def _fetched_ranges(storage: Storage, paths: list[str], partition: int) -> list[pa.Buffer]:
    """Every range in as few requests as REQUEST_BYTES allows, gathered in a scratch file and mapped there."""
    with _scratch_file(storage.url("")) as scratch, ThreadPoolExecutor(REQUESTS) as pool:
        entries = list(pool.map(lambda path: _entry(storage, path, partition), paths))
        places = np.cumsum([0, *(-(-length // 64) * 64 for _, length in entries)]).tolist()  # aligned as Arrow wants
        requests = [
            (path, offset + done, min(REQUEST_BYTES, length - done), place + done)
            for path, (offset, length), place in zip(paths, entries, places, strict=False)
            for done in range(0, length, REQUEST_BYTES)
        ]

        def fetch(request: tuple[str, int, int, int]) -> None:
            path, offset, length, place = request
            data = memoryview(storage.read_range(path, offset, length))
            while data:
                written = os.pwrite(scratch.fileno(), data, place)
                data, place = data[written:], place + written

        for _ in pool.map(fetch, requests):
            pass
        if not requests:
            return []
        gathered = mapped_file(scratch)
        return [gathered.slice(place, length) for (_, length), place in zip(entries, places, strict=False) if length]
