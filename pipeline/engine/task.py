"""One task: read a part, push its batches through the fused stages, write the part. The same code under every executor.

Memory: one batch on its way through the stages, what the writer gathers (a row group, or an exchange's spill), and
the tables and models that the stages hold.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.account import PartAccount, StageCount, drop_rows
from pipeline.engine.exchange import ExchangeWriter, read_partition
from pipeline.engine.parts import PartWriter, one_batch, read_batches, read_table, write_table
from pipeline.engine.predicate import Predicate
from pipeline.engine.storage import Storage, Transaction
from pipeline.schema import DROPS
from pipeline.stage import (
    Annotate,
    Exchange,
    Expand,
    Filter,
    Fold,
    Resources,
    Sink,
    Source,
    SourcePart,
    Stage,
    Unreadable,
    unreadable_id,
)


@dataclass(frozen=True)
class Placed:
    """A row-local stage in its place: step name, settings, tables to load (name -> path), columns afterwards."""

    dataset: str
    step: str
    stage: Stage
    schema: pa.Schema
    tables: tuple[tuple[str, str], ...] = ()
    when: str | None = None


@dataclass(frozen=True)
class Read:
    """What a task reads. Exactly one of the fields is set; none at all means no rows.

    `paths` are Parquet parts; `exchange` is (stage, map files, partition); `table_row` is (path of a table, row).
    """

    source: tuple[Placed, SourcePart] | None = None
    paths: tuple[str, ...] = ()
    exchange: tuple[Placed, tuple[str, ...], int] | None = None
    table_row: tuple[str, int] | None = None
    schema: pa.Schema | None = None


@dataclass(frozen=True)
class Task:
    """One part of one physical step; picklable and self-contained."""

    step_key: str
    folder: str
    part: int
    part_name: str
    label: str
    read: Read
    chain: tuple[Placed, ...]
    write: Placed | None
    """The Exchange, Fold or Sink that ends the task; None writes rows as a part."""
    fold: bool
    """True: fold the summaries in `read.paths` into the table. False: summarise rows (when `write` is a Fold)."""
    seed: int
    publish: str | None = None
    keep: bool = False
    """True for a dataset's own rows, which stay (zstd)."""
    bytes_in: int = 0
    resources: Resources = Resources()
    """The most that any of its stages asks for."""

    @property
    def account_path(self) -> str:
        return account_path(self.folder, self.part)


def account_path(folder: str, part: int) -> str:
    """Where a part's account lies."""
    return f"{folder}/account/part-{part:05d}.json"


def part_path(folder: str, part: int, suffix: str = "parquet") -> str:
    """Where a part's rows lie."""
    return f"{folder}/part-{part:05d}.{suffix}"


@dataclass
class _Context:
    """What a running task gathers."""

    task: Task
    storage: Storage
    files: Transaction
    counts: dict[tuple[str, str], StageCount] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    drops: PartWriter | None = None

    def count(self, placed: Placed) -> StageCount:
        key = (placed.dataset, placed.step)
        if key not in self.counts:
            self.counts[key] = StageCount(placed.dataset, placed.step, _word(placed.stage))
        return self.counts[key]

    def drop(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows == 0:
            return
        if self.drops is None:
            path = f"{self.task.folder}/drops/part-{self.task.part:05d}.parquet"
            self.drops = PartWriter(self.files, path, DROPS, "zstd")
        self.drops.write(batch)
        for entry in pc.value_counts(batch["reason"]).to_pylist():
            self.reasons[f"{batch['stage'][0]}: {entry['values']}"] += entry["counts"]


def _word(stage: Stage) -> str:
    return str(getattr(stage, "word", "compound"))


def run_task(task: Task, address: str) -> PartAccount:
    """Run one task in the run folder `address`; returns its account, which is also written there, last."""
    storage = Storage(address)
    started = time.perf_counter()
    with storage.transaction() as files:
        context = _Context(task, storage, files)
        try:
            rows = _write(context, _through(context, _read(context)))
        except Exception as error:
            error.add_note(f"in {task.step_key}, part {task.part} ({task.part_name}), run {address}")
            raise
        if context.drops is not None:
            context.drops.close()
        for count in context.counts.values():
            count.check()
        account = PartAccount(
            part=task.part,
            name=task.part_name,
            rows=rows,
            stages=list(context.counts.values()),
            files=files.commit(),
            reasons=dict(context.reasons),
            bytes_in=task.bytes_in,
        )
    account.seconds = time.perf_counter() - started
    storage.write_json(task.account_path, account.to_json())
    return account


# ---------------------------------------------------------------------------------------------------- reading


def _read(context: _Context) -> Iterator[pa.RecordBatch]:
    read, storage = context.task.read, context.storage
    if read.source is not None:
        yield from _read_source(context, *read.source)
    elif read.exchange is not None:
        placed, paths, partition = read.exchange
        assert isinstance(placed.stage, Exchange)
        count = context.count(placed)
        for batch in read_partition(storage, placed.stage, list(paths), partition, placed.schema):
            count.rows_in += batch.num_rows
            count.rows_out += batch.num_rows
            yield batch
    elif read.table_row is not None:
        path, row = read.table_row
        yield one_batch(read_table(storage, path).slice(row, 1))
    else:
        for path in read.paths:
            yield from read_batches(storage, path, read.schema)


def _read_source(context: _Context, placed: Placed, part: SourcePart) -> Iterator[pa.RecordBatch]:
    source = bound(placed, context.storage, context.task.seed)
    assert isinstance(source, Source)
    count = context.count(placed)
    waiting: list[Unreadable] = []
    for item in _timed(source.batches(part), count):
        if isinstance(item, Unreadable):
            waiting.append(item)
            if len(waiting) >= 4096:
                _drop_unreadable(context, placed, waiting)
                waiting = []
            continue
        count.rows_in += item.num_rows
        count.rows_out += item.num_rows
        yield checked(item, placed)
    _drop_unreadable(context, placed, waiting)


def _drop_unreadable(context: _Context, placed: Placed, drops: list[Unreadable]) -> None:
    count = context.count(placed)
    count.rows_in += len(drops)
    count.rows_dropped += len(drops)
    rows = [
        {"id": unreadable_id(one), "origin": one.origin, "stage": placed.step, "reason": one.reason, "chars": one.chars}
        for one in drops
    ]
    context.drop(pa.RecordBatch.from_pylist(rows, schema=DROPS))


# ---------------------------------------------------------------------------------------------------- row-local stages

Apply = Callable[[pa.RecordBatch], pa.RecordBatch]


def _through(context: _Context, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Push each batch through the fused stages; nothing is written in between."""
    appliers = [(context.count(placed), _applier(context, placed)) for placed in context.task.chain]
    for batch in batches:
        for count, apply in appliers:
            if batch.num_rows == 0:
                break
            started = time.perf_counter()
            batch = apply(batch)
            count.seconds += time.perf_counter() - started
        if batch.num_rows:
            yield batch


def _applier(context: _Context, placed: Placed) -> Apply:
    stage = bound(placed, context.storage, context.task.seed)
    predicate = Predicate(placed.when) if placed.when else None
    match stage:
        case Filter():
            return lambda docs: _filter(context, placed, stage, predicate, docs)
        case Annotate():
            return lambda docs: _annotate(context, placed, stage, predicate, docs)
        case Expand():
            return lambda docs: _expand(context, placed, stage, docs)
    msg = f"step '{placed.step}' ({stage.kind}) is no row-local stage"
    raise TypeError(msg)


def _filter(
    context: _Context, placed: Placed, stage: Filter, predicate: Predicate | None, docs: pa.RecordBatch
) -> pa.RecordBatch:
    count = context.count(placed)
    reasons = stage.reasons(docs)
    if len(reasons) != docs.num_rows:
        msg = f"step '{placed.step}' gave {len(reasons)} reasons for {docs.num_rows} rows"
        raise ValueError(msg)
    if predicate is not None:
        reasons = pc.if_else(predicate.mask(docs), reasons, None)
    count.rows_in += docs.num_rows
    if reasons.null_count < len(reasons):
        gone = reasons.is_valid()
        dropped = docs.filter(gone)
        context.drop(drop_rows(dropped, placed.step, reasons.filter(gone), stage.evidence(), context.task.seed))
        count.rows_dropped += dropped.num_rows
        docs = docs.filter(reasons.is_null())
    count.rows_out += docs.num_rows
    return checked(docs, placed)


def _annotate(
    context: _Context, placed: Placed, stage: Annotate, predicate: Predicate | None, docs: pa.RecordBatch
) -> pa.RecordBatch:
    count = context.count(placed)
    count.rows_in += docs.num_rows
    count.rows_out += docs.num_rows
    added = dict(stage.columns(docs)) if predicate is None else _annotate_where(stage, predicate.mask(docs), docs)
    declared = {f.name for f in stage.adds()}
    if set(added) != declared:
        msg = f"step '{placed.step}' ({stage.kind}) declares columns {sorted(declared)}, but gave {sorted(added)}"
        raise ValueError(msg)
    columns = dict(zip(docs.schema.names, docs.columns, strict=True)) | added
    for name in stage.removes():
        columns.pop(name, None)
    return checked(pa.RecordBatch.from_pydict(columns), placed)


def _annotate_where(stage: Annotate, mask: pa.BooleanArray, docs: pa.RecordBatch) -> dict[str, pa.Array]:
    """Rows outside `when` keep their value, or null where the column is new."""
    chosen = docs.filter(mask)
    given = stage.columns(chosen)
    positions = pc.indices_nonzero(mask)
    where = pc.index_in(pa.array(range(docs.num_rows), pa.uint64()), value_set=positions)
    result = {}
    for f in stage.adds():
        new = given[f.name].take(where)  # null where the row was not chosen
        result[f.name] = pc.if_else(mask, new, docs[f.name].cast(f.type)) if f.name in docs.schema.names else new
    return result


def _expand(context: _Context, placed: Placed, stage: Expand, docs: pa.RecordBatch) -> pa.RecordBatch:
    count = context.count(placed)
    children = checked(stage.rows(docs), placed)
    names = children.schema.names
    parents = children["parent_ids"].flatten() if "parent_ids" in names else children["parent_id"]
    childless = pc.invert(pc.is_in(docs["id"], value_set=parents))
    dropped = docs.filter(childless)
    if dropped.num_rows:
        reasons = pa.repeat(pa.scalar(stage.childless_reason), dropped.num_rows)
        context.drop(drop_rows(dropped, placed.step, reasons, (), context.task.seed))
    count.rows_in += docs.num_rows
    count.rows_out += children.num_rows
    count.rows_dropped += dropped.num_rows
    return children


def checked(batch: pa.RecordBatch, placed: Placed) -> pa.RecordBatch:
    """`batch` in the declared column order; a missing, surplus or differently typed column is an error."""
    missing = [name for name in placed.schema.names if name not in batch.schema.names]
    if missing:
        msg = f"step '{placed.step}' ({placed.stage.kind}): column {missing} was declared but is not there; got {batch.schema.names}"
        raise ValueError(msg)
    arrays = []
    for f in placed.schema:
        array = batch[f.name]
        if array.type != f.type:
            msg = f"step '{placed.step}' ({placed.stage.kind}): column '{f.name}' was declared {f.type}, but is {array.type}"
            raise ValueError(msg)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=placed.schema)


def bound(placed: Placed, storage: Storage, seed: int) -> Stage:
    """The stage with its step name, the seed and its tables."""
    tables = {name: cached_table(storage.address, path) for name, path in placed.tables}
    return placed.stage.bound(name=placed.step, seed=seed, tables=tables)


_TABLES: dict[tuple[str, str], pa.Table] = {}


def cached_table(address: str, path: str) -> pa.Table:
    """A fold's table, loaded once per worker process (its path names its content)."""
    if (address, path) not in _TABLES:
        _TABLES[address, path] = read_table(Storage(address), path)
    return _TABLES[address, path]


# ---------------------------------------------------------------------------------------------------- writing


def _write(context: _Context, batches: Iterator[pa.RecordBatch]) -> int:
    """Consume `batches`; returns the rows of the part's own output."""
    task = context.task
    if task.write is None:
        return _write_rows(context, batches, task.chain[-1].schema if task.chain else _source_schema(task))
    match task.write.stage:
        case Exchange() as exchange:
            return _write_exchange(context, exchange, batches)
        case Fold():
            return _write_table(context, task.write) if task.fold else _write_summary(context, task.write, batches)
        case Sink():
            return _write_sink(context, task.write, batches)
    msg = f"step '{task.write.step}' ({task.write.stage.kind}) cannot end a task"
    raise TypeError(msg)


def _source_schema(task: Task) -> pa.Schema:
    for placed in (task.read.source and task.read.source[0], task.read.exchange and task.read.exchange[0]):
        if placed:
            return placed.schema
    assert task.read.schema is not None
    return task.read.schema


def _write_rows(context: _Context, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> int:
    task = context.task
    writer = PartWriter(context.files, part_path(task.folder, task.part), schema, "zstd" if task.keep else "lz4")
    for batch in batches:
        writer.write(batch)
    writer.close()
    return writer.rows


def _write_exchange(context: _Context, exchange: Exchange, batches: Iterator[pa.RecordBatch]) -> int:
    task = context.task
    schema = task.chain[-1].schema if task.chain else _source_schema(task)
    writer = ExchangeWriter(context.files, part_path(task.folder, task.part, "exchange"), exchange, schema)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return writer.rows


def _write_summary(context: _Context, placed: Placed, batches: Iterator[pa.RecordBatch]) -> int:
    stage = bound(placed, context.storage, context.task.seed)
    assert isinstance(stage, Fold)
    count = context.count(placed)

    def counted() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            count.rows_in += batch.num_rows
            yield batch

    summary = stage.summary(counted(), context.task.label)
    count.rows_out += summary.num_rows
    write_table(context.files, part_path(context.task.folder, context.task.part), pa.Table.from_batches([summary]))
    return int(summary.num_rows)


def _write_table(context: _Context, placed: Placed) -> int:
    task = context.task
    stage = bound(placed, context.storage, task.seed)
    assert isinstance(stage, Fold)
    count = context.count(placed)

    def summaries() -> Iterator[pa.RecordBatch]:
        for path in task.read.paths:
            batch = one_batch(read_table(context.storage, path))
            count.rows_in += batch.num_rows
            yield batch

    started = time.perf_counter()
    table = stage.fold(summaries())
    count.seconds += time.perf_counter() - started
    count.rows_out += table.num_rows
    write_table(context.files, table_path(task.folder), table)
    if task.publish:
        write_table(context.files, task.publish, table)
    return int(table.num_rows)


def table_path(folder: str) -> str:
    """Where a fold's table lies."""
    return f"{folder}/table.parquet"


def _write_sink(context: _Context, placed: Placed, batches: Iterator[pa.RecordBatch]) -> int:
    task = context.task
    stage = bound(placed, context.storage, task.seed)
    assert isinstance(stage, Sink)
    count = context.count(placed)

    def counted() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            count.rows_in += batch.num_rows
            count.rows_out += batch.num_rows
            yield batch

    writer = PartWriter(context.files, part_path(task.folder, task.part), placed.schema, "zstd")
    rows = counted()
    started = time.perf_counter()
    for described in stage.write(rows, context.files, task.part):
        writer.write(checked(described, placed))
    left = sum(batch.num_rows for batch in itertools.islice(rows, 1))
    if left:
        msg = f"step '{placed.step}' ({stage.kind}) left rows unread"
        raise AssertionError(msg)
    count.seconds += time.perf_counter() - started
    writer.close()
    return writer.rows


def _timed(items: Iterator[Any], count: StageCount) -> Iterator[Any]:
    """`items`, with the time that it takes to make them counted."""
    while True:
        started = time.perf_counter()
        item = next(items, None)
        count.seconds += time.perf_counter() - started
        if item is None:
            return
        yield item
