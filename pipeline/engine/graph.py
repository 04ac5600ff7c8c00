"""The logical graph: chains of steps resolved into nodes with columns, checked before anything runs.

Compounds are expanded, references are resolved, columns are propagated and checked, and every node gets its
fingerprint: a digest of its kind, revision, settings, seed (where it matters), outside files and everything upstream.
Pure functions over the words of `stage.py`; nothing here opens a file of the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib import metadata
from typing import Any

import pyarrow as pa

from pipeline.engine.exchange import exchanged_schema
from pipeline.engine.predicate import Predicate
from pipeline.schema import schema_of
from pipeline.stage import (
    DATASET,
    INPUT,
    NOTHING,
    Annotate,
    Chain,
    Compound,
    Exchange,
    Expand,
    Filter,
    Fold,
    InputFile,
    OnError,
    Sink,
    Source,
    SourcePart,
    Stage,
    Step,
)


class PlanError(ValueError):
    """The recipe cannot run as it stands; the message says where, what was found, and what to do."""


@dataclass(frozen=True)
class Node:
    """A simple step in the graph. `schema` is None for folds (they give a table, not rows)."""

    key: str
    dataset: str
    name: str
    stage: Stage
    inputs: tuple[str, ...]
    tables: tuple[tuple[str, str], ...]
    table_rows: str | None
    when: str | None
    expect_drop: tuple[float, float] | None
    checkpoint: bool
    on_error: OnError
    """No part of the identity: parts that ran without an error are the same under both."""
    publish: str | None
    where: str
    schema: pa.Schema | None
    identity: Mapping[str, Any]
    fingerprint: str
    parts: tuple[SourcePart, ...] = ()
    ends_dataset: bool = False


FileVersions = Callable[[str], InputFile]
Producers = Callable[[str], Sequence[str]]


def _simple_steps(step: Step, before: str | None) -> list[Step]:
    """`step` itself, or what its compound stands for (recursively), with full names and resolved neighbours."""
    after = step.after or ((before,) if before else ())
    if NOTHING in after or step.table_rows is not None:
        after = ()
    if not isinstance(step.stage, Compound):
        return [replace(step, after=after)]
    result: list[Step] = []
    previous: str | None = None
    inner = step.stage.bound(name=step.name).steps()
    own = {one.name for one in inner}

    def full(reference: str) -> tuple[str, ...]:
        if reference == INPUT:
            return after
        return (f"{step.name}/{reference}",) if reference in own else (reference,)

    for one in inner:
        references = one.after or ((previous,) if previous else (INPUT,))
        named = replace(
            one,
            name=f"{step.name}/{one.name}",
            after=tuple(name for reference in references for name in full(reference)),
            tables={local: full(table)[0] for local, table in one.tables.items()},
            table_rows=full(one.table_rows)[0] if one.table_rows else None,
            when=one.when or (step.when if isinstance(one.stage, (Filter, Annotate)) else None),
            expect_drop=one.expect_drop or (step.expect_drop if isinstance(one.stage, Filter) else None),
            on_error=one.on_error or step.on_error,
            where=one.where or step.where,
        )
        result += _simple_steps(named, None)
        previous = one.name
    result[-1] = replace(result[-1], checkpoint=result[-1].checkpoint or step.checkpoint)
    return result


class _Builder:
    def __init__(self, chains: Sequence[Chain], seed: int, versions: FileVersions, producers: Producers) -> None:
        self.chains = {chain.name: chain for chain in chains}
        self.seed, self.versions, self.producers = seed, versions, producers
        self.nodes: dict[str, Node] = {}
        self.pending: dict[str, tuple[Chain, Step]] = {}
        self.last: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        for chain in chains:
            self._place(chain)

    def _place(self, chain: Chain) -> None:
        before: str | None = None
        for step in chain.steps:
            simple = _simple_steps(step, before)
            for one in simple:
                key = f"{chain.name}/{one.name}"
                if key in self.pending:
                    msg = f"{one.where}: dataset '{chain.name}' has two steps called '{one.name}': give one a name of its own (name: ...)"
                    raise PlanError(msg)
                self.pending[key] = (chain, one)
            before = simple[-1].name
            self.aliases[f"{chain.name}/{step.name}"] = f"{chain.name}/{before}"
        self.last[chain.name] = self.aliases[f"{chain.name}/{chain.rows}"]

    def key_of(self, chain: Chain, reference: str, where: str) -> str:
        """The node that `reference` (a step of this chain, or `dataset:NAME[@STEP]`) stands for."""
        if not reference.startswith(DATASET):
            key = f"{chain.name}/{reference}"
            return self.aliases.get(key, key)
        name, _, step = reference.removeprefix(DATASET).partition("@")
        if name not in self.chains:
            msg = f"{where}: there is no dataset '{name}'; datasets are {sorted(self.chains)}"
            raise PlanError(msg)
        if not step:
            return self.last[name]
        key = f"{name}/{step}"
        if key in self.aliases:
            return self.aliases[key]
        if key in self.pending:
            return key
        steps = [one.name for one in self.chains[name].steps]
        msg = f"{where}: dataset '{name}' has no step '{step}'; its steps are {steps}"
        raise PlanError(msg)

    def build(self) -> dict[str, Node]:
        for key in self.pending:
            self._node(key, ())
        return self.nodes

    def _node(self, key: str, path: tuple[str, ...]) -> Node:
        if key in self.nodes:
            return self.nodes[key]
        if key in path:
            msg = f"datasets read each other in a circle: {' -> '.join([*path[path.index(key) :], key])}"
            raise PlanError(msg)
        chain, step = self.pending[key]
        path = (*path, key)
        inputs = tuple(self.key_of(chain, reference, step.where) for reference in step.after)
        if isinstance(step.stage, Source):
            inputs = ()
        above = [self._node(one, path) for one in inputs]
        tables = tuple((local, self.key_of(chain, ref, step.where)) for local, ref in sorted(step.tables.items()))
        table_rows = self.key_of(chain, step.table_rows, step.where) if step.table_rows else None
        for _, table in tables:
            self._node(table, path)
        if table_rows:
            self._node(table_rows, path)
        parts = (
            tuple(step.stage.bound(name=step.name, seed=self.seed).parts()) if isinstance(step.stage, Source) else ()
        )
        incoming = _union(step, above)
        self._check(chain, step, incoming)
        identity = self._identity(step, inputs, tables, table_rows, parts)
        node = Node(
            key=key, dataset=chain.name, name=step.name, stage=step.stage, inputs=inputs, tables=tables,
            table_rows=table_rows, when=step.when, expect_drop=step.expect_drop, checkpoint=step.checkpoint,
            on_error=step.on_error or "stop", publish=step.publish, where=step.where, schema=self._schema(step, incoming), identity=identity,
            fingerprint=digest(identity), parts=parts, ends_dataset=key == self.last[chain.name],
        )  # fmt: skip
        self.nodes[key] = node
        return node

    def _identity(
        self, step: Step, inputs: tuple[str, ...], tables: tuple[tuple[str, str], ...], table_rows: str | None,
        parts: tuple[SourcePart, ...],
    ) -> dict[str, Any]:  # fmt: skip
        stage = step.stage
        identity: dict[str, Any] = {
            "kind": stage.kind,
            "rev": stage.rev,
            "settings": json.loads(stage.model_dump_json()),
            "inputs": {key: self.nodes[key].fingerprint for key in inputs},
        }
        if stage.seeded:
            identity["seed"] = self.seed
        if step.when:
            identity["when"] = step.when
        if tables:
            identity["tables"] = {local: self.nodes[key].fingerprint for local, key in tables}
        if table_rows:
            identity["table_rows"] = self.nodes[table_rows].fingerprint
        if stage.files():
            identity["files"] = {path: _version(self.versions(path)) for path in stage.files()}
        if stage.packages():
            identity["packages"] = {name: metadata.version(name) for name in stage.packages()}
        if parts:
            identity["parts"] = {
                part.name: {"settings": dict(part.settings), "files": {f.path: _version(f) for f in part.files}}
                for part in parts
            }
        return identity

    def _check(self, chain: Chain, step: Step, incoming: pa.Schema | None) -> None:
        if isinstance(step.stage, Source) or step.table_rows is not None:
            return  # a table's columns are known once its fold has run
        there = incoming if incoming is not None else pa.schema([])
        for needed in step.stage.needs():
            if needed.name not in there.names:
                raise PlanError(self._missing(chain, step, needed.name, there))
            found = there.field(needed.name).type
            if found != needed.type:
                msg = f"{step.where}: step '{step.name}' of dataset '{chain.name}' needs column '{needed.name}' as {needed.type}, but it is {found}"
                raise PlanError(msg)
        if isinstance(step.stage, Exchange) and step.stage.by not in there.names:
            raise PlanError(self._missing(chain, step, step.stage.by, there))
        if step.when:
            try:
                columns = Predicate(step.when).columns
            except ValueError as error:
                msg = f"{step.where}: step '{step.name}' of dataset '{chain.name}': {error}"
                raise PlanError(msg) from None
            for column in columns:
                if column not in there.names:
                    raise PlanError(self._missing(chain, step, column, there))

    def _missing(self, chain: Chain, step: Step, column: str, there: pa.Schema) -> str:
        text = f"{step.where}: step '{step.name}' of dataset '{chain.name}' needs column '{column}'"
        names = [one.name for one in chain.steps]
        for later in chain.steps:
            if any(f.name == column for f in _all_added(later.stage)):
                return f"{text}; '{later.name}' adds it, and runs at step {names.index(later.name) + 1}: move it before '{step.name}'"
        kinds = [kind for kind in self.producers(column) if kind != step.stage.kind]
        hint = f"kinds that add it: {', '.join(kinds)}" if kinds else "no kind adds it: it must come from the source"
        return f"{text}, which is not there ({', '.join(there.names) or 'no columns'}); {hint}"

    def _schema(self, step: Step, incoming: pa.Schema | None) -> pa.Schema | None:
        stage = step.stage
        match stage:
            case Source():
                return stage.schema()
            case Fold():
                return None
            case Sink():
                return stage.output()
        assert incoming is not None, step
        match stage:
            case Exchange():
                return exchanged_schema(stage, incoming)
            case Expand():
                return stage.output(incoming)
        removed = set(stage.removes())
        return schema_of([f for f in [*incoming, *stage.adds()] if f.name not in removed])


def _all_added(stage: Stage) -> list[pa.Field]:
    if isinstance(stage, Compound):
        return [f for inner in stage.steps() for f in _all_added(inner.stage)]
    return list(stage.adds())


def _union(step: Step, above: list[Node]) -> pa.Schema | None:
    """Columns of all inputs together; a name with two types is an error. Single inputs keep their order."""
    if not above:
        return None
    fields: dict[str, pa.Field] = {}
    for node in above:
        if node.schema is None:
            msg = f"{step.where}: step '{step.name}' reads '{node.key}', which gives a table and no rows"
            raise PlanError(msg)
        for f in node.schema:
            if f.name in fields and fields[f.name].type != f.type:
                msg = f"{step.where}: step '{step.name}' reads column '{f.name}' as {fields[f.name].type} and, from '{node.key}', as {f.type}"
                raise PlanError(msg)
            fields.setdefault(f.name, f)
    return pa.schema(list(fields.values()))


def _version(file: InputFile) -> list[Any]:
    return [file.size, file.version]


def digest(identity: Mapping[str, Any]) -> str:
    """blake2b-128 of the canonical JSON, 32 hex digits."""
    return blake2b(json.dumps(identity, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def build_graph(chains: Sequence[Chain], seed: int, versions: FileVersions, producers: Producers) -> dict[str, Node]:
    """All nodes by key (`dataset/step`), upstream first. Raises PlanError."""
    return _Builder(chains, seed, versions, producers).build()
