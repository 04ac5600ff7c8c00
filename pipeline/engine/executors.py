"""Where tasks run: in this process, in a pool of processes, or on a Ray cluster. One protocol, the same bytes.

Only tasks (settings and paths) and accounts (counts) travel between processes; rows go through storage. A lost worker
costs its part, which is tried again; an error in a stage is reported at once, since trying again would give it again.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipeline.engine.account import PartAccount
from pipeline.engine.task import Task, run_task

MAX_ATTEMPTS = 4


@dataclass(frozen=True)
class Outcome:
    """What became of a task: an account, or the error that it ended in."""

    task: Task
    account: PartAccount | None
    error: BaseException | None = None


class Executor(Protocol):
    """Runs tasks. `slots` is how many the driver should keep in flight."""

    name: str
    slots: int

    def submit(self, task: Task) -> None: ...

    def outcome(self) -> Outcome:
        """The next finished task, in any order; blocks."""
        ...

    def close(self) -> None: ...


class InProcess:
    """`--workers 1`: tasks run here, one after the other; breakpoints and tracebacks work."""

    name = "local"
    slots = 1

    def __init__(self, address: str) -> None:
        self._address = address
        self._queue: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self._queue.append(task)

    def outcome(self) -> Outcome:
        task = self._queue.popleft()
        try:
            return Outcome(task, run_task(task, self._address))
        except Exception as error:  # noqa: BLE001 - the driver reports it with its step and part
            return Outcome(task, None, error)

    def close(self) -> None:
        self._queue.clear()


def _start_worker(parent: int) -> None:
    """In a pool's process: one thread for Arrow and numba, and an end as soon as the driver is gone."""
    limit_threads()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-driver").start()


def limit_threads() -> None:
    """One task, one core: parallelism is the executor's business."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(2)


class ProcessPool:
    """`--workers N`: a pool of processes on this machine."""

    name = "local"

    def __init__(self, address: str, workers: int) -> None:
        self._address, self._workers = address, workers
        self.slots = 2 * workers
        self._futures: dict[Future[PartAccount], Task] = {}
        self._attempts: dict[tuple[str, int], int] = {}
        self._ready: deque[Outcome] = deque()
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        # spawn, not fork: a forked child would inherit the lock's file and Arrow's threads
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, context, initializer=_start_worker, initargs=(os.getpid(),))

    def submit(self, task: Task) -> None:
        key = (task.step_key, task.part)
        self._attempts[key] = self._attempts.get(key, 0) + 1
        try:
            self._futures[self._pool.submit(run_task, task, self._address)] = task
        except BrokenProcessPool:
            self._restart([task])

    def _restart(self, lost: list[Task]) -> None:
        """A worker died: a new pool, and every task that was in flight goes to it again."""
        lost += self._futures.values()
        self._futures = {}
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._new_pool()
        for task in lost:
            if self._attempts[task.step_key, task.part] >= MAX_ATTEMPTS:
                message = f"{task.step_key}, part {task.part} ({task.part_name}): its worker died {MAX_ATTEMPTS} times (out of memory?)"
                self._ready.append(Outcome(task, None, RuntimeError(message)))
            else:
                self.submit(task)

    def outcome(self) -> Outcome:
        while not self._ready:
            done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
            for future in done:
                if future not in self._futures:
                    continue
                task = self._futures.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    self._restart([task])
                else:
                    self._ready.append(Outcome(task, None if error else future.result(), error))
        return self._ready.popleft()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Ray:
    """`--executor ray`: every part is a Ray task. Starts a local Ray, or joins the cluster at `address`."""

    name = "ray"

    def __init__(self, address: str, cluster: str | None, workers: int) -> None:
        try:
            import ray
        except ImportError as error:
            msg = "the ray executor needs the package `ray`: pip install 'ray>=2.50'"
            raise RuntimeError(msg) from error
        self._ray = ray
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"address": cluster} if cluster else {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": 128 << 20,  # accounts only: rows never pass through it
        }  # fmt: skip
        ray.init(log_to_driver=False, configure_logging=False, **options)
        self.slots = 2 * int(ray.cluster_resources().get("CPU", workers))
        self._run = ray.remote(num_cpus=1, max_retries=MAX_ATTEMPTS - 1)(_run_on_ray)
        self._address = address
        self._tasks: dict[Any, Task] = {}

    def submit(self, task: Task) -> None:
        self._tasks[self._run.remote(task, self._address)] = task

    def outcome(self) -> Outcome:
        (done, *_), _ = self._ray.wait(list(self._tasks), num_returns=1)
        task = self._tasks.pop(done)
        try:
            return Outcome(task, self._ray.get(done))
        except self._ray.exceptions.RayTaskError as error:
            return Outcome(task, None, error.cause or error)
        except self._ray.exceptions.RayError as error:
            return Outcome(task, None, error)

    def close(self) -> None:
        self._ray.shutdown()


def _run_on_ray(task: Task, address: str) -> PartAccount:
    limit_threads()
    return run_task(task, address)


@contextmanager
def opened(kind: str, address: str, *, workers: int, cluster: str | None) -> Iterator[Executor]:
    """The executor called `kind` (`local` or `ray`), closed at the end."""
    executor: Executor
    if kind == "ray":
        executor = Ray(address, cluster, workers)
    elif workers == 1:
        executor = InProcess(address)
    else:
        executor = ProcessPool(address, workers)
    try:
        yield executor
    finally:
        executor.close()
