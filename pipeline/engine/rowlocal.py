"""A row-local stage in its place, and the one call that it gets per batch.

The call is a pure function of the batch, apart from what the task counts and writes, so that a batch which fails can
be asked again in halves (`poison.py`), here or in another process. Cost: about 20 us a stage and part to bind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.parts import read_table
from pipeline.engine.predicate import Predicate
from pipeline.engine.storage import Storage
from pipeline.stage import Annotate, Expand, Filter, OnError, Stage

Result: TypeAlias = Any
"""pa.Array | dict[str, pa.Array] | pa.RecordBatch: what a stage says of a batch: a Filter's reasons, an Annotate's columns, an Expand's rows."""

Call = Callable[[pa.RecordBatch], Result]


class ContractError(ValueError):
    """A stage gave something else than it declares: the stage is at fault, not a record."""


TABLES_HELD = 32
"""Tables of folds that a worker process keeps: a chain of fused stages uses a handful."""


@dataclass(frozen=True)
class Placed:
    """A stage in its place: step name, settings, tables to load (name -> path), columns afterwards."""

    dataset: str
    step: str
    stage: Stage
    schema: pa.Schema
    tables: tuple[tuple[str, str], ...] = ()
    when: str | None = None
    on_error: OnError = "stop"


def bound(placed: Placed, address: str, seed: int) -> Stage:
    """The stage with its step name, the seed and its tables."""
    tables = {name: cached_table(address, path) for name, path in placed.tables}
    return placed.stage.bound(name=placed.step, seed=seed, tables=tables)


@lru_cache(TABLES_HELD)
def cached_table(address: str, path: str) -> pa.Table:
    """A fold's table, loaded once per worker process (its path names its content)."""
    return read_table(Storage(address), path)


def row_call(placed: Placed, address: str, seed: int) -> Call:
    """What `placed` does with a batch, rows outside its `when` untouched."""
    stage = bound(placed, address, seed)
    predicate = Predicate(placed.when) if placed.when else None
    match stage:
        case Filter():
            return lambda docs: _reasons(stage, predicate, docs)
        case Annotate():
            return lambda docs: _columns(stage, predicate, docs)
        case Expand():
            return stage.rows
    msg = f"step '{placed.step}' ({stage.kind}) is no row-local stage"
    raise TypeError(msg)


def _reasons(stage: Filter, predicate: Predicate | None, docs: pa.RecordBatch) -> pa.Array:
    """Rows outside `when` are kept, unseen."""
    if predicate is not None:
        mask = predicate.mask(docs)
        if mask.true_count == 0:
            return pa.nulls(docs.num_rows, pa.string())
        return _reasons(stage, None, docs.filter(mask)).take(_places(mask))
    reasons = stage.reasons(docs)
    if len(reasons) != docs.num_rows:
        msg = f"step '{stage.name}' gave {len(reasons)} reasons for {docs.num_rows} rows"
        raise ContractError(msg)
    return reasons


def _columns(stage: Annotate, predicate: Predicate | None, docs: pa.RecordBatch) -> dict[str, pa.Array]:
    """Rows outside `when` keep their value, or null where the column is new."""
    mask = None if predicate is None else predicate.mask(docs)
    given = dict(stage.columns(docs if mask is None else docs.filter(mask)))
    declared = {f.name for f in stage.adds()}
    if set(given) != declared:
        msg = f"step '{stage.name}' ({stage.kind}) declares columns {sorted(declared)}, but gave {sorted(given)}"
        raise ContractError(msg)
    if mask is None:
        return given
    where = _places(mask)
    for f in stage.adds():
        new = given[f.name].take(where)  # null where the row was not chosen
        given[f.name] = pc.if_else(mask, new, docs[f.name].cast(f.type)) if f.name in docs.schema.names else new
    return given


def _places(mask: pa.BooleanArray) -> pa.Array:
    """Per row its place among the chosen ones, null where it is not chosen."""
    return pc.index_in(pa.array(np.arange(len(mask), dtype=np.uint64)), value_set=pc.indices_nonzero(mask))


def checked(batch: pa.RecordBatch, placed: Placed) -> pa.RecordBatch:
    """`batch` in the declared column order; a missing or differently typed column is an error, a surplus one is left out."""
    missing = [name for name in placed.schema.names if name not in batch.schema.names]
    if missing:
        msg = f"step '{placed.step}' ({placed.stage.kind}): column {missing} was declared but is not there; got {batch.schema.names}"
        raise ContractError(msg)
    arrays = []
    for f in placed.schema:
        array = batch[f.name]
        if array.type != f.type:
            msg = f"step '{placed.step}' ({placed.stage.kind}): column '{f.name}' was declared {f.type}, but is {array.type}"
            raise ContractError(msg)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=placed.schema)
