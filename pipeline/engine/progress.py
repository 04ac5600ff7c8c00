"""How far a run is: counted by the driver's listener, kept in the run folder, read back by `tokenmill status`.

`Progress` counts; a terminal (`terminal.py`), Ray's metrics (`metrics.py`) and two files in the run folder look at it:

`progress.json` is the latest state, one small object replaced every SNAPSHOT_SECONDS (a few KB, whatever the number of
parts): `run`, `state` (running, done, failed, interrupted), `started`, `updated` (seconds since 1970), `elapsed_seconds`,
`left_seconds`, `executor`, `workers`, `dashboard_url`, `retries`, `error`, and `steps`: per step key its `state`
(waiting, running, done), `reused`, `parts` (null while unknown), `parts_done`, `parts_found` (done before this run), `rows`,
`rows_in`, `dropped`, `bytes_in` and `bytes_total` (input files), `seconds` (of work, over all workers), `elapsed_seconds`,
`pace_seconds` (from its start to its last finished part), `left_seconds`, `order` (in which steps ended) and the three
commonest `reasons`.

`events.jsonl` (a disk: appended and flushed at once) or `events/<run>-<n>.jsonl` (an object store, which cannot append:
one object per FLUSH_SECONDS in which something happened) is what happened, one JSON object a line, in order. Every one
has `time` (seconds since 1970), `run` (one per invocation of `tokenmill run`) and `event`:

| event | further keys |
|---|---|
| run_started | tokenmill, python, packages (name -> version), executor, workers, host, pid, address, dashboard_url |
| plan | steps, reused |
| step_started | step, folder, parts, parts_done_before |
| part_done | step, part, rows, dropped, bytes_in, seconds |
| part_retried | step, part, attempt, fault, error |
| step_done | step, parts, rows, dropped, reused, seconds (of work over all workers), elapsed_seconds |
| error | error (type), message, cause |
| run_ended | state (done, failed, interrupted), elapsed_seconds |

A run that was killed has no `run_ended`. What counts as done is never read from here: that is the manifests and accounts.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import Executor, Retry
from pipeline.engine.plan import PhysicalStep, Plan, Status
from pipeline.engine.run import Manifest
from pipeline.engine.storage import Storage

if TYPE_CHECKING:
    from rich.console import Console

SNAPSHOT_SECONDS = 2.0
FLUSH_SECONDS = 5.0
FEW_STEPS = 3  # finished steps before the time left of a run is guessed from them
MAX_EVENTS_WAITING = 100_000  # some 20 MB; beyond it, the oldest unwritten events go
PACKAGES = ("pyarrow", "numpy", "numba", "duckdb", "ray", "s3fs", "tokenizers", "gigatoken")

StepState = Literal["waiting", "running", "done"]
RunStateName = Literal["running", "done", "failed", "interrupted"]


@dataclass
class StepProgress:
    """Parts, rows, drops and time of one step. Times are monotonic: a clock that jumps moves no estimate."""

    key: str
    dataset: str
    label: str
    kind: str = ""
    keep: bool = False
    from_source: bool = False
    state: StepState = "waiting"
    reused: bool = False
    parts: int | None = None
    parts_done: int = 0
    found_done: int = 0
    """Parts that were done before this run began."""
    rows: int = 0
    rows_in: int = 0
    dropped: int = 0
    bytes_in: int = 0
    bytes_total: int = 0
    seconds: float = 0.0
    """Of work, over all workers."""
    reasons: Counter[str] = field(default_factory=Counter)
    began: float | None = None
    last_part: float | None = None
    ended: float | None = None
    order: int = 0
    """Steps end in this order; 0 while they have not."""

    def add(self, account: PartAccount, now: float) -> None:
        """One more part is done."""
        self.parts_done += 1
        self.last_part = now
        self._count(account)

    def _count(self, account: PartAccount) -> None:
        self.rows += account.rows
        self.rows_in += max((count.rows_in for count in account.stages), default=0)
        self.dropped += sum(count.rows_dropped for count in account.stages)
        self.bytes_in += account.bytes_in
        self.seconds += account.seconds
        for reason, count in account.reasons.items():
            self.reasons[reason.split(": ", 1)[-1]] += count

    def recount(self, accounts: Sequence[PartAccount]) -> None:
        """Start from what all these accounts say (a reused step; the parts of an earlier run)."""
        self.rows = self.rows_in = self.dropped = self.bytes_in = 0
        self.seconds, self.reasons = 0.0, Counter()
        for account in accounts:
            self._count(account)

    def elapsed(self, now: float) -> float:
        return 0.0 if self.began is None else (self.ended if self.ended is not None else now) - self.began

    def fresh(self) -> int:
        """Parts that this run made."""
        return self.parts_done - self.found_done

    def per_second(self, amount: int, now: float) -> float | None:
        """`rows_in` or `bytes_in` a second, up to the last finished part; None while unknown."""
        if self.began is None or self.last_part is None or not amount:
            return None
        return amount / max(self.last_part - self.began, 1e-3) if self.fresh() > 0 else None

    def left(self, now: float) -> float | None:
        """Seconds until its last part, at the pace so far; counts down between parts, and up again when one is late."""
        if self.state != "running" or self.began is None or self.last_part is None or self.fresh() <= 0:
            return None
        if self.parts is None:
            return None
        done, missing = float(self.fresh()), float(self.parts - self.parts_done)
        if self.bytes_total and self.bytes_in and self.found_done == 0:  # files differ in size
            done, missing = float(self.bytes_in), float(max(0, self.bytes_total - self.bytes_in))
        estimate = (self.last_part - self.began) / done * missing
        late = now - self.last_part
        return max(estimate - late, 0.2 * late)

    def to_json(self, now: float) -> dict[str, Any]:
        left = self.left(now)
        return {
            "state": self.state,
            "reused": self.reused,
            "parts": self.parts,
            "parts_done": self.parts_done,
            "parts_found": self.found_done,
            "rows": self.rows,
            "rows_in": self.rows_in,
            "dropped": self.dropped,
            "bytes_in": self.bytes_in,
            "bytes_total": self.bytes_total,
            "seconds": round(self.seconds, 3),
            "elapsed_seconds": round(self.elapsed(now), 3),
            "pace_seconds": None
            if self.last_part is None or self.began is None
            else round(self.last_part - self.began, 3),
            "order": self.order,
            "left_seconds": None if left is None else round(left, 1),
            "reasons": dict(self.reasons.most_common(3)),
        }


def duration(seconds: float) -> str:
    """`7.3s`, `4m05s`, `2h10m`, `3d04h`."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24:02d}h"


def size_words(size: float) -> str:
    """`812 B`, `4.3 MB`, `1.2 TB`: powers of a thousand, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"


class Progress:
    """Counts what the driver tells; everything that shows a run reads it, under `lock`."""

    def __init__(self, title: str = "", address: str = "", executor: str = "local", workers: int = 1) -> None:
        self.title, self.address, self.executor, self.workers = title, address, executor, workers
        self.run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        self.dashboard_url: str | None = None
        self.steps: dict[str, StepProgress] = {}
        self.state: RunStateName = "running"
        self.error: dict[str, str] | None = None
        self.retries = 0
        self.started_at, self.began = time.time(), time.monotonic()
        self.ended: float | None = None
        self.lock = threading.RLock()
        self._ended_steps = 0

    # ------------------------------------------------------------------------------------------------ the driver tells

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        with self.lock:
            for step in plan.steps:
                self.steps[step.key] = StepProgress(
                    step.key, step.dataset, step.label, step.kind, step.keep, step.read_kind == "source",
                    parts=len(step.source_parts) if step.read_kind == "source" else None,
                    parts_done=statuses[step.key].parts_done,
                    bytes_total=sum(file.size for part in step.source_parts for file in part.files),
                )  # fmt: skip

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        with self.lock:
            one = self.steps[step.key]
            one.state, one.parts, one.parts_done, one.found_done = "running", parts, parts_done, parts_done
            one.began = time.monotonic()

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        with self.lock:
            self.steps[step.key].add(account, time.monotonic())

    def part_retried(self, retry: Retry) -> None:
        with self.lock:
            self.retries += 1

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        with self.lock:
            one = self.steps[step.key]
            self._ended_steps += 1
            one.state, one.reused, one.order = "done", reused, self._ended_steps
            one.parts = one.parts_done = manifest.parts
            one.ended = time.monotonic()
            if one.began is None:
                one.began = one.ended
            one.recount(manifest.accounts)

    def end(self, state: RunStateName, error: BaseException | None = None) -> None:
        """The run is over."""
        with self.lock:
            self.state, self.ended = state, time.monotonic()
            if error is not None and state == "failed":
                cause = error.__cause__
                self.error = {"error": type(error).__name__, "message": str(error)}
                if cause is not None:
                    self.error["cause"] = type(cause).__name__

    # ------------------------------------------------------------------------------------------------ others ask

    def elapsed(self, now: float) -> float:
        return (self.ended if self.ended is not None else now) - self.began

    def dropped(self) -> int:
        return sum(step.dropped for step in self.steps.values())

    def count(self, state: StepState) -> int:
        return sum(step.state == state for step in self.steps.values())

    def left(self, now: float) -> float | None:
        """Seconds until the end, roughly: a waiting step is taken to cost what those of its kind cost that ended in this
        run (sources aside: they read raw input), and work to go on as many workers as it did so far."""
        with self.lock:
            steps = list(self.steps.values())
        made = [s for s in steps if s.state == "done" and not s.reused and not s.from_source]
        waiting = [s for s in steps if s.state == "waiting"]
        running = [s for s in steps if s.state == "running"]
        quiet = [s for s in running if not s.fresh()]
        if not steps or ((waiting or quiet) and len(made) < FEW_STEPS) or any(s.from_source for s in quiet):
            return None
        waiting += quiet
        work = sum(s.seconds / s.fresh() * ((s.parts or 0) - s.parts_done) for s in running if s.fresh())
        means = {kind: _mean([s.seconds for s in made if s.kind == kind]) for kind in {s.kind for s in made}}
        every = _mean([s.seconds for s in made])
        work += sum(means.get(step.kind, every) for step in waiting)
        worked = sum(s.seconds for s in steps if not s.reused)
        together = min(float(self.workers), max(1.0, worked / max(self.elapsed(now), 1e-3)))
        return max([work / together, *(s.left(now) or 0.0 for s in running)])

    def to_json(self) -> dict[str, Any]:
        """The content of progress.json."""
        now = time.monotonic()
        with self.lock:
            left = self.left(now) if self.state == "running" else None
            return {
                "run": self.run,
                "state": self.state,
                "started": round(self.started_at, 3),
                "updated": round(time.time(), 3),
                "elapsed_seconds": round(self.elapsed(now), 3),
                "left_seconds": None if left is None else round(left, 1),
                "executor": self.executor,
                "workers": self.workers,
                "dashboard_url": self.dashboard_url,
                "retries": self.retries,
                "error": self.error,
                "steps": {key: step.to_json(now) for key, step in self.steps.items()},
            }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


# ---------------------------------------------------------------------------------------------------- files of the run


class EventLog:
    """What happened, as JSON lines in the run folder. An event that cannot be written waits, and stops nothing."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage, self._run = storage, run
        self._waiting: deque[str] = deque(maxlen=MAX_EVENTS_WAITING)
        self._objects = 0
        self._flushed = time.monotonic()
        self._lock = threading.Lock()
        self._elapsed: dict[str, float] = {}

    def write(self, event: str, **values: object) -> None:
        line = json.dumps({"time": round(time.time(), 3), "run": self._run, "event": event, **values}, default=str)
        with self._lock:
            self._waiting.append(line)
            if self._storage.local:
                self._append()

    def _append(self) -> None:
        """A run killed in the middle of a line left half of it: a new line comes first."""
        path = self._storage.url("events.jsonl")
        with suppress(OSError), open(path, "ab+") as file:
            if file.tell() and not _ends_in_newline(file):
                file.write(b"\n")
            file.write("".join(f"{line}\n" for line in self._waiting).encode())
            file.flush()
            self._waiting.clear()

    def tick(self) -> None:
        """Called every second: an object store gets what has gathered."""
        if not self._storage.local and time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            if self._storage.local or not self._waiting:
                return
            self._flushed = time.monotonic()
            lines = list(self._waiting)
            with suppress(OSError):
                body = "".join(f"{line}\n" for line in lines).encode()
                self._storage.write(f"events/{self._run}-{self._objects:05d}.jsonl", body)
                self._objects += 1
                self._waiting.clear()

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        self.write("plan", steps=len(plan.steps), reused=sum(status.done for status in statuses.values()))

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        self._elapsed[step.key] = time.monotonic()
        self.write("step_started", step=step.key, folder=step.folder, parts=parts, parts_done_before=parts_done)

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        self.write(
            "part_done", step=step.key, part=account.part, rows=account.rows, dropped=_dropped([account]),
            bytes_in=account.bytes_in, seconds=round(account.seconds, 4),
        )  # fmt: skip

    def part_retried(self, retry: Retry) -> None:
        self.write(
            "part_retried", step=retry.task.step_key, part=retry.task.part, attempt=retry.attempts, fault=retry.fault,
            error=retry.error,
        )  # fmt: skip

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        began = self._elapsed.pop(step.key, None)
        self.write(
            "step_done", step=step.key, parts=manifest.parts, rows=manifest.rows, dropped=_dropped(manifest.accounts),
            reused=reused, seconds=round(manifest.seconds, 3),
            elapsed_seconds=None if began is None else round(time.monotonic() - began, 3),
        )  # fmt: skip


def _ends_in_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _dropped(accounts: Sequence[PartAccount]) -> int:
    return sum(count.rows_dropped for account in accounts for count in account.stages)


class Snapshot:
    """progress.json, replaced every few seconds."""

    def __init__(self, storage: Storage, progress: Progress) -> None:
        self._storage, self._progress = storage, progress
        self._every = SNAPSHOT_SECONDS if storage.local else FLUSH_SECONDS
        self._written = -self._every

    def tick(self) -> None:
        if time.monotonic() - self._written >= self._every:
            self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        with suppress(OSError):  # a full disk stops the run where rows are lost, not here
            self._storage.write("progress.json", json.dumps(self._progress.to_json()).encode())


# ---------------------------------------------------------------------------------------------------- all together


class Watcher(Protocol):
    """Who is told what the driver does (run.Listener, and retries)."""

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None: ...

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None: ...

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None: ...

    def part_retried(self, retry: Retry) -> None: ...

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None: ...


class Several:
    """Tells several watchers, in order."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None:
        for one in self._watchers:
            one.plan(plan, statuses)

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        for one in self._watchers:
            one.step_started(step, parts, parts_done)

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        for one in self._watchers:
            one.part_done(step, account)

    def part_retried(self, retry: Retry) -> None:
        for one in self._watchers:
            one.part_retried(retry)

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        for one in self._watchers:
            one.step_done(step, manifest, reused)


@contextmanager
def watching(
    storage: Storage, executor: Executor, console: Console, *, title: str, workers: int, plain: bool
) -> Iterator[Several]:
    """Everything that follows a run, from its first event to `run_ended`: terminal or lines, files, Ray's metrics.

    An error that passes through is written down (`error`, state `failed`) and raised on; Ctrl-C and SIGTERM end in
    `interrupted`.
    """
    from pipeline.engine.metrics import ray_metrics
    from pipeline.engine.terminal import LiveTree, PlainLines

    progress = Progress(title, storage.address, executor.name, workers)
    progress.dashboard_url = getattr(executor, "dashboard_url", None)
    log, snapshot = EventLog(storage, progress.run), Snapshot(storage, progress)
    live = console.is_terminal and not plain
    shown: LiveTree | PlainLines = LiveTree(console, progress) if live else PlainLines(console, progress)
    watchers: list[Watcher] = [progress, log, shown]
    if metrics := ray_metrics(executor.name):
        watchers.append(metrics)
    log.write("run_started", **_circumstances(progress))
    with ExitStack() as stack:
        stack.callback(snapshot.write)
        stack.callback(log.flush)
        stack.enter_context(_ticking([log.tick, snapshot.tick, shown.tick]))
        stack.enter_context(shown)
        state: RunStateName = "done"
        told = Several(watchers)
        executor.on_retry = told.part_retried
        try:
            yield told
        except Exception as error:
            state = "failed"
            progress.end(state, error)
            log.write("error", **(progress.error or {}))
            raise
        except BaseException:
            state = "interrupted"
            raise
        finally:
            progress.end(state)
            log.write("run_ended", state=state, elapsed_seconds=round(progress.elapsed(time.monotonic()), 3))


def _circumstances(progress: Progress) -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "tokenmill": metadata.version("tokenmill"),
        "python": platform.python_version(),
        "packages": versions,
        "executor": progress.executor,
        "workers": progress.workers,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "address": progress.address,
        "dashboard_url": progress.dashboard_url,
    }


@contextmanager
def _ticking(calls: Sequence[Any]) -> Iterator[None]:
    """Calls each of `calls` once a second, in one thread, until the end."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(1.0):
            for call in calls:
                with suppress(OSError):
                    call()

    thread = threading.Thread(target=loop, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(FLUSH_SECONDS)
