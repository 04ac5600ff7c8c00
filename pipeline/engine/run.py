"""The driver: starts each step when what it waits for is done, keeps a bounded number of tasks in flight, writes manifests.

A step that reads part by part starts together with the step before it, and each of its tasks as soon as its one part is
done: a straggler holds up nothing but its own successors. Tasks of earlier steps go first. Cost: about 0.1 ms a part.

All state is in the run folder. A part is done when its account is there; a step when its manifest lists every part.
Killing this process at any moment and starting it again redoes at most the parts that were in flight.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import Executor, Outcome
from pipeline.engine.housekeeping import forget_earlier, reopen
from pipeline.engine.plan import PhysicalStep, Plan, Status, status_of, tasks_of
from pipeline.engine.poison import RecordFailed
from pipeline.engine.rowlocal import ContractError
from pipeline.engine.storage import Storage
from pipeline.engine.task import FAILED_ROWS, Task, account_path


class StepFailed(RuntimeError):
    """A task ended in an error. `__cause__` is that error."""


class UnexpectedDrop(RuntimeError):
    """A filter dropped a share of its rows outside `expect_drop`."""


@dataclass
class Manifest:
    """What a finished step is."""

    step: str
    fingerprint: str
    parts: int
    rows: int
    accounts: list[PartAccount]
    seconds: float
    """Of work, over all workers."""


class Listener(Protocol):
    """Who watches a run: a terminal, a log."""

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None: ...

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None: ...

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None: ...

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None: ...


@dataclass
class _Running:
    step: PhysicalStep
    parts: int
    accounts: dict[int, PartAccount]
    ready: deque[Task] = field(default_factory=deque)
    blocked: dict[tuple[str, int], list[Task]] = field(default_factory=dict)
    """Tasks by the part that they wait for."""


class Driver:
    """Runs a plan in a folder."""

    def __init__(self, plan: Plan, storage: Storage, executor: Executor, listener: Listener) -> None:
        self.plan, self.storage, self.executor, self.listener = plan, storage, executor, listener
        self.done: dict[str, Manifest] = {}
        self.running: dict[str, _Running] = {}
        self.in_flight = 0
        self._place = {step.key: number for number, step in enumerate(plan.steps)}
        self._tried_again: set[tuple[str, int]] = set()
        self._changed = True

    def run(self) -> dict[str, Manifest]:
        """Everything, until done. Raises StepFailed or UnexpectedDrop; finished parts stay."""
        statuses = status_of(self.plan, self.storage)
        self.listener.plan(self.plan, statuses)
        for step in self.plan.steps:
            if statuses[step.key].cleaned and not statuses[step.key].done:
                reopen(self.storage, step.folder)
            if statuses[step.key].done:
                accounts = self._accounts_of(step, range(statuses[step.key].parts_done))
                if len(accounts) == statuses[step.key].parts_done:  # else somebody removed one: that part is made again
                    self._finish(step, accounts, reused=True)
        while len(self.done) < len(self.plan.steps):
            self._start_ready_steps()
            self._submit()
            if self.in_flight:
                self._collect()
        return self.done

    def _start_ready_steps(self) -> None:
        while self._changed:  # a step that starts, or has no parts and is done at once, may free others
            self._changed = False
            for step in self.plan.steps:
                if step.key not in self.done and step.key not in self.running and self._may_start(step):
                    self._start(step)

    def _may_start(self, step: PhysicalStep) -> bool:
        beside = step.reads if step.part_by_part else ()
        return all(key in self.done or (key in beside and key in self.running) for key in step.waits)

    def _start(self, step: PhysicalStep) -> None:
        self._changed = True
        parts = {key: self.done[key].parts if key in self.done else self.running[key].parts for key in step.reads}
        rows = self.done[step.reads[0]].rows if step.read_kind == "table_rows" else None
        tasks = tasks_of(self.plan, step, parts, rows)
        self.storage.remove_temporary_files(step.folder)
        if step.kind == "sink":
            forget_earlier(self.storage, step.folder)
        finished = {int(name[5:-5]) for name in self.storage.names(f"{step.folder}/account")}
        finished &= {task.part for task in tasks}
        found = [a for a in self._accounts_of(step, sorted(finished)) if self._lost_file(a) is None]
        running = _Running(step, len(tasks), {a.part: a for a in found})
        for task in tasks:
            if task.part in running.accounts:
                continue
            if task.after is None or self._is_done(*task.after):
                running.ready.append(task)
            else:
                running.blocked.setdefault(task.after, []).append(task)
        self.running[step.key] = running
        self.running = dict(sorted(self.running.items(), key=lambda one: self._place[one[0]]))
        self.listener.step_started(step, len(tasks), len(running.accounts))
        self._finish_if_complete(step.key)

    def _is_done(self, key: str, part: int) -> bool:
        return key in self.done or part in self.running[key].accounts

    def _submit(self) -> None:
        """Earlier steps first: they are what the others wait for."""
        for running in self.running.values():
            while running.ready and self.executor.accepts(running.ready[0]):
                self.executor.submit(running.ready.popleft())
                self.in_flight += 1

    def _collect(self) -> None:
        outcome = self.executor.outcome()
        self.in_flight -= 1
        task = outcome.task
        if outcome.account is None:
            self._once_more(outcome)
            return
        running = self.running[task.step_key]
        running.accounts[task.part] = outcome.account
        for other in self.running.values():
            other.ready.extend(other.blocked.pop((task.step_key, task.part), ()))
        self.listener.part_done(running.step, outcome.account)
        self._finish_if_complete(task.step_key)

    def _once_more(self, outcome: Outcome) -> None:
        """A part that killed its workers runs with its stages apart, where the record can be found; one that met an error
        is tried once more. After that, or where a record is known to be at fault, the run stops."""
        task, error = outcome.task, outcome.error
        key = (task.step_key, task.part)
        if outcome.fault == "worker" and task.work.chain and not task.isolate:
            self.running[task.step_key].ready.appendleft(replace(task, isolate=True))
            return
        known = isinstance(error, (RecordFailed, ContractError, AssertionError))
        if outcome.fault == "stage" and not known and key not in self._tried_again:
            self._tried_again.add(key)
            self.running[task.step_key].ready.appendleft(task)
            return
        what = str(error) if isinstance(error, RecordFailed) else f"{type(error).__name__}: {error}"
        msg = f"{task.step_key}, part {task.part} ({task.part_name}) failed: {what}"
        raise StepFailed(msg) from error

    def _finish_if_complete(self, key: str) -> None:
        running = self.running[key]
        if len(running.accounts) < running.parts:
            return
        del self.running[key]
        self._changed = True
        accounts = [running.accounts[part] for part in sorted(running.accounts)]
        self._check_failed_records(running.step, accounts)
        self._check_expected_drops(running.step, accounts)
        self._check_exchange(running.step, accounts)
        self._write_manifest(running.step, accounts)
        self._finish(running.step, accounts, reused=False)

    def _finish(self, step: PhysicalStep, accounts: list[PartAccount], *, reused: bool) -> None:
        if reused:
            self._check_failed_records(step, accounts)
            self._check_expected_drops(step, accounts)
        manifest = Manifest(
            step.key,
            step.fingerprint,
            len(accounts),
            sum(a.rows for a in accounts),
            accounts,
            sum(a.seconds for a in accounts),
        )
        self.done[step.key] = manifest
        self.listener.step_done(step, manifest, reused)

    def _accounts_of(self, step: PhysicalStep, parts: Iterable[int]) -> list[PartAccount]:
        if self.storage.local:
            found = [self.storage.read_json(account_path(step.folder, part)) for part in parts]
        else:  # one small request per part: latency, not work
            with ThreadPoolExecutor(16) as pool:
                found = list(pool.map(lambda part: self.storage.read_json(account_path(step.folder, part)), parts))
        return [PartAccount.from_json(value) for value in found if value is not None]

    def _lost_file(self, account: PartAccount) -> str | None:
        """A file that the account lists and that is gone. Looked for on a disk only: elsewhere it is a request per file."""
        if not self.storage.local:
            return None
        return next((file.path for file in account.files if not os.path.exists(self.storage.url(file.path))), None)

    def _write_manifest(self, step: PhysicalStep, accounts: list[PartAccount]) -> None:
        lost = next((path for path in map(self._lost_file, accounts) if path), None)
        if lost:
            msg = (
                f"{self.storage.address} was removed or changed while the run worked: {lost}, which step {step.key} had written, is "
                "gone; the same command makes again what is missing"
            )
            raise StepFailed(msg)
        manifest = {
            "step": step.key,
            "kind": step.kind,
            "fingerprint": step.fingerprint,
            "identity": step.identity,
            "parts": len(accounts),
            "rows": sum(a.rows for a in accounts),
            "files": [vars(file) for a in accounts for file in a.files],
            "seconds": round(sum(a.seconds for a in accounts), 3),
            "finished": time.time(),
        }
        # on one line: indented, ten thousand parts take the encoder a second
        self.storage.write(f"{step.folder}/manifest.json", json.dumps(manifest).encode() + b"\n")

    def _check_failed_records(self, step: PhysicalStep, accounts: list[PartAccount]) -> None:
        """`on_error: drop` is for single records; and what ran under it is no answer once the recipe says stop."""
        for key in step.nodes:
            node = self.plan.nodes[key]
            counts = [c for a in accounts for c in a.stages if c.dataset == node.dataset and c.step == node.name]
            failed, rows_in = sum(c.rows_failed for c in counts), sum(c.rows_in for c in counts)
            broken = failed >= FAILED_ROWS and 2 * failed > rows_in
            if broken or (failed and node.on_error == "stop"):
                advice = "mend the step" if broken else f"remove {step.folder}, or allow it with on_error: drop"
                msg = (
                    f"{node.where}: step '{node.name}' of dataset '{node.dataset}' failed on {failed} of {rows_in} records, which "
                    f"became drops (in {step.folder}/drops): {advice}"
                )
                raise StepFailed(msg)

    def _check_expected_drops(self, step: PhysicalStep, accounts: list[PartAccount]) -> None:
        for key in step.nodes:
            node = self.plan.nodes[key]
            if node.expect_drop is None:
                continue
            counts = [c for a in accounts for c in a.stages if c.dataset == node.dataset and c.step == node.name]
            rows_in, dropped = sum(c.rows_in for c in counts), sum(c.rows_dropped for c in counts)
            share = dropped / rows_in if rows_in else 0.0
            low, high = node.expect_drop
            if rows_in and not low <= share <= high:
                reasons = sum((Counter(a.reasons) for a in accounts), Counter())
                top = ", ".join(
                    f"{r.split(': ', 1)[1]} {n}" for r, n in reasons.most_common(12) if r.startswith(f"{node.name}: ")
                )
                msg = (
                    f"{node.where}: step '{node.name}' of dataset '{node.dataset}' dropped {share:.2%} of {rows_in} rows, outside "
                    f"expect_drop [{low}, {high}] ({top or 'no drops'}); look at the drops in {step.folder}/drops, then mend the "
                    "step or widen the band"
                )
                raise UnexpectedDrop(msg)

    def _check_exchange(self, step: PhysicalStep, accounts: list[PartAccount]) -> None:
        """What the map tasks wrote is what the reduce tasks read."""
        if step.read_kind != "exchange":
            return
        assert step.head is not None
        written = sum(self.done[key].rows for key in step.reads)
        read = sum(c.rows_in for a in accounts for c in a.stages if c.step == step.head.step and c.kind == "exchange")
        if written != read:
            msg = f"{step.key}: the exchange wrote {written} rows, but {read} were read back"
            raise StepFailed(msg)
