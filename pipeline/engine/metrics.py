"""A run's numbers for Prometheus, where Ray exposes them (each node's metrics endpoint, `ray metrics`, KubeRay).

Counted in the driver alone, from the accounts that reach it: workers send nothing, and a part that is tried twice counts
once. Names get Ray's prefix (`ray_tokenmill_rows`); every series is tagged with dataset and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import Retry
from pipeline.engine.plan import PhysicalStep, Plan, Status
from pipeline.engine.run import Manifest

TAGS = ("dataset", "step")


class RayMetrics:
    """Counters and gauges per step; a reused step adds nothing but its parts."""

    def __init__(self, metrics: Any) -> None:
        def counter(name: str, meaning: str) -> Any:
            return metrics.Counter(f"tokenmill_{name}", description=meaning, tag_keys=TAGS)

        self._rows = counter("rows", "Rows written by finished parts of this run")
        self._dropped = counter("rows_dropped", "Rows dropped in finished parts of this run")
        self._bytes = counter("source_bytes", "Bytes of input files read by finished parts of this run")
        self._seconds = counter("work_seconds", "Seconds of work in finished parts of this run, over all workers")
        self._retries = counter("part_retries", "Parts tried again")
        self._parts = metrics.Gauge("tokenmill_parts", description="Parts of the step", tag_keys=TAGS)
        self._done = metrics.Gauge(
            "tokenmill_parts_done", description="Parts done, earlier runs included", tag_keys=TAGS
        )
        self._tags: dict[str, dict[str, str]] = {}
        self._counted: dict[str, int] = {}

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        self._tags = {step.key: {"dataset": step.dataset, "step": step.label} for step in plan.steps}

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        self._counted[step.key] = parts_done
        self._parts.set(parts, self._tags[step.key])
        self._done.set(parts_done, self._tags[step.key])

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        tags = self._tags[step.key]
        self._counted[step.key] = self._counted.get(step.key, 0) + 1
        self._done.set(self._counted[step.key], tags)
        dropped = sum(count.rows_dropped for count in account.stages)
        for metric, amount in (
            (self._rows, account.rows), (self._dropped, dropped), (self._bytes, account.bytes_in),
            (self._seconds, account.seconds),
        ):  # fmt: skip
            if amount > 0:  # Ray refuses to count nothing
                metric.inc(amount, tags)

    def part_retried(self, retry: Retry) -> None:
        self._retries.inc(1, self._tags[retry.task.step_key])

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        self._parts.set(manifest.parts, self._tags[step.key])
        self._done.set(manifest.parts, self._tags[step.key])


def ray_metrics(executor: str) -> RayMetrics | None:
    """The run's metrics in Ray's registry; None when tasks do not run on Ray."""
    if executor != "ray":
        return None
    from ray.util import metrics

    return RayMetrics(metrics)
