"""Runs the dedup compounds through the real engine, over texts that are given in parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import opened
from pipeline.engine.plan import PhysicalStep, Plan, Status, make_plan
from pipeline.engine.run import Driver, Manifest
from pipeline.engine.storage import Storage
from pipeline.schema import ID, ORIGIN, TEXT, document_id, schema_of
from pipeline.stage import Chain, Compound, InputFile, Source, SourcePart, Step


class Given(Source):
    """Documents named in the settings: one list of (name, text) per part; the id is that of the name."""

    kind = "given"
    documents: tuple[tuple[tuple[str, str], ...], ...]

    def schema(self) -> pa.Schema:  # type: ignore[override]
        return schema_of([ID, ORIGIN, TEXT])

    def parts(self) -> list[SourcePart]:
        return [SourcePart(str(n), settings={"part": n}) for n in range(len(self.documents))]

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch]:
        rows = self.documents[part.settings["part"]]
        columns = [
            pa.array([document_id(name) for name, _ in rows], pa.binary(16)),
            pa.array([name for name, _ in rows], pa.large_string()),
            pa.array([text for _, text in rows], pa.large_string()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=self.schema())


class _Silent:
    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None: ...
    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None: ...
    def part_done(self, step: PhysicalStep, account: PartAccount) -> None: ...
    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None: ...


def deduplicated(
    stage: Compound, parts: Sequence[Sequence[tuple[str, str]]], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Kept rows in id order, and drops by name of the document."""
    source = Given(documents=tuple(tuple(part) for part in parts))
    chain = Chain("web", (Step("given", source, where="here"), Step("dedup", stage, where="here")), "dedup")
    plan = make_plan((chain,), 1, lambda path: InputFile(path, 0, "0"), lambda column: [])
    storage = Storage(str(folder))
    with opened("local", storage.address, workers=1, cluster=None) as executor:
        Driver(plan, storage, executor, _Silent()).run()
    last = folder / [step for step in plan.steps if step.dataset == "web" and step.kind == "rows"][-1].folder
    kept = [row for path in sorted(last.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    drops = [row for path in folder.glob("datasets/web/*/drops/*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(kept, key=lambda row: row["id"]), {drop["origin"]: drop for drop in drops}


def lowest(*names: str) -> str:
    """Of these documents, the one with the lowest id."""
    return min(names, key=document_id)
