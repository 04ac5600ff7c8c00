"""One task: read a part, push its batches through the fused stages, write the part. The same code under every executor.

Memory: one batch on its way through the stages, what the writer gathers (a row group, or an exchange's spill), and
the tables and models that the stages hold.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.account import PartAccount, StageCount, drop_rows
from pipeline.engine.exchange import ExchangeWriter, read_partition
from pipeline.engine.parts import PartWriter, one_batch, read_batches, read_table, write_table
from pipeline.engine.poison import (
    Isolated,
    RecordFailed,
    attempt,
    culprit,
    described,
    is_the_records,
    pieces,
    units,
)
from pipeline.engine.rowlocal import Call, Placed, Result, bound, checked, row_call
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

ORIGIN_KEY = b"tokenmill.step"
"""In a published table's metadata: the step folder that it is a copy of (see publish.py)."""

FAILED_ROWS = 256
"""From this many failed records in a part, more than half of all: the stage is broken, and no record is to blame."""


@dataclass(frozen=True)
class Work:
    """What all tasks of a physical step share. Pickled once, and read once per worker process, however many the parts."""

    step_key: str
    folder: str
    label: str
    head: Placed | None
    """The Source or the Exchange that it reads through."""
    exchange_files: tuple[str, ...]
    read_schema: pa.Schema | None
    chain: tuple[Placed, ...]
    write: Placed | None
    """The Exchange, Fold or Sink that ends the task; None writes rows as a part."""
    fold: bool
    """True: fold the summaries in `read.paths` into the table. False: summarise rows (when `write` is a Fold)."""
    seed: int
    publish: str | None = None
    keep: bool = False
    """True for a dataset's own rows, which stay (zstd)."""
    resources: Resources = field(default_factory=Resources)
    """The most that any of its stages asks for."""

    @property
    def schema(self) -> pa.Schema:
        """Columns after the row-local stages."""
        schema = self.chain[-1].schema if self.chain else self.head.schema if self.head else self.read_schema
        assert schema is not None
        return schema

    @cached_property
    def _pickled(self) -> bytes:
        return pickle.dumps({f.name: getattr(self, f.name) for f in fields(self)})

    def __reduce__(self) -> tuple[Callable[[bytes], Work], tuple[bytes]]:
        return _unpickled, (self._pickled,)


@lru_cache(64)
def _unpickled(data: bytes) -> Work:
    return Work(**pickle.loads(data))  # noqa: S301 - travels between our own processes only


@dataclass(frozen=True)
class Read:
    """What a task reads: a part of the source, Parquet parts, a partition of the exchange, or (path of a table, row).

    Nothing set: no rows at all.
    """

    source: SourcePart | None = None
    paths: tuple[str, ...] = ()
    partition: int | None = None
    table_row: tuple[str, int] | None = None


@dataclass(frozen=True)
class Task:
    """One part of one physical step; picklable and self-contained."""

    work: Work
    part: int
    part_name: str
    read: Read
    bytes_in: int = 0
    after: tuple[str, int] | None = None
    """The part (step, number) that must be done before, when the step before need not be done as a whole."""
    isolate: bool = False
    """Stages run in a child process: for a part whose worker died again and again."""

    @property
    def step_key(self) -> str:
        return self.work.step_key

    @property
    def folder(self) -> str:
        return self.work.folder

    @property
    def resources(self) -> Resources:
        return self.work.resources

    @property
    def account_path(self) -> str:
        return account_path(self.work.folder, self.part)


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

    @property
    def work(self) -> Work:
        return self.task.work

    def count(self, placed: Placed) -> StageCount:
        key = (placed.dataset, placed.step)
        if key not in self.counts:
            self.counts[key] = StageCount(placed.dataset, placed.step, _word(placed.stage))
        return self.counts[key]

    def bound(self, placed: Placed) -> Stage:
        return bound(placed, self.storage.address, self.work.seed)

    def drop(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows == 0:
            return
        if self.drops is None:
            path = f"{self.work.folder}/drops/part-{self.task.part:05d}.parquet"
            self.drops = PartWriter(self.files, path, DROPS, "zstd")
        self.drops.write(batch)
        for entry in pc.value_counts(batch["reason"]).to_pylist():
            self.reasons[f"{batch['stage'][0]}: {entry['values']}"] += entry["counts"]


def _word(stage: Stage) -> str:
    return str(getattr(stage, "word", "compound"))


@lru_cache(8)
def _storage(address: str) -> Storage:
    return Storage(address)


def run_task(task: Task, address: str) -> PartAccount:
    """Run one task in the run folder `address`; returns its account, which is also written there, last."""
    try:
        return _run(task, _storage(address))
    except Exception as error:
        error.add_note(f"in {task.step_key}, part {task.part} ({task.part_name}), run {address}")
        raise
    except BaseException as error:
        if is_the_records(error):  # a panic of Rust is no Exception, and would end the worker
            raise RuntimeError(described(error)) from error
        raise


def _run(task: Task, storage: Storage) -> PartAccount:
    started = time.perf_counter()
    with storage.transaction() as files:
        context = _Context(task, storage, files)
        rows = _write(context, _through(context, _read(context)))
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
    storage.write(task.account_path, account.encoded())
    return account


# ---------------------------------------------------------------------------------------------------- reading


def _read(context: _Context) -> Iterator[pa.RecordBatch]:
    read, work, storage = context.task.read, context.work, context.storage
    if read.source is not None:
        assert work.head is not None
        yield from _read_source(context, work.head, read.source)
    elif read.partition is not None:
        assert work.head is not None
        assert isinstance(work.head.stage, Exchange)
        count = context.count(work.head)
        for batch in read_partition(
            storage, work.head.stage, list(work.exchange_files), read.partition, work.head.schema
        ):
            count.rows_in += batch.num_rows
            count.rows_out += batch.num_rows
            yield batch
    elif read.table_row is not None:
        path, row = read.table_row
        yield one_batch(read_table(storage, path).slice(row, 1))
    else:
        for path in read.paths:
            yield from read_batches(storage, path, work.read_schema)


def _read_source(context: _Context, placed: Placed, part: SourcePart) -> Iterator[pa.RecordBatch]:
    source = context.bound(placed)
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
    if not drops:
        return
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
    chain, address, seed = context.work.chain, context.storage.address, context.work.seed
    isolated = Isolated(chain, address, seed) if context.task.isolate else None
    calls = [isolated.call(n) if isolated else row_call(placed, address, seed) for n, placed in enumerate(chain)]
    appliers = [(context.count(p), _applier(context, p, call)) for p, call in zip(chain, calls, strict=True)]
    try:
        for batch in batches:
            for count, apply in appliers:
                if batch.num_rows == 0:
                    break
                started = time.perf_counter()
                batch = apply(batch)
                count.seconds += time.perf_counter() - started
            if batch.num_rows:
                yield batch
    finally:
        if isolated is not None:
            isolated.close()


def _applier(context: _Context, placed: Placed, call: Call) -> Apply:
    def apply(docs: pa.RecordBatch) -> pa.RecordBatch:
        result = attempt(call, docs)
        if isinstance(result, BaseException):
            result = attempt(call, docs)  # once more: not every fault is the record's
        if isinstance(result, BaseException):
            return _without_failed(context, placed, call, docs, result)
        return _booked(context, placed, docs, result)

    return apply


def _booked(context: _Context, placed: Placed, docs: pa.RecordBatch, result: Result) -> pa.RecordBatch:
    """The rows after the stage; the rest are drops, and the account knows all of them."""
    match placed.stage:
        case Filter() as stage:
            return _filter(context, placed, stage, docs, result)
        case Annotate() as stage:
            assert isinstance(result, dict)
            return _annotate(context, placed, stage, docs, result)
        case Expand() as stage:
            return _expand(context, placed, stage, docs, result)
    raise AssertionError(placed.stage)


def _filter(
    context: _Context, placed: Placed, stage: Filter, docs: pa.RecordBatch, reasons: pa.Array
) -> pa.RecordBatch:
    count = context.count(placed)
    count.rows_in += docs.num_rows
    if reasons.null_count < len(reasons):
        gone = reasons.is_valid()
        dropped = docs.filter(gone)
        context.drop(drop_rows(dropped, placed.step, reasons.filter(gone), stage.evidence(), context.work.seed))
        count.rows_dropped += dropped.num_rows
        docs = docs.filter(reasons.is_null())
    count.rows_out += docs.num_rows
    return checked(docs, placed)


def _annotate(
    context: _Context, placed: Placed, stage: Annotate, docs: pa.RecordBatch, added: dict[str, pa.Array]
) -> pa.RecordBatch:
    count = context.count(placed)
    count.rows_in += docs.num_rows
    count.rows_out += docs.num_rows
    columns = dict(zip(docs.schema.names, docs.columns, strict=True)) | added
    for name in stage.removes():
        columns.pop(name, None)
    return checked(pa.RecordBatch.from_pydict(columns), placed)


def _expand(
    context: _Context, placed: Placed, stage: Expand, docs: pa.RecordBatch, rows: pa.RecordBatch
) -> pa.RecordBatch:
    count = context.count(placed)
    children = checked(rows, placed)
    names = children.schema.names
    parents = children["parent_ids"].flatten() if "parent_ids" in names else children["parent_id"]
    childless = pc.invert(pc.is_in(docs["id"], value_set=parents))
    dropped = docs.filter(childless)
    if dropped.num_rows:
        reasons = pa.repeat(pa.scalar(stage.childless_reason), dropped.num_rows)
        context.drop(drop_rows(dropped, placed.step, reasons, (), context.work.seed))
    count.rows_in += docs.num_rows
    count.rows_out += children.num_rows
    count.rows_dropped += dropped.num_rows
    return children


# ---------------------------------------------------------------------------------------------------- records at fault


def _without_failed(
    context: _Context, placed: Placed, call: Call, docs: pa.RecordBatch, error: BaseException
) -> pa.RecordBatch:
    """The rows of a batch on which the stage fails, less the records at fault; or, with `on_error: stop`, their name."""
    bounds = units(docs, _unit(context, placed))
    if placed.on_error == "stop":
        raise _named(context, placed, *culprit(call, docs, bounds, error)) from error
    kept = []
    for piece, result in pieces(call, docs, bounds, error):
        if isinstance(result, BaseException):
            _drop_failed(context, placed, piece, result)
        else:
            kept.append(_booked(context, placed, piece, result))
    return one_batch(pa.Table.from_batches(kept, schema=placed.schema))


def _unit(context: _Context, placed: Placed) -> str | None:
    """The column whose groups must stay whole; None where every row stands for itself."""
    if isinstance(placed.stage, Expand) and (column := placed.stage.groups_by()):
        return column
    head = context.work.head
    if head is not None and isinstance(head.stage, Exchange) and head.stage.max_group_bytes is not None:
        return head.stage.by
    return None


def _named(context: _Context, placed: Placed, docs: pa.RecordBatch, error: BaseException) -> RecordFailed:
    record = f"record {docs['id'][0].as_py().hex()}, {_origins(context, docs)[0].as_py()}"
    where = record if docs.num_rows == 1 else f"{docs.num_rows} records that fail together, the first of them {record}"
    return RecordFailed(f"{described(error)} (step '{placed.step}' of dataset '{placed.dataset}', {where})")


def _origins(context: _Context, docs: pa.RecordBatch) -> pa.Array:
    """Where the records came from, as far as their columns or the part's name tell."""
    known = docs["origin"] if "origin" in docs.schema.names else pa.nulls(docs.num_rows, pa.large_string())
    part = context.task.part_name
    return pc.coalesce(known, pa.array([f"{part}#{key.hex()}" for key in docs["id"].to_pylist()], pa.large_string()))


def _drop_failed(context: _Context, placed: Placed, docs: pa.RecordBatch, error: BaseException) -> None:
    """All of `docs` (one record, or one group) become drops."""
    count = context.count(placed)
    count.rows_in += docs.num_rows
    count.rows_dropped += docs.num_rows
    count.rows_failed += docs.num_rows
    if count.rows_failed >= FAILED_ROWS and 2 * count.rows_failed > count.rows_in:
        failed = RecordFailed(
            f"{described(error)} (step '{placed.step}' of dataset '{placed.dataset}' fails on {count.rows_failed} of "
            f"{count.rows_in} records: on_error: drop is for single records)"
        )
        raise failed from error
    columns = dict(zip(docs.schema.names, docs.columns, strict=True)) | {"origin": _origins(context, docs)}
    reasons = pa.repeat(pa.scalar(f"failed: {described(error)}"), docs.num_rows)
    context.drop(drop_rows(pa.RecordBatch.from_pydict(columns), placed.step, reasons, (), context.work.seed))


# ---------------------------------------------------------------------------------------------------- writing


def _write(context: _Context, batches: Iterator[pa.RecordBatch]) -> int:
    """Consume `batches`; returns the rows of the part's own output."""
    work = context.work
    if work.write is None:
        return _write_rows(context, batches)
    match work.write.stage:
        case Exchange() as exchange:
            return _write_exchange(context, exchange, batches)
        case Fold():
            return _write_table(context, work.write) if work.fold else _write_summary(context, work.write, batches)
        case Sink():
            return _write_sink(context, work.write, batches)
    msg = f"step '{work.write.step}' ({work.write.stage.kind}) cannot end a task"
    raise TypeError(msg)


def _write_rows(context: _Context, batches: Iterator[pa.RecordBatch]) -> int:
    task, work = context.task, context.work
    writer = PartWriter(context.files, part_path(task.folder, task.part), work.schema, "zstd" if work.keep else "lz4")
    for batch in batches:
        writer.write(batch)
    writer.close()
    return writer.rows


def _write_exchange(context: _Context, exchange: Exchange, batches: Iterator[pa.RecordBatch]) -> int:
    task = context.task
    path = part_path(task.folder, task.part, "exchange")
    writer = ExchangeWriter(context.files, path, exchange, context.work.schema)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return writer.rows


def _write_summary(context: _Context, placed: Placed, batches: Iterator[pa.RecordBatch]) -> int:
    task = context.task
    stage = context.bound(placed)
    assert isinstance(stage, Fold)
    count = context.count(placed)
    started = time.perf_counter()
    summary = stage.summary(_pulled(batches, count), context.work.label)
    count.seconds += time.perf_counter() - started
    count.rows_out += summary.num_rows
    write_table(context.files, part_path(task.folder, task.part), pa.Table.from_batches([summary]))
    return int(summary.num_rows)


def _write_table(context: _Context, placed: Placed) -> int:
    task, work = context.task, context.work
    stage = context.bound(placed)
    assert isinstance(stage, Fold)
    count = context.count(placed)
    summaries = (one_batch(read_table(context.storage, path)) for path in task.read.paths)
    started = time.perf_counter()
    table = stage.fold(_pulled(summaries, count))
    count.seconds += time.perf_counter() - started
    count.rows_out += table.num_rows
    write_table(context.files, table_path(task.folder), table)
    if work.publish:
        write_table(context.files, work.publish, marked(table, task.folder))
    return int(table.num_rows)


def marked(table: pa.Table, folder: str) -> pa.Table:
    """`table` with the step folder that it came from in its metadata, as a published copy carries it."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), ORIGIN_KEY: folder.encode()})


def table_path(folder: str) -> str:
    """Where a fold's table lies."""
    return f"{folder}/table.parquet"


def _write_sink(context: _Context, placed: Placed, batches: Iterator[pa.RecordBatch]) -> int:
    task = context.task
    stage = context.bound(placed)
    assert isinstance(stage, Sink)
    count = context.count(placed)
    writer = PartWriter(context.files, part_path(task.folder, task.part), placed.schema, "zstd")
    rows = _pulled(batches, count)
    started = time.perf_counter()
    for described_rows in stage.write(rows, context.files, task.part):
        writer.write(checked(described_rows, placed))
    left = sum(batch.num_rows for batch in itertools.islice(rows, 1))
    if left:
        msg = f"step '{placed.step}' ({stage.kind}) left rows unread"
        raise AssertionError(msg)
    count.seconds += time.perf_counter() - started
    count.rows_out = count.rows_in
    writer.close()
    return writer.rows


def _pulled(batches: Iterator[pa.RecordBatch], count: StageCount) -> Iterator[pa.RecordBatch]:
    """`batches` on their way into a Fold or Sink: rows are counted, and the time of the stages before it is not its own."""
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        count.seconds -= time.perf_counter() - started
        if batch is None:
            return
        count.rows_in += batch.num_rows
        yield batch


def _timed(items: Iterator[Any], count: StageCount) -> Iterator[Any]:
    """`items`, with the time that it takes to make them counted."""
    while True:
        started = time.perf_counter()
        item = next(items, None)
        count.seconds += time.perf_counter() - started
        if item is None:
            return
        yield item
