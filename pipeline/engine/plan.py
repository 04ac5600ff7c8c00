"""The physical plan: which tasks run, what each reads and writes, and which steps are done already.

Neighbouring row-local stages fuse into one physical step. Cuts come at an Exchange, a Fold, a Sink, where rows have
two consumers, at the end of a dataset, between stages with and without a GPU, and at `checkpoint: true`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any, Literal

import pyarrow as pa

from pipeline.engine.graph import FileVersions, Node, Producers, build_graph, digest
from pipeline.engine.rowlocal import Placed
from pipeline.engine.storage import Storage
from pipeline.engine.task import Read, Task, Work, part_path, table_path
from pipeline.stage import Chain, Exchange, Expand, Fold, Resources, Sink, Source, SourcePart, Stage

Kind = Literal["rows", "exchange", "summary", "fold", "sink"]


@dataclass(frozen=True)
class PhysicalStep:
    """One folder of the run: tasks that read alike, run the same fused stages and write alike."""

    key: str
    dataset: str
    label: str
    kind: Kind
    folder: str
    fingerprint: str
    identity: Mapping[str, Any]
    nodes: tuple[str, ...]
    """Logical nodes that run in it, in order."""
    read_kind: Literal["source", "parts", "exchange", "table_rows", "nothing"]
    reads: tuple[str, ...]
    """Physical steps whose output it reads."""
    waits: tuple[str, ...]
    """Physical steps that must be done before it starts: `reads` and those whose tables it loads."""
    chain: tuple[Placed, ...]
    head: Placed | None
    """The Source or the Exchange that it reads through."""
    write: Placed | None
    schema: pa.Schema | None
    read_schema: pa.Schema | None
    source_parts: tuple[SourcePart, ...] = ()
    publish: str | None = None
    keep: bool = False
    where: str = ""

    @property
    def part_by_part(self) -> bool:
        """Whether each of its tasks reads one part of `reads`, and may start as soon as that part is done."""
        return self.read_kind == "parts" and self.kind != "fold"

    @property
    def resources(self) -> Resources:
        """What each of its tasks asks for: the most that any of its stages does."""
        stages = (placed.stage for placed in (self.head, *self.chain, self.write) if placed is not None)
        return reduce(or_, (stage.resources() for stage in stages), Resources())


@dataclass
class _Pipe:
    """A row of fused stages that still waits for its end."""

    read_kind: Literal["source", "parts", "exchange", "table_rows", "nothing"]
    reads: tuple[str, ...] = ()
    head: Placed | None = None
    read_schema: pa.Schema | None = None
    source_parts: tuple[SourcePart, ...] = ()
    chain: list[Placed] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)

    def schema(self) -> pa.Schema | None:
        if self.chain:
            return self.chain[-1].schema
        return self.head.schema if self.head else self.read_schema


@dataclass(frozen=True)
class Plan:
    """Physical steps, upstream first."""

    steps: tuple[PhysicalStep, ...]
    nodes: Mapping[str, Node]
    seed: int

    def step(self, key: str) -> PhysicalStep:
        return next(one for one in self.steps if one.key == key)


class _Planner:
    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes
        self.steps: list[PhysicalStep] = []
        self.pipes: dict[str, _Pipe] = {}
        self.tables: dict[str, PhysicalStep] = {}
        self.count: dict[str, int] = defaultdict(int)
        consumers: dict[str, list[Node]] = defaultdict(list)
        for node in nodes.values():
            for key in node.inputs:
                consumers[key].append(node)
        self.consumers = consumers

    def plan(self) -> tuple[PhysicalStep, ...]:
        for node in self.nodes.values():
            self._visit(node)
        return tuple(self.steps)

    def _placed(self, node: Node) -> Placed:
        tables = tuple((local, table_path(self.tables[key].folder)) for local, key in node.tables)
        schema = node.schema if node.schema is not None else pa.schema([])
        return Placed(node.dataset, node.name, node.stage, schema, tables, node.when, node.on_error)

    def _open(self, node: Node) -> _Pipe:
        """A pipe whose rows are what `node` reads."""
        if node.table_rows:
            step = self.tables[node.table_rows]
            return _Pipe("table_rows", reads=(step.key,))
        if not node.inputs:
            return _Pipe("nothing")
        if len(node.inputs) == 1:
            pipe = self.pipes[node.inputs[0]]
            return replace(pipe, chain=list(pipe.chain), nodes=list(pipe.nodes), waits=list(pipe.waits))
        reads = tuple(dict.fromkeys(key for one in node.inputs for key in self.pipes[one].reads))
        merged: dict[str, pa.Field] = {}
        for one in node.inputs:
            for f in self.nodes[one].schema or ():
                merged.setdefault(f.name, f)
        return _Pipe("parts", reads=reads, read_schema=pa.schema(list(merged.values())))

    def _visit(self, node: Node) -> None:
        match node.stage:
            case Source():
                pipe = _Pipe("source", head=self._placed(node), source_parts=node.parts, nodes=[node.key])
            case Exchange():
                pipe = self._exchanged(node, self._placed(node), self._open(node))
                pipe.nodes = [node.key]
            case Fold():
                self._fold(node)
                return
            case Sink():
                step = self._close(self._open(node), node, "sink", self._placed(node), node.name)
                pipe = _Pipe("parts", reads=(step.key,), read_schema=node.schema)
                self.pipes[node.key] = pipe
                return
            case _:
                pipe = self._open(node)
                group = node.stage.groups_by() if isinstance(node.stage, Expand) else None
                if group:
                    assert isinstance(node.stage, Expand)
                    before = pipe.schema()
                    assert before is not None
                    exchange = Exchange(by=group, max_group_bytes=node.stage.max_group_bytes())
                    pipe = self._exchanged(node, Placed(node.dataset, f"{node.name}/exchange", exchange, before), pipe)
                pipe.chain.append(self._placed(node))
                pipe.nodes.append(node.key)
                pipe.waits += [self.tables[key].key for _, key in node.tables]
        self.pipes[node.key] = self._materialised(node, pipe) if self._must_rest(node) else pipe

    def _must_rest(self, node: Node) -> bool:
        """Whether the rows after `node` are written as parts."""
        following = self.consumers[node.key]
        if isinstance(node.stage, Exchange):
            return node.ends_dataset or len(following) != 1
        if node.checkpoint or node.ends_dataset or len(following) != 1 or len(following[0].inputs) > 1:
            return True
        return _changes_machine(node.stage, following[0].stage)

    def _materialised(self, node: Node, pipe: _Pipe) -> _Pipe:
        label = f"{node.name}/rows" if isinstance(node.stage, Exchange) else node.name
        step = self._close(pipe, node, "rows", None, label)
        return _Pipe("parts", reads=(step.key,), read_schema=node.schema)

    def _exchanged(self, node: Node, placed: Placed, pipe: _Pipe) -> _Pipe:
        step = self._close(pipe, node, "exchange", placed, placed.step)
        return _Pipe("exchange", reads=(step.key,), head=placed)

    def _fold(self, node: Node) -> None:
        placed = self._placed(node)
        summaries: list[PhysicalStep] = []
        for number, key in enumerate(node.inputs):
            one = replace(node, inputs=(key,))
            label = (
                f"{node.name}/summary" if len(node.inputs) == 1 else f"{node.name}/summary-{self.nodes[key].dataset}"
            )
            if label in [s.label for s in summaries]:
                label += f"-{number}"
            summaries.append(self._close(self._open(one), node, "summary", placed, label))
        pipe = _Pipe("parts", reads=tuple(s.key for s in summaries))
        self.tables[node.key] = self._close(pipe, node, "fold", placed, node.name)

    def _close(self, pipe: _Pipe, node: Node, kind: Kind, write: Placed | None, label: str) -> PhysicalStep:
        """End a pipe: one physical step with a folder of its own."""
        nodes = [*pipe.nodes, *([node.key] if node.key not in pipe.nodes else [])]
        identity: dict[str, Any] = {"kind": kind, "label": label, "last": node.fingerprint}
        if kind == "exchange" and write is not None:
            identity["exchange"] = write.stage.model_dump(mode="json")
        fingerprint = digest(identity)
        number = self.count[node.dataset]
        self.count[node.dataset] += 1
        waits = [*pipe.reads, *pipe.waits]
        if write is not None:
            waits += [self.tables[key].key for _, key in node.tables]
        step = PhysicalStep(
            key=f"{node.dataset}/{label}",
            dataset=node.dataset,
            label=label,
            kind=kind,
            folder=f"datasets/{node.dataset}/{number:02d}-{label.replace('/', '.')}-{fingerprint[:8]}",
            fingerprint=fingerprint,
            identity={key: dict(self.nodes[key].identity) for key in nodes},
            nodes=tuple(nodes),
            read_kind=pipe.read_kind,
            reads=pipe.reads,
            waits=tuple(dict.fromkeys(waits)),
            chain=tuple(pipe.chain),
            head=pipe.head,
            write=write,
            schema=pipe.schema() if kind in ("rows", "exchange") else node.schema,
            read_schema=_narrowed(pipe, write),
            source_parts=pipe.source_parts,
            publish=node.publish if kind == "fold" else None,
            keep=kind == "rows" and node.ends_dataset,
            where=node.where,
        )
        if any(one.key == step.key for one in self.steps):
            msg = f"two physical steps are called {step.key}"
            raise AssertionError(msg)
        self.steps.append(step)
        return step


def _changes_machine(before: Stage, after: Stage) -> bool:
    """Whether neighbours differ in needing a GPU. What ends at an exchange is cut there already."""
    if isinstance(after, Exchange) or (isinstance(after, Expand) and after.groups_by()):
        return False
    return bool(before.resources().num_gpus) != bool(after.resources().num_gpus)


def _narrowed(pipe: _Pipe, write: Placed | None) -> pa.Schema | None:
    """Columns to read from parts: all of them, or only what the first stage needs where it says so."""
    schema = pipe.read_schema
    if pipe.read_kind != "parts" or schema is None:
        return schema
    first = pipe.chain[0].stage if pipe.chain else write.stage if write else None
    if (isinstance(first, Fold) and first.needs()) or (isinstance(first, Expand) and first.narrow):
        wanted = {"id", *(f.name for f in first.needs())}
        return pa.schema([f for f in schema if f.name in wanted])
    return schema


def make_plan(chains: Sequence[Chain], seed: int, versions: FileVersions, producers: Producers) -> Plan:
    """Resolve, check and fuse. Raises graph.PlanError."""
    nodes = build_graph(chains, seed, versions, producers)
    return Plan(_Planner(nodes).plan(), nodes, seed)


# ---------------------------------------------------------------------------------------------------- tasks


def tasks_of(plan: Plan, step: PhysicalStep, parts: Mapping[str, int], table_rows: int | None) -> list[Task]:
    """All tasks of a step. `parts` counts the parts of the steps that it reads; `table_rows` the rows of its table."""
    upstream = [plan.step(key) for key in step.reads]
    before = [(one, n) for one in upstream for n in range(parts[one.key])]
    exchanged = step.read_kind == "exchange"
    work = Work(
        step_key=step.key, folder=step.folder, label=upstream[0].dataset if upstream else step.dataset, head=step.head,
        exchange_files=tuple(part_path(one.folder, n, "exchange") for one, n in before) if exchanged else (),
        read_schema=step.read_schema if step.reads else pa.schema([]), chain=step.chain, write=step.write,
        fold=step.kind == "fold", seed=plan.seed, publish=step.publish, keep=step.keep, resources=step.resources,
    )  # fmt: skip
    if step.read_kind == "source":
        return [
            Task(work, n, part.name, Read(source=part), bytes_in=sum(f.size for f in part.files))
            for n, part in enumerate(step.source_parts)
        ]
    if step.read_kind == "nothing":
        return [Task(work, 0, "all", Read())]
    if step.read_kind == "table_rows":
        path = table_path(upstream[0].folder)
        return [Task(work, n, f"row {n}", Read(table_row=(path, n))) for n in range(table_rows or 0)]
    if exchanged:
        assert step.head is not None
        assert isinstance(step.head.stage, Exchange)
        return [Task(work, n, f"partition {n}", Read(partition=n)) for n in range(step.head.stage.partitions)]
    paths = [part_path(one.folder, n) for one, n in before]
    if step.kind == "fold":
        return [Task(work, 0, "all", Read(paths=tuple(paths)))]
    return [
        Task(work, number, path, Read(paths=(path,)), after=(one.key, n))
        for number, (path, (one, n)) in enumerate(zip(paths, before, strict=True))
    ]


# ---------------------------------------------------------------------------------------------------- what is done already


@dataclass(frozen=True)
class Status:
    """Whether a step is done in a run folder, and if not, why."""

    done: bool
    parts_done: int
    parts: int | None
    why: str
    cleaned: bool = False
    """Its files were removed by `housekeeping`, its accounts and manifest were not."""


def status_of(plan: Plan, storage: Storage) -> dict[str, Status]:
    """Per step: reused, or what changed, field by field."""
    result: dict[str, Status] = {}
    folders = {
        dataset: storage.names(f"datasets/{dataset}") for dataset in dict.fromkeys(s.dataset for s in plan.steps)
    }
    for step in plan.steps:
        manifest = storage.read_json(f"{step.folder}/manifest.json")
        if manifest is not None and manifest["fingerprint"] == step.fingerprint:
            why = "reused: nothing that it depends on changed"
            result[step.key] = Status(True, manifest["parts"], manifest["parts"], why, manifest.get("cleaned", False))
            continue
        started = len(storage.names(f"{step.folder}/account"))
        why = f"interrupted: {started} parts were done" if started else _why(step, storage, folders[step.dataset])
        known = len(step.source_parts) if step.read_kind == "source" else None
        result[step.key] = Status(False, started, known, why)
    for step in reversed(plan.steps):  # readers first: a cleaned step that must run again may read a cleaned one itself
        if result[step.key].cleaned:
            readers = [one.key for one in plan.steps if step.key in one.reads and not result[one.key].done]
            if readers:
                why = f"its files were cleaned away, and {readers[0]} reads them again"
                result[step.key] = Status(False, 0, None, why, cleaned=True)
    return result


def _why(step: PhysicalStep, storage: Storage, folders: list[str]) -> str:
    """Field by field, what differs from the newest earlier folder of the same step."""
    suffix = f"-{step.label.replace('/', '.')}-"
    own = step.folder.rsplit("/", 1)[-1]
    earlier = [
        name
        for name in folders
        if name != own and suffix in name and name[2:].startswith(suffix) and len(name) == len(own)
    ]
    manifests = [storage.read_json(f"datasets/{step.dataset}/{name}/manifest.json") for name in earlier]
    found = sorted((m for m in manifests if m), key=lambda m: m.get("finished", 0))
    if not found:
        return "new"
    before = found[-1]["identity"]
    changes = []
    for key, identity in step.identity.items():
        if key not in before:
            changes.append(f"step {key} is new")
            continue
        changes += _differences(key, before[key], identity, inside=step.identity)
    changes += [f"step {key} is gone" for key in before if key not in step.identity]
    return (
        "; ".join(changes[:4]) + (f" (and {len(changes) - 4} more)" if len(changes) > 4 else "") or "its inputs changed"
    )


def _differences(key: str, before: Mapping[str, Any], now: Mapping[str, Any], inside: Container[str]) -> list[str]:
    """What changed in one stage. A change upstream that lies `inside` the same step is told there already."""
    changes = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name == "settings" and isinstance(old, dict) and isinstance(new, dict):
            changes += [
                f"{key}: {s} {old.get(s)!r} -> {new.get(s)!r}" for s in sorted({*old, *new}) if old.get(s) != new.get(s)
            ]
        elif name in ("inputs", "tables") and isinstance(old, dict) and isinstance(new, dict):
            if upstream := [one for one in sorted({*old, *new}) if old.get(one) != new.get(one) and one not in inside]:
                changes.append(f"{key}: upstream {', '.join(upstream)} changed")
        elif name == "parts":
            changes.append(f"{key}: input files changed")
        else:
            changes.append(f"{key}: {name} {old!r} -> {new!r}")
    return changes
