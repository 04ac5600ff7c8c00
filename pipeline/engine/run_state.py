"""How far the run in a folder is, for anybody who can read the folder: nothing is written, no lock is taken.

What is done comes from manifests and accounts, how fast it went and what went wrong from progress.json; so a crashed
run is told right to the last part, and one of an earlier version without its rates. A few small reads per step, side by
side on an object store.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.engine.housekeeping import Findings, find_unneeded
from pipeline.engine.lock import holder_of
from pipeline.engine.progress import Progress, RunStateName, StepProgress
from pipeline.engine.storage import Storage


@dataclass(frozen=True)
class RunState:
    """The state of a run, who works there, its numbers, and what `clean` would free."""

    state: RunStateName
    holder: str | None
    progress: Progress
    unneeded: Findings

    @property
    def exit_code(self) -> int:
        """0 done, 3 in progress or interrupted, 1 failed."""
        return {"done": 0, "failed": 1}.get(self.state, 3)

    def sentence(self) -> str:
        """In words."""
        error = self.progress.error or {}
        match self.state:
            case "running":
                return f"in progress: {self.holder}"
            case "failed":
                return f"failed: {error.get('message', 'unknown error')}"
            case "done":
                return "done"
        return "interrupted: nobody works there; the same `tokenmill run` continues it"


def run_state(storage: Storage) -> RunState:
    """The state of the run in a folder that holds a plan.json."""
    holder = holder_of(storage)
    told: Mapping[str, Any] = storage.read_json("progress.json") or {}
    head: Mapping[str, Any] = storage.read_json("run.json") or {}
    plan = storage.read_json("plan.json")
    steps = plan["steps"]
    with ThreadPoolExecutor(1 if storage.local else 16) as pool:
        found = list(pool.map(lambda step: _found(storage, step), steps))
    all_done = all(done for done, _, _ in found)
    if holder is not None:
        state: RunStateName = "running"
    elif all_done and head.get("finished"):
        state = "done"
    else:
        state = "failed" if told.get("state") == "failed" else "interrupted"
    progress = _progress(storage, told, head, state)
    progress.title = str(plan.get("name", ""))
    now = time.monotonic()
    age = max(0.0, time.time() - float(told.get("updated", time.time())))
    for step, (done, parts, rows) in zip(steps, found, strict=True):
        one = _step(step, told.get("steps", {}).get(step["key"], {}), now - age)
        if done:
            one.state, one.parts, one.parts_done, one.rows = "done", parts, parts, rows
        else:
            one.parts_done = parts
            one.state = "running" if state == "running" and one.began is not None else "waiting"
            if one.state == "waiting" and one.began is not None:
                one.ended = now - age
        progress.steps[one.key] = one
    return RunState(state, None if holder is None else str(holder), progress, find_unneeded(storage, deep=False))


def _found(storage: Storage, step: Mapping[str, Any]) -> tuple[bool, int, int]:
    """Whether a step is done, its finished parts, its rows."""
    manifest = storage.read_json(f"{step['folder']}/manifest.json")
    if manifest is not None and manifest["fingerprint"] == step["fingerprint"]:
        return True, int(manifest["parts"]), int(manifest["rows"])
    return False, len(storage.names(f"{step['folder']}/account")), 0


def _progress(storage: Storage, told: Mapping[str, Any], head: Mapping[str, Any], state: RunStateName) -> Progress:
    progress = Progress(
        "", storage.address, str(told.get("executor", head.get("executor", "local"))),
        int(told.get("workers", head.get("workers", 1))),
    )  # fmt: skip
    now = time.monotonic()
    age = max(0.0, time.time() - float(told.get("updated", time.time()))) if state == "running" else 0.0
    progress.began = now - age - float(told.get("elapsed_seconds", head.get("seconds", 0.0)))
    progress.ended = None if state == "running" else now
    progress.state = state
    progress.retries = int(told.get("retries", 0))
    progress.error = told.get("error") if state == "failed" else None
    progress.dashboard_url = told.get("dashboard_url") if state == "running" else None
    return progress


def _step(step: Mapping[str, Any], told: Mapping[str, Any], at: float) -> StepProgress:
    """What progress.json, written at `at`, says of a step of plan.json."""
    one = StepProgress(step["key"], step["dataset"], step["label"], step["kind"], bool(step.get("keep")))
    number: Callable[[str], int] = lambda name: int(told.get(name) or 0)  # noqa: E731
    one.from_source, one.reused = bool(step.get("source")), bool(told.get("reused"))
    one.parts = told.get("parts")
    one.rows, one.rows_in, one.dropped = number("rows"), number("rows_in"), number("dropped")
    one.bytes_in, one.bytes_total, one.found_done = number("bytes_in"), number("bytes_total"), number("parts_found")
    one.seconds, one.order = float(told.get("seconds") or 0.0), number("order")
    one.reasons = Counter(told.get("reasons", {}))
    if told.get("state") in ("running", "done"):
        elapsed = float(told["elapsed_seconds"])
        one.began = at - elapsed
        one.ended = at if told["state"] == "done" else None
        if (paced := told.get("pace_seconds")) is not None:
            one.last_part = one.began + float(paced)
    return one
