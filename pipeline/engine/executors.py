"""Where tasks run: in this process, in processes of this machine, or on a Ray cluster. One protocol, the same bytes.

Only tasks (settings and paths) and accounts (counts) travel between processes; rows go through storage. What an error
means and whether a task gets another try is decided in `faults.py`, for all executors alike.
"""

from __future__ import annotations

import glob
import heapq
import itertools
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Protocol

import pyarrow as pa

from pipeline.engine.account import PartAccount
from pipeline.engine.faults import Fault, OnWorker, WorkerLost, WrongSetup, fault_of, pause_seconds, survives_pickling
from pipeline.engine.task import Task, run_task


@dataclass(frozen=True)
class Outcome:
    """What became of a task: an account, or the error that it ended in and what kind of fault that is."""

    task: Task
    account: PartAccount | None
    error: BaseException | None = None
    fault: Fault | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Retry:
    """A task that will be tried again: told to whoever set `on_retry`."""

    task: Task
    fault: Fault
    attempts: int
    pause_seconds: float
    error: str


OnRetry = Callable[[Retry], None]


class Executor(Protocol):
    """Runs tasks. The driver submits as long as `accepts` says so, then waits for an outcome."""

    name: str
    on_retry: OnRetry | None
    dashboard_url: str | None

    @property
    def slots(self) -> int:
        """How many tasks without a GPU the driver should keep in flight; it follows the cluster as that grows."""
        ...

    def accepts(self, task: Task) -> bool:
        """Whether there is room for `task` now."""
        ...

    def submit(self, task: Task) -> None: ...

    def outcome(self) -> Outcome:
        """The next finished task, in any order; blocks."""
        ...

    def close(self) -> None: ...


# ---------------------------------------------------------------------------------------------------- on a worker


@dataclass(frozen=True)
class Failure:
    """An error on its way from a worker to the driver."""

    error: BaseException
    fault: Fault
    trace: str


Answer = PartAccount | Failure


class _Remote(Exception):
    """The traceback on the worker, as the cause of the error that is shown."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def attempt(task: Task, address: str) -> Answer:
    """Run one task; an error becomes a value, classified where it happened."""
    try:
        return run_task(task, address)
    except Exception as error:  # noqa: BLE001 - travels to the driver, which reports it with its step and part
        fault = fault_of(error)
        trace = "".join(traceback.format_exception(error))
        return Failure(_portable(error, fault), fault, trace)


def _portable(error: BaseException, fault: Fault) -> BaseException:
    """`error`, or its words where it does not survive a pickle."""
    return error if survives_pickling(error) else OnWorker(f"{type(error).__name__}: {error}", fault)


def limit_threads() -> None:
    """One task, one core: parallelism is the executor's business."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(2)


# ---------------------------------------------------------------------------------------------------- other tries


class Tries:
    """How often each task was tried, and which ones wait for another try."""

    def __init__(self) -> None:
        self._failed: Counter[tuple[str, int]] = Counter()
        self._due: list[tuple[float, int, Task]] = []
        self._number = itertools.count()

    def settle(self, task: Task, answer: Answer, on_retry: OnRetry | None) -> Outcome | None:
        """The outcome of `task`, or None when it will be tried again."""
        key = (task.step_key, task.part)
        if isinstance(answer, PartAccount):
            return Outcome(task, answer, attempts=self._failed.pop(key, 0) + 1)
        self._failed[key] += 1
        attempts = self._failed[key]
        pause = pause_seconds(answer.fault, attempts)
        if pause is None:
            del self._failed[key]
            if answer.trace and answer.error.__cause__ is None:
                answer.error.__cause__ = _Remote(answer.trace)
            return Outcome(task, None, answer.error, answer.fault, attempts)
        heapq.heappush(self._due, (time.monotonic() + pause, next(self._number), task))
        if on_retry is not None:
            on_retry(Retry(task, answer.fault, attempts, pause, f"{type(answer.error).__name__}: {answer.error}"))
        return None

    def tried(self, task: Task) -> bool:
        """Whether it has failed before."""
        return (task.step_key, task.part) in self._failed

    def due(self) -> list[Task]:
        """Tasks whose pause is over."""
        now, found = time.monotonic(), []
        while self._due and self._due[0][0] <= now:
            found.append(heapq.heappop(self._due)[2])
        return found

    def seconds_to_next(self) -> float | None:
        """Until the next pause is over; None when no task waits."""
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None


def no_gpu(task: Task, found: int, where: str) -> Failure | None:
    """The error of a task that needs more GPUs than there are; None when it can run."""
    wanted = task.resources.num_gpus
    if not wanted or task.resources.gpu_optional or found >= wanted:
        return None
    message = (
        f"{task.step_key} needs {wanted:g} GPU for each task, and {where} has {found}: run it with --executor ray --address on a "
        "cluster with GPUs, or give the stage settings that run on a CPU"
    )
    return Failure(WrongSetup(message), "machine", "")


def local_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA numbers them; no driver or library is loaded to find out."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        return list(itertools.takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), names))
    return [str(n) for n in range(len(glob.glob("/dev/nvidia[0-9]*")))]


# ---------------------------------------------------------------------------------------------------- this process


class InProcess:
    """`--workers 1`: tasks run here, one after the other; breakpoints and tracebacks work."""

    name = "local"
    slots = 1
    dashboard_url: str | None = None

    def __init__(self, address: str) -> None:
        self._address = address
        self._queue: deque[Task] = deque()
        self._tries = Tries()
        self._gpus = len(local_gpus())
        self.on_retry: OnRetry | None = None

    def accepts(self, task: Task) -> bool:
        return not self._queue

    def submit(self, task: Task) -> None:
        self._queue.append(task)

    def outcome(self) -> Outcome:
        task = self._queue.popleft()
        while True:
            answer = no_gpu(task, self._gpus, "this machine") or self._attempt(task)
            outcome = self._tries.settle(task, answer, self.on_retry)
            if outcome is not None:
                return outcome
            time.sleep(self._tries.seconds_to_next() or 0)
            self._tries.due()

    def _attempt(self, task: Task) -> Answer:
        try:
            return run_task(task, self._address)
        except Exception as error:  # noqa: BLE001 - the driver reports it with its step and part
            return Failure(error, fault_of(error), "")

    def close(self) -> None:
        self._queue.clear()


# ---------------------------------------------------------------------------------------------------- processes


def _serve(tasks: Connection, address: str, parent: int, gpus: tuple[str, ...] | None) -> None:
    """A worker process: answers tasks in order, and ends as soon as the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    limit_threads()
    inbox: queue.SimpleQueue[Task | Failure] = queue.SimpleQueue()

    def read() -> None:  # apart, so that the driver never waits for a busy worker to take its next task
        while True:
            try:
                inbox.put(tasks.recv())
            except (EOFError, OSError):
                os._exit(1)
            except Exception as error:  # noqa: BLE001 - a task that cannot be unpickled here
                inbox.put(Failure(_portable(error, "stage"), "stage", "".join(traceback.format_exception(error))))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    for job in (read, watch):
        threading.Thread(target=job, daemon=True, name=job.__name__).start()
    while True:
        one = inbox.get()
        tasks.send(one if isinstance(one, Failure) else attempt(one, address))


class _Worker:
    """One process and the tasks that it was given, the running one first."""

    def __init__(self, address: str, gpus: tuple[str, ...] | None = None, step_key: str = "") -> None:
        # spawn, not fork: a forked child would inherit the lock's file and Arrow's threads
        context = multiprocessing.get_context("spawn")
        self.tasks, theirs = context.Pipe()
        self.gpus, self.step_key = gpus, step_key
        self.given: deque[Task] = deque()
        self._process = context.Process(target=_serve, args=(theirs, address, os.getpid(), gpus))
        self._process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        self.given.append(task)
        with suppress(OSError):  # it is dead: `answer` will say so
            self.tasks.send(task)

    def answer(self) -> Answer | None:
        """The answer to the first of its tasks; None when the process died over it."""
        try:
            received: Answer = self.tasks.recv()
        except (EOFError, OSError):
            return None
        return received

    def last_words(self) -> str:
        """How a dead process ended."""
        self._process.join(5)
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"exit code {code}"
        return f"{signal.Signals(-code).name}{', out of memory?' if code == -signal.SIGKILL else ''}"

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.tasks.close()


class ProcessPool:
    """`--workers N`: processes on this machine, and one more for each GPU while a step needs GPUs.

    Each process has a pipe of its own, so that a killed one costs exactly the part that it was at, and only that part is
    suspect. A GPU process serves one step, one task at a time; its models are loaded once.
    """

    name = "local"
    dashboard_url: str | None = None
    QUICK_SECONDS = 0.5
    """Below this a worker is given its next task ahead of time; above, no task waits behind another."""

    def __init__(self, address: str, workers: int) -> None:
        self._address, self._count = address, workers
        self.slots = 2 * workers
        self.on_retry: OnRetry | None = None
        self._tries = Tries()
        self._ready: deque[Outcome] = deque()
        self._queue: deque[Task] = deque()
        self._workers: list[_Worker] = []
        self._gpu_queue: deque[Task] = deque()
        self._gpu_workers: list[_Worker] = []
        self._gpus = local_gpus()
        self._held: Counter[bool] = Counter()
        self._seconds = 0.0

    def _on_gpu(self, task: Task) -> bool:
        resources = task.resources
        return resources.num_gpus > 0 and not (resources.gpu_optional and len(self._gpus) < resources.num_gpus)

    def accepts(self, task: Task) -> bool:
        on_gpu = self._on_gpu(task)
        return self._held[on_gpu] < (2 * max(1, len(self._gpus)) if on_gpu else self.slots)

    def submit(self, task: Task) -> None:
        self._held[self._on_gpu(task)] += 1
        self._enqueue(task)

    def _enqueue(self, task: Task) -> None:
        if error := no_gpu(task, len(self._gpus), "this machine"):
            self._settle(task, error)
        else:
            (self._gpu_queue if self._on_gpu(task) else self._queue).append(task)

    def outcome(self) -> Outcome:
        while not self._ready:
            for task in self._tries.due():
                self._enqueue(task)
            self._feed()
            self._feed_gpus()
            busy = {w.tasks: w for w in (*self._workers, *self._gpu_workers) if w.given}
            pause = self._tries.seconds_to_next()
            if not busy and pause is None and not self._ready:
                msg = "no task is in flight"
                raise RuntimeError(msg)
            for tasks in wait_for(list(busy), pause):
                self._receive(busy[tasks])  # type: ignore[index]
        done = self._ready.popleft()
        self._held[self._on_gpu(done.task)] -= 1
        return done

    def _feed(self) -> None:
        """Give each idle worker a task, then, where tasks are quick, each its next."""
        for depth in (1, 2) if self._seconds < self.QUICK_SECONDS else (1,):
            for worker in self._workers:
                if self._queue and len(worker.given) < depth:
                    worker.give(self._queue.popleft())
            while depth == 1 and self._queue and len(self._workers) < self._count:
                self._workers.append(_Worker(self._address))
                self._workers[-1].give(self._queue.popleft())

    def _feed_gpus(self) -> None:
        waiting, self._gpu_queue = self._gpu_queue, deque()
        for task in waiting:
            worker = self._gpu_worker(task)
            if worker is None:
                self._gpu_queue.append(task)
            else:
                worker.give(task)

    def _gpu_worker(self, task: Task) -> _Worker | None:
        """An idle process of the task's step, or a new one on free GPUs; other steps' idle ones make room."""
        idle = [worker for worker in self._gpu_workers if not worker.given]
        for worker in idle:
            if worker.step_key == task.step_key:
                return worker
        wanted = math.ceil(task.resources.num_gpus)
        while True:
            taken = {gpu for worker in self._gpu_workers for gpu in worker.gpus or ()}
            free = [gpu for gpu in self._gpus if gpu not in taken]
            if len(free) >= wanted:
                self._gpu_workers.append(_Worker(self._address, tuple(free[:wanted]), task.step_key))
                return self._gpu_workers[-1]
            if not idle:
                return None
            self._drop(idle.pop())

    def _receive(self, worker: _Worker) -> None:
        answer = worker.answer()
        if answer is None:
            task, *innocent = worker.given
            self._queue.extendleft(reversed(innocent))
            answer = Failure(WorkerLost(f"its worker died ({worker.last_words()})"), "worker", "")
            self._drop(worker)
        else:
            task = worker.given.popleft()
        if isinstance(answer, PartAccount):
            self._seconds = max(answer.seconds, 0.9 * self._seconds + 0.1 * answer.seconds)
        self._settle(task, answer)

    def _drop(self, worker: _Worker) -> None:
        (self._workers if worker.gpus is None else self._gpu_workers).remove(worker)
        worker.stop()

    def _settle(self, task: Task, answer: Answer) -> None:
        outcome = self._tries.settle(task, answer, self.on_retry)
        if outcome is not None:
            self._ready.append(outcome)

    def close(self) -> None:
        for worker in (*self._workers, *self._gpu_workers):
            worker.stop()
        self._workers, self._gpu_workers = [], []


@contextmanager
def opened(kind: str, address: str, *, workers: int, cluster: str | None) -> Iterator[Executor]:
    """The executor called `kind` (`local` or `ray`), closed at the end."""
    executor: Executor
    if kind == "ray":
        from pipeline.engine.ray_cluster import Ray

        executor = Ray(address, cluster, workers)
    elif workers == 1:
        executor = InProcess(address)
    else:
        executor = ProcessPool(address, workers)
    try:
        yield executor
    finally:
        executor.close()
