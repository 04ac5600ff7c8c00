"""The stage contract: settings plus one method over an Arrow batch of many documents.

    class MinWords(Filter):
        kind = "min_words"
        least: int = 50

        def needs(self): return (TEXT,)
        def reasons(self, docs): ...          # pa.StringArray: null keeps the row, else why it goes

Seven words, by shape (DESIGN.md section 3): Source, Filter, Annotate, Expand, Exchange, Fold, Sink. A Compound
expands into simple steps at plan time and never runs itself. Stages know nothing of files, parts, workers or
executors; the engine knows the words and never a stage.

A stage runs in a REPL as it is: `MinWords(least=3).reasons(batch)`. Within a run the engine hands it a copy that
knows its step name, the recipe's seed and the tables that it asked for (`bound`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Literal, Protocol, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, PrivateAttr

from pipeline.schema import CREATED, ID, LANGUAGE, LICENCE, ORIGIN, TEXT, document_id, schema_of

Word = Literal["source", "filter", "annotate", "expand", "exchange", "fold", "sink"]

OnError = Literal["stop", "drop"]
"""What a record does on which a row-local stage fails: ends the run, or becomes a drop `failed: <error>`."""


@dataclass(frozen=True)
class Resources:
    """What one task of a stage asks of the machine that runs it. Never part of its identity.

    Memory is the peak of a whole worker process: interpreter, libraries and kernels (0.3 GB), batches on their way
    (16 MB of text each, several copies), and what the stage itself holds.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 1 << 30
    gpu_optional: bool = False
    """The stage runs without its GPU where there is none, with the same rows."""

    def __or__(self, other: Resources) -> Resources:
        """What two stages in one task ask for: the larger of each."""
        return Resources(
            max(self.num_cpus, other.num_cpus),
            max(self.num_gpus, other.num_gpus),
            max(self.memory_bytes, other.memory_bytes),
            (self.gpu_optional or not self.num_gpus) and (other.gpu_optional or not other.num_gpus),
        )


class Stage(BaseModel):
    """Frozen settings, validated when the recipe is read; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str] = ""
    """The name that a recipe uses."""
    rev: ClassVar[int] = 1
    """Raised by hand whenever the same settings would give other rows: part of the fingerprint."""
    seeded: ClassVar[bool] = False
    """Whether the result depends on the recipe's seed (`self.seed`)."""

    _name: str = PrivateAttr(default="")
    _seed: int = PrivateAttr(default=0)
    _tables: dict[str, pa.Table] = PrivateAttr(default_factory=dict)

    def needs(self) -> tuple[pa.Field, ...]:
        """Columns that must be there, checked by name and type before anything runs."""
        return ()

    def adds(self) -> tuple[pa.Field, ...]:
        """Columns that are added or rewritten."""
        return ()

    def removes(self) -> tuple[str, ...]:
        """Columns that are dropped afterwards (they may be absent)."""
        return ()

    def files(self) -> tuple[str, ...]:
        """Outside files (models, word lists) whose content is part of this stage's identity."""
        return ()

    def packages(self) -> tuple[str, ...]:
        """Installed distributions whose version is part of this stage's identity (a parser, a model that ships in one)."""
        return ()

    def resources(self) -> Resources:
        """Cores, GPUs and memory of one task. A stage with a GPU never shares a task with stages without one."""
        return Resources()

    def bound(self, *, name: str = "", seed: int = 0, tables: Mapping[str, pa.Table] | None = None) -> Self:
        """A copy that knows where it runs: its step name, the recipe's seed, the fold tables it asked for."""
        copy = self.model_copy()
        copy._name, copy._seed, copy._tables = name, seed, dict(tables or {})
        return copy

    @property
    def name(self) -> str:
        """The step's name in the recipe, or the kind outside a run."""
        return self._name or self.kind

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self._seed

    def table(self, name: str) -> pa.Table:
        """The fold table called `name` in the step's `tables`."""
        if name not in self._tables:
            msg = f"stage '{self.name}' asked for table '{name}', but was given {sorted(self._tables) or 'none'}"
            raise KeyError(msg)
        return self._tables[name]


# ---------------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class InputFile:
    """An outside file as the plan saw it. `version` is its etag, or its mtime in nanoseconds on a disk."""

    path: str
    size: int
    version: str


@dataclass(frozen=True)
class SourcePart:
    """One unit of reading, retry and resume. `settings` is JSON that only the source understands."""

    name: str
    files: tuple[InputFile, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    """A record that could not become a document: a counted drop. `reason` reads `unreadable: <what>`."""

    origin: str
    reason: str
    chars: int | None = None


SOURCE_COLUMNS = (ID, ORIGIN, TEXT, LANGUAGE, LICENCE, CREATED)


class Source(Stage):
    """Outside -> rows. Unreadable input is yielded as `Unreadable`: never a silent skip, never the end of the run."""

    word: ClassVar[Word] = "source"

    def schema(self) -> pa.Schema:  # type: ignore[override]  # pydantic's deprecated `schema` is no loss
        """Columns of every batch."""
        return schema_of(SOURCE_COLUMNS)

    def parts(self) -> list[SourcePart]:
        """All units of reading, in an order that never changes. Cheap: it runs whenever a plan is made."""
        raise NotImplementedError

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        """The rows of one part, in bounded batches."""
        raise NotImplementedError


def in_batches(
    rows: Iterable[Mapping[str, Any] | Unreadable],
    schema: pa.Schema,
    *,
    max_bytes: int = 16 << 20,
    max_rows: int = 8192,
) -> Iterator[pa.RecordBatch | Unreadable]:
    """Gather rows (one mapping each; missing columns are null) into batches of about `max_bytes` of text or html.

    Memory: `max_bytes` plus one row. For sources, whose records come one at a time out of a parser; hot paths behind
    them work on whole batches.
    """
    waiting: list[Mapping[str, Any]] = []
    size = 0

    def batch() -> pa.RecordBatch:
        columns = [pa.array([row.get(f.name) for row in waiting], f.type) for f in schema]
        waiting.clear()  # before the batch goes out: a row may be as large as a batch
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    for row in rows:
        if isinstance(row, Unreadable):
            yield row
            continue
        waiting.append(row)
        size += sum(len(value) for value in row.values() if isinstance(value, (str, bytes)))
        if size >= max_bytes or len(waiting) >= max_rows:
            size = 0
            del row
            yield batch()
    if waiting:
        yield batch()


def unreadable_id(drop: Unreadable) -> bytes:
    """The id under which an unreadable record stands among the drops."""
    return document_id("unreadable", drop.origin)


# ---------------------------------------------------------------------------------------------------- row-local


class Filter(Stage):
    """1 row -> 0 or 1. The engine applies the mask and writes (id, stage, reason, chars)."""

    word: ClassVar[Word] = "filter"

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        """One entry per row: null keeps it, otherwise the defect in words (`too_few_words`)."""
        raise NotImplementedError

    def evidence(self) -> tuple[str, ...]:
        """Columns (of schema.EVIDENCE) that a drop keeps, to say which document stood against it."""
        return ()


class Annotate(Stage):
    """1 row -> 1. New or rewritten columns, each as long as the batch."""

    word: ClassVar[Word] = "annotate"

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        """Exactly the columns of `adds()`."""
        raise NotImplementedError


class Expand(Stage):
    """1 row -> n, or many -> few when `groups_by` is set. Each row names its `parent_id` (or `parent_ids`)."""

    word: ClassVar[Word] = "expand"
    childless_reason: ClassVar[str] = "no_output"
    """Why a parent without children is a drop."""
    narrow: ClassVar[bool] = False
    """True when `rows` uses no column beyond `needs()`: after a checkpoint no other is read."""

    def output(self, schema: pa.Schema) -> pa.Schema:
        """Columns of the rows, given the columns of the parents. Must hold `id` and `parent_id` or `parent_ids`."""
        raise NotImplementedError

    def rows(self, docs: pa.RecordBatch) -> pa.RecordBatch:
        """The children of all rows, in the order of their parents."""
        raise NotImplementedError

    def groups_by(self) -> str | None:
        """A column whose equal values must come together: the plan then exchanges rows before this stage.

        Batches hold whole groups in (group, id) order; a group beyond `max_group_bytes` comes in pieces.
        """
        return None

    def max_group_bytes(self) -> int:
        """Text bytes beyond which a group is cut into pieces, each treated as a group of its own."""
        return 64 << 20


# ---------------------------------------------------------------------------------------------------- movement


class Exchange(Stage):
    """Movement: afterwards rows that share `by` share a partition, ordered by (`by`, `id`).

    `placement="hash"` spreads keys by hash; `"range"` (unsigned 64-bit keys only) keeps their order over
    partitions. `group_columns` adds `group_first` and `group_size`, so that most rules about groups stay row-local
    and a huge group is never held in memory.
    """

    kind: ClassVar[str] = "exchange"
    rev: ClassVar[int] = 2  # 2: integer keys are placed by their hash, one sorted range per partition
    word: ClassVar[Word] = "exchange"

    by: str
    partitions: int = 16
    placement: Literal["hash", "range"] = "hash"
    group_columns: bool = False
    columns: tuple[str, ...] | None = None
    """Columns that travel (besides `id` and `by`); all when null."""
    max_group_bytes: int | None = None
    """When set, batches never cut a group below this size (bytes of text)."""


class Fold(Stage):
    """All parts -> one small table: thresholds, supply, clusters, a trained model.

    `summary` runs beside the data, once per part, and keeps what is needed of it; `fold` runs once over the summaries
    in part order. The result must not depend on how rows are cut into parts and batches. Directly behind a checkpoint
    only the columns of `needs()` are read (all, when it names none). A Fold may have tables of its own, and behind an
    Exchange its parts are partitions in (key, id) order.
    """

    word: ClassVar[Word] = "fold"

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        """What `fold` needs of one part. `label` is the dataset that the part belongs to."""
        raise NotImplementedError

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        """The table; columns as its consumer expects them."""
        raise NotImplementedError


class RunFiles(Protocol):
    """The files of a run, as a Sink sees them: paths are relative to the run's folder, `/` between names."""

    def create(self, path: str) -> BinaryIO:
        """A new file, written under a temporary name; all files of a part appear together when it commits."""
        ...

    def open(self, path: str) -> pa.NativeFile:
        """A finished file, for reading at any offset (memory-mapped on a local disk)."""
        ...

    def url(self, path: str) -> str:
        """The absolute path or URL of a file of the run, for readers outside (a trainer's blend file)."""
        ...


class Sink(Stage):
    """Rows -> outside: token shards, Megatron files. Returns rows that describe what was written."""

    word: ClassVar[Word] = "sink"

    def output(self) -> pa.Schema:
        """Columns of the rows that `write` yields."""
        raise NotImplementedError

    def write(self, batches: Iterator[pa.RecordBatch], files: RunFiles, part: int) -> Iterator[pa.RecordBatch]:
        """Write the rows of one part. Consumes all `batches`."""
        raise NotImplementedError


# ---------------------------------------------------------------------------------------------------- compounds and steps

INPUT = "<input>"
"""In a compound's steps: the rows that the compound itself was given."""

NOTHING = "<nothing>"
"""In a step's `after`: no rows at all; a Fold or Sink that works from its tables alone."""

DATASET = "dataset:"
"""Prefix of a reference to another dataset's rows: `dataset:books` (its last), `dataset:code@code_rules`."""


@dataclass(frozen=True)
class Step:
    """A stage placed in a graph.

    `after` names what it reads: siblings by step name, INPUT, NOTHING, or `dataset:NAME`; empty means the step before it (INPUT
    for the first). `tables` maps the name under which the stage asks for a table to the Fold step that makes it.
    `table_rows` names a Fold step whose table gives one part per row (Sinks of the curriculum).
    """

    name: str
    stage: Stage
    after: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    table_rows: str | None = None
    when: str | None = None
    expect_drop: tuple[float, float] | None = None
    checkpoint: bool = False
    on_error: OnError | None = None
    """None: as the compound around it, or the recipe, says; else stop."""
    publish: str | None = None
    """A fold's table is also written here, relative to the run (`curriculum/supply.parquet`)."""
    where: str = ""
    """File and line of the recipe, for error messages."""


@dataclass(frozen=True)
class Chain:
    """A dataset of a recipe: `steps` in order, the first one a source or `after` other datasets.

    `rows` names the step whose rows are the dataset's rows (what `dataset:NAME` refers to); steps behind it (token
    shards) only consume them. `dataset:NAME@STEP` refers to the rows after a named step.
    """

    name: str
    steps: tuple[Step, ...]
    rows: str


class Compound(Stage):
    """A stage that stands for several simple steps and never runs itself; its last step gives its rows."""

    def steps(self) -> list[Step]:
        """The simple steps, in order. Names are local: the plan prefixes them with `<step>/`."""
        raise NotImplementedError


# ---------------------------------------------------------------------------------------------------- randomness

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64 increment and mixers: Steele, Lea, Flood, OOPSLA 2014
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def random_keys(ids: pa.Array, seed: int, purpose: str) -> np.ndarray:
    """uint64[n]: one hash per id, a function of (seed, purpose, id) and of nothing else.

    `ids` is fixed_size_binary(16) without nulls. Every random choice in a run starts here, so that it never depends on
    order, part, worker or time.
    """
    salt = np.frombuffer(document_id(str(seed), purpose), "<u8")
    if len(ids) == 0:
        return np.empty(0, np.uint64)
    raw = np.frombuffer(ids.buffers()[1], np.uint8)[ids.offset * 16 : (ids.offset + len(ids)) * 16]
    words = raw.view("<u8").reshape(-1, 2)
    with np.errstate(over="ignore"):
        mixed: np.ndarray = _mix(_mix(words[:, 0] ^ salt[0]) + _mix(words[:, 1] ^ salt[1]) * _GOLDEN)
    return mixed


def uniforms(keys: np.ndarray) -> np.ndarray:
    """float64[n] in [0, 1) from uint64 keys: the top 53 bits."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


class AsItIs(Annotate):
    """Passes rows on unchanged: what a dataset without steps of its own does (a union, a renamed branch)."""

    kind: ClassVar[str] = "as_it_is"

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        """No new columns."""
        return {}


# ---------------------------------------------------------------------------------------------------- small helpers

_KIND = re.compile(r"[a-z][a-z0-9_]*")


def check_kind(stage: type[Stage]) -> None:
    """A kind is a lower-case word; raises ValueError otherwise."""
    if not _KIND.fullmatch(stage.kind):
        msg = f"{stage.__name__}.kind must be a lower-case word, not {stage.kind!r}"
        raise ValueError(msg)
