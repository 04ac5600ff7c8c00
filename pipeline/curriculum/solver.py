"""Epoch weights for all phases at once, from measured supply.

For each dataset the phases fall into two classes, those that its pins speak of (`over`) and the rest. `exposure`
finds the best total per bucket and class; within a class a bucket's epochs are divided like the phases' targets, so
phases of one class see the same mix. Tokens are whole numbers and sum to each phase's budget exactly.

Promised for every solution, and verified before it is returned: targets, pins and caps to 1e-9 of their size; a
better bucket never gets less than a worse one, over the pinned phases and over all; no other weights of that form are
worth more under the data-constrained law. Nothing is random, and the order of rows in `supply` does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.curriculum.exposure import Problem, repeated_value, solve
from pipeline.curriculum.shortfall import InfeasibleCurriculum, Want, shortfall
from pipeline.curriculum.spec import Curriculum, unknown_buckets
from pipeline.schema import field
from pipeline.stage import Fold

BEST_VALUE = 1.2
"""Worth of a fresh token of the best bucket, the worst being 1; those between rise evenly with rank. Our choice: the
best bucket is then read 1 + 15.39 ln 1.2 = 3.8 times before the worst is touched, near the 3.2 that GLM-4.5 names."""

SOLUTION = pa.schema(
    [
        field("phase", pa.string(), "phase of the curriculum"),
        field("phase_index", pa.int32(), "place of the phase, from 0"),
        field("dataset", pa.string(), "dataset that the phase mixes"),
        field("bucket", pa.string(), "bucket of the dataset that has supply"),
        field("epoch_weight", pa.float64(), "times that the bucket's tokens are seen in this phase"),
        field("tokens_available", pa.int64(), "supply of the bucket"),
        field(
            "tokens_planned", pa.int64(), "epoch_weight x supply in whole tokens; sums to the phase's budget exactly"
        ),
        field("sequence_length", pa.int64(), "tokens per training sequence of the phase"),
        field("packing", pa.string(), "concatenate or best_fit"),
        field("total_epochs", pa.float64(), "epochs of the bucket over the whole curriculum"),
        field("value", pa.float64(), "D'/D at total_epochs: worth of its tokens against fresh ones (arXiv:2305.16264)"),
    ]
)

Supplies = Mapping[str, Mapping[str, int]]
"""Tokens per dataset and bucket."""


def supplies(supply: pa.Table) -> dict[str, dict[str, int]]:
    """Tokens per dataset and bucket of the `supply` table; buckets without tokens are left out."""
    sums = supply.group_by(["dataset", "bucket"], use_threads=False).aggregate([("tokens", "sum")])
    found: dict[str, dict[str, int]] = {}
    for row in sums.to_pylist():
        if row["tokens_sum"] > 0:
            found.setdefault(row["dataset"], {})[row["bucket"]] = row["tokens_sum"]
    return found


def ladder(rungs: int) -> list[float]:
    """Default values from worst to best bucket: 1 to BEST_VALUE in even steps."""
    return [1 + (BEST_VALUE - 1) * rung / max(rungs - 1, 1) for rung in range(rungs)]


def problem_of(curriculum: Curriculum, dataset: str, supply: Mapping[str, int], order: Sequence[str] | None) -> Problem:
    """The dataset's problem; raises ValueError when the rule and the buckets that were found do not fit."""
    rule = curriculum.rule(dataset)
    known = list(rule.order or order or [])
    if not known and len(supply) == 1:
        known = list(supply)
    strange = sorted(set(supply) - set(known))
    if strange:
        legal = ", ".join(known) or "not given"
        msg = (f"dataset '{dataset}' has supply in {', '.join(strange)}, which its bucket order (worst to best: {legal}) does not name: "
               f"name all buckets in `epochs: {{{dataset}: {{order: [...]}}}}`")  # fmt: skip
        raise InfeasibleCurriculum(msg)
    errors = unknown_buckets(rule, known)
    if errors:
        msg = f"epochs of '{dataset}': {'; '.join(errors)}"
        raise InfeasibleCurriculum(msg)
    empty = [bucket for bucket, epochs in rule.pin.items() if epochs > 0 and bucket not in supply]
    if empty:
        msg = "; ".join(f"dataset '{dataset}': bucket '{bucket}' is pinned to {rule.pin[bucket]:g} epochs, but has no supply: "
                        f"pin it to 0, leave the pin out, or give it documents" for bucket in empty)  # fmt: skip
        raise InfeasibleCurriculum(msg)
    values = rule.values or dict(zip(known, ladder(len(known)), strict=True))
    buckets = tuple(bucket for bucket in known if bucket in supply)
    targets = {True: 0.0, False: 0.0}
    for phase in curriculum.phases:
        targets[curriculum.is_pinned(phase, dataset)] += curriculum.target(phase, dataset)
    return Problem(
        buckets=buckets,
        supply=np.array([supply[bucket] for bucket in buckets], np.float64),
        values=np.array([values[bucket] for bucket in buckets], np.float64),
        pins={bucket: epochs for bucket, epochs in rule.pin.items() if bucket in supply},
        cap=rule.max,
        pinned_target=targets[True],
        other_target=targets[False],
    )


def problems(curriculum: Curriculum, supply: Supplies, bucket_order: Mapping[str, Sequence[str]]) -> dict[str, Problem]:
    """A feasible problem per dataset; raises InfeasibleCurriculum, which speaks of every dataset that is not."""
    found: dict[str, Problem] = {}
    errors: list[str] = []
    for dataset in curriculum.datasets():
        buckets, order = supply.get(dataset), bucket_order.get(dataset)
        if not buckets:
            names = " and ".join(phase.name for phase in curriculum.phases if dataset in phase.mix)
            errors.append(
                f"dataset '{dataset}' is mixed in {names}, but has no supply: not one token of it reached the shards"
            )
            continue
        try:
            found[dataset] = problem_of(curriculum, dataset, buckets, order)
        except InfeasibleCurriculum as error:
            errors.append(str(error))
            continue

        def under(other: Curriculum, dataset: str = dataset, buckets: Mapping[str, int] = buckets,
                  order: Sequence[str] | None = order) -> Problem:  # fmt: skip
            return problem_of(other, dataset, buckets, order)

        missing = shortfall(Want(curriculum, dataset, found[dataset], under))
        if missing:
            errors.append(missing)
    if errors:
        raise InfeasibleCurriculum("\n".join(errors))
    return found


def solution(curriculum: Curriculum, supply: Supplies, bucket_order: Mapping[str, Sequence[str]]) -> pa.Table:
    """One row per phase, dataset that it mixes, and bucket with supply, worst bucket first."""
    rows: list[dict[str, Any]] = []
    asked = problems(curriculum, supply, bucket_order)
    exposures = {dataset: solve(problem) for dataset, problem in asked.items()}
    for index, phase in enumerate(curriculum.phases):
        mine: list[dict[str, Any]] = []
        for dataset in phase.mix:
            problem, exposure = asked[dataset], exposures[dataset]
            pinned = curriculum.is_pinned(phase, dataset)
            epochs = exposure.pinned if pinned else exposure.total - exposure.pinned
            part = curriculum.target(phase, dataset) / (problem.pinned_target if pinned else problem.other_target)
            worth = repeated_value(exposure.total)
            for at, bucket in enumerate(problem.buckets):
                mine.append(
                    {
                        "phase": phase.name,
                        "phase_index": index,
                        "dataset": dataset,
                        "bucket": bucket,
                        "epoch_weight": float(epochs[at] * part),
                        "tokens_available": supply[dataset][bucket],
                        "sequence_length": phase.sequence_length,
                        "packing": phase.packing,
                        "total_epochs": float(exposure.total[at]),
                        "value": float(worth[at]),
                    }
                )
        exact = [row["epoch_weight"] * row["tokens_available"] for row in mine]
        for row, tokens in zip(mine, whole_parts(exact, phase.budget(curriculum.scale)), strict=True):
            rows.append({**row, "tokens_planned": tokens})
    return pa.Table.from_pylist(rows, schema=SOLUTION)


def whole_parts(parts: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to `parts` that sum to `total`: the largest remainders are rounded up, ties in order.

    A part of 0 stays 0. Exact below 2**53, 390 times the full recipe.
    """
    exact = np.asarray(parts, np.float64)
    exact = exact * (total / exact.sum()) if total else exact * 0
    whole = exact.astype(np.int64)
    missing = total - int(whole.sum())
    by_remainder = np.argsort(np.where(exact > 0, whole - exact, np.inf), kind="stable")
    whole[by_remainder[:missing]] += 1
    return [int(part) for part in whole]


class SolveCurriculum(Fold):
    """Epoch weight and whole tokens per phase, dataset and bucket, from the table `supply`.

    Infeasible budgets raise InfeasibleCurriculum with what is missing and what would do. Memory: the small tables.
    Source: data-constrained scaling law, arXiv:2305.16264; the solver is our own (see `exposure`).
    """

    kind: ClassVar[str] = "solve_curriculum"

    curriculum: Curriculum
    bucket_order: dict[str, list[str]] = Field(default_factory=dict)
    """Buckets from worst to best per dataset, as the stage that made them orders them."""

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        return solution(self.curriculum, supplies(self.table("supply")), self.bucket_order)
