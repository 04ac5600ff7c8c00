"""The exchange: map tasks write one file each, reduce tasks read only their ranges and merge with bounded memory.

A map task gathers rows until `SPILL_BYTES`, orders them by (partition, key, id) and appends one Arrow IPC stream per
partition to its file, so the file is a row of sorted runs; a small JSON index beside it holds (offset, length, rows) of
every run. M files for M map tasks, whatever the number of partitions.

A reduce task maps its runs (a disk) or fetches each range with one request (an object store), reads their keys and
ids, works out the global order once, and then gathers batch after batch: since every run is already in that order, a
batch needs one contiguous slice of each run. Memory: keys, ids and row sizes of one partition (about 48 bytes a row)
plus one batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.engine.storage import Storage, Transaction
from pipeline.schema import GROUP_FIRST, GROUP_SIZE, schema_of
from pipeline.stage import Exchange, random_keys

SPILL_BYTES = 64 << 20
BATCH_BYTES = 16 << 20
BATCH_ROWS = 16384
INDEX = ".index"
"""Suffix of the index beside an exchange file."""


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
    if pa.types.is_fixed_size_binary(keys.type) and keys.type.byte_width == 16 and keys.null_count == 0:
        hashed = random_keys(keys, 0, "exchange")
    else:  # each distinct key once: hashing is a Python loop, and keys repeat (that is what a group is)
        codes = pc.dictionary_encode(keys)
        seen = [0 if key is None else xxhash.xxh3_64_intdigest(_key_bytes(key)) for key in codes.dictionary.to_pylist()]
        lookup = np.array([*seen, 0], np.uint64)
        hashed = lookup[np.asarray(pc.fill_null(codes.indices, len(seen))).astype(np.int64)]
    return (hashed % np.uint64(count)).astype(np.int64)


def _key_bytes(key: Any) -> bytes:
    if isinstance(key, bytes):
        return key
    return key.encode() if isinstance(key, str) else int(key).to_bytes(16, "little", signed=True)


class ExchangeWriter:
    """The map side: one file of sorted runs and its index."""

    def __init__(self, files: Transaction, path: str, stage: Exchange, schema: pa.Schema) -> None:
        self._files, self._path, self._stage = files, path, stage
        self._schema = exchanged_schema(stage.model_copy(update={"group_columns": False}), schema)
        self._out = files.create(path)
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self._runs: list[list[tuple[int, int, int]]] = [[] for _ in range(stage.partitions)]
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; spilled as sorted runs once enough wait."""
        if batch.num_rows == 0:
            return
        batch = batch.select(self._schema.names)
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._bytes >= SPILL_BYTES:
            self._spill()

    def _spill(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, schema=self._schema).combine_chunks()
        self._waiting, self._bytes = [], 0
        keys = table[self._stage.by].chunk(0)
        numbers = pa.array(partition_numbers(self._stage, keys))
        order = pc.sort_indices(
            pa.table({"partition": numbers, "key": keys, "id": table["id"]}),
            sort_keys=[("partition", "ascending"), ("key", "ascending"), ("id", "ascending")],
        )
        bounds = np.searchsorted(np.asarray(numbers.take(order)), np.arange(self._stage.partitions + 1))
        for partition in range(self._stage.partitions):
            start, end = int(bounds[partition]), int(bounds[partition + 1])
            if start == end:
                continue
            offset = self._out.tell()
            with pa.ipc.new_stream(pa.PythonFile(_Unclosed(self._out), mode="w"), self._schema) as stream:
                for at in range(start, end, BATCH_ROWS):
                    stream.write_table(table.take(order[at : min(end, at + BATCH_ROWS)]))
            self._runs[partition].append((offset, self._out.tell() - offset, end - start))

    def close(self) -> None:
        """Spill the rest and write the index: per partition, the (offset, length, rows) of its runs."""
        self._spill()
        self._out.close()
        index = self._files.create(self._path + INDEX)
        index.write(json.dumps(self._runs).encode())
        index.close()


class _Unclosed:
    """Lets several Arrow streams share one file: closing a stream leaves the file open."""

    closed = False

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        return int(self._file.write(data))

    def flush(self) -> None:
        pass

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        pass


class _Run:
    """One sorted run, opened: its batches lie in the mapped file (or in one fetched range)."""

    def __init__(self, storage: Storage, path: str, offset: int, length: int) -> None:
        self.table = pa.ipc.open_stream(storage.read_range(path, offset, length)).read_all()


def read_partition(
    storage: Storage, stage: Exchange, paths: list[str], partition: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Batches of one partition in (key, id) order, out of the map tasks' files.

    With `stage.max_group_bytes` a batch never cuts a group up to that size.
    """
    runs = [
        _Run(storage, path, offset, length)
        for path in paths
        for offset, length, _ in storage.read_json(path + INDEX)[partition]
    ]
    if not runs:
        return
    keys = pa.concat_tables([run.table.select(dict.fromkeys([stage.by, "id"])) for run in runs])
    order = np.asarray(pc.sort_indices(keys, sort_keys=[(stage.by, "ascending"), ("id", "ascending")])).astype(np.int64)
    run_of_row = np.repeat(np.arange(len(runs), dtype=np.int32), [run.table.num_rows for run in runs])[order]
    starts = _group_starts(keys[stage.by], order)
    sizes = np.concatenate([_row_bytes(run.table) for run in runs])[order]
    groups = _group_columns(keys["id"], order, starts) if stage.group_columns else None
    taken = np.zeros(len(runs), np.int64)
    for start, end in _batch_bounds(sizes, starts, stage.max_group_bytes):
        batch = _gather(runs, run_of_row[start:end], taken)
        columns = list(batch.columns)
        if groups is not None:
            columns += [column.slice(start, end - start) for column in groups]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _gather(runs: list[_Run], sources: np.ndarray, taken: np.ndarray) -> pa.RecordBatch:
    """The next rows in global order: one contiguous slice of each run, interleaved as `sources` says."""
    counts = np.bincount(sources, minlength=len(runs))
    used = np.flatnonzero(counts)
    slices = pa.concat_tables([runs[r].table.slice(int(taken[r]), int(counts[r])) for r in used]).combine_chunks()
    positions = np.empty(len(sources), np.int64)
    positions[np.argsort(sources, kind="stable")] = np.arange(len(sources))
    taken += counts
    ordered = slices.take(pa.array(positions)).combine_chunks()
    return ordered.to_batches()[0]


def _group_starts(keys: pa.ChunkedArray, order: np.ndarray) -> np.ndarray:
    """int64: positions in the global order where a new key begins; the number of rows last."""
    ordered = keys.combine_chunks().take(pa.array(order))
    codes = np.asarray(pc.fill_null(pc.dictionary_encode(ordered).indices, -1))
    return np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1, [len(order)]]).astype(np.int64)


def _group_columns(ids: pa.ChunkedArray, order: np.ndarray, starts: np.ndarray) -> tuple[pa.Array, pa.Array]:
    lengths = np.diff(starts)
    firsts = ids.combine_chunks().take(pa.array(np.repeat(order[starts[:-1]], lengths)))
    return firsts, pa.array(np.repeat(lengths, lengths), pa.int64())


def _row_bytes(table: pa.Table) -> np.ndarray:
    """int64[n]: bytes of the row's texts, binaries and lists, from their offsets alone."""
    total = np.full(table.num_rows, 32, np.int64)
    for column, field in zip(table.columns, table.schema, strict=True):
        kind = field.type
        if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
            total += np.asarray(pc.fill_null(pc.binary_length(column), 0)).astype(np.int64)
        elif pa.types.is_fixed_size_list(kind):
            total += kind.list_size * kind.value_type.bit_width // 8
        elif pa.types.is_large_list(kind) or pa.types.is_list(kind):
            width = kind.value_type.bit_width // 8 if pa.types.is_primitive(kind.value_type) else 16
            total += np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64) * width
    return total


def _batch_bounds(sizes: np.ndarray, starts: np.ndarray, max_group_bytes: int | None) -> Iterator[tuple[int, int]]:
    """Cut the global order into batches of about BATCH_BYTES; at group borders where groups must stay whole."""
    if len(sizes) == 0:
        return
    cumulative = np.concatenate([[0], np.cumsum(sizes)])
    total, at = len(sizes), 0
    while at < total:
        end = int(np.searchsorted(cumulative, cumulative[at] + BATCH_BYTES, side="right")) - 1
        end = min(max(end, at + 1), at + BATCH_ROWS, total)
        if max_group_bytes is not None and end < total:
            end = _whole_groups(cumulative, starts, at, end, max_group_bytes)
        yield at, end
        at = end


def _whole_groups(cumulative: np.ndarray, starts: np.ndarray, at: int, end: int, max_group_bytes: int) -> int:
    """The last group border in (at, end], else the end of the group at hand, or as much of it as is allowed."""
    before = int(starts[np.searchsorted(starts, end, side="right") - 1])
    if before > at:
        return before
    after = int(starts[np.searchsorted(starts, at, side="right")])
    allowed = int(np.searchsorted(cumulative, cumulative[at] + max_group_bytes, side="right")) - 1
    return max(at + 1, min(after, allowed))
