"""The Ray executor: CPU tasks as Ray tasks, GPU tasks on a pool of actors. Ray core only, no Ray Data, no object store.

Ray is the scheduler: placement, locality, lost nodes and autoscaling are its business. Here we say what a task needs
(cores, GPUs, memory), keep enough of them in flight for the cluster to stay busy and to grow, and decide with
`faults.py` what is tried again. Only tasks and accounts travel; they are small enough for Ray to send them inline.

A Ray task costs about 1 ms, whatever it does, so that quick tasks travel in bundles of up to BUNDLE (one Ray task runs
them in turn). The price: a lost worker costs up to a tenth of a second of work of its neighbours.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import __version__
from pipeline.engine.account import PartAccount
from pipeline.engine.executors import Answer, Failure, OnRetry, Outcome, Tries, attempt, limit_threads, no_gpu
from pipeline.engine.faults import WrongSetup, fault_of
from pipeline.engine.task import Task
from pipeline.stage import Resources

BUNDLE = 16
BUNDLE_SECONDS = 0.1
LEAST_SLOTS = 16
"""In flight even where the cluster has no cores yet: what is asked for makes an autoscaler start nodes."""
LOOK_SECONDS = 5.0
"""How often the cluster's size is read."""
IDLE_SECONDS = 60.0
"""After which an actor without work gives its GPU back."""
SWITCH_SECONDS = 1.0
"""After which it gives its GPU to a step that waits for one. Not at once: models take long to load."""
PATIENCE_SECONDS = 600.0
"""How long a joined cluster may take to grow a node that fits, before that is an error."""


def _run(tasks: Sequence[Task], address: str, version: str) -> list[Answer]:
    """On a Ray worker: run a bundle of tasks in turn."""
    if version != __version__:
        message = (
            f"the worker on {socket.gethostname()} has tokenmill {__version__}, the driver {version}: install the same"
        )
        return [Failure(WrongSetup(message), "machine", "")] * len(tasks)
    limit_threads()
    return [attempt(task, address) for task in tasks]


class _GpuWorker:
    """A Ray actor that holds its GPU and the models that its step's stages have loaded."""

    def ready(self) -> int:
        return os.getpid()

    def run(self, tasks: Sequence[Task], address: str, version: str) -> list[Answer]:
        return _run(tasks, address, version)


@dataclass(eq=False)
class _Actor:
    handle: Any
    step_key: str
    resources: Resources
    started: bool = False
    busy: bool = False
    idle_since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Call:
    """A Ray call in flight: a bundle of tasks, or (none) an actor on its start."""

    tasks: tuple[Task, ...]
    actor: _Actor | None = None


@dataclass
class _Size:
    """The cluster as it was last seen."""

    cpus: float = 0.0
    gpus: float = 0.0
    largest_memory: int = 0
    nodes: list[dict[str, float]] = field(default_factory=list)
    seen: float = float("-inf")

    def fits(self, resources: Resources, *, on_gpu: bool) -> bool:
        gpus = resources.num_gpus if on_gpu else 0
        return any(n.get("CPU", 0) >= resources.num_cpus and n.get("GPU", 0) >= gpus for n in self.nodes)


class Ray:
    """`--executor ray`. Starts a local Ray, joins the cluster at `cluster`, or uses the one that this process has joined."""

    name = "ray"

    def __init__(self, address: str, cluster: str | None, workers: int) -> None:
        self._ray = _imported(cluster)
        self._address = address
        self.on_retry: OnRetry | None = None
        cluster = cluster or os.environ.get("RAY_ADDRESS")
        self._started_here = not cluster and not self._ray.is_initialized()
        self._ours = not self._ray.is_initialized()
        self.dashboard_url = self._init(cluster, workers) if self._ours else None
        self._size = _Size()
        self._tries = Tries()
        self._ready: deque[Outcome] = deque()
        self._queue: deque[Task] = deque()
        self._gpu_queue: deque[Task] = deque()
        self._calls: dict[Any, _Call] = {}
        self._actors: list[_Actor] = []
        self._remote: dict[tuple[float, int], Any] = {}
        self._memory: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, float] = {}
        self._bundle = 1
        self._held: Counter[bool] = Counter()
        self._moved = time.monotonic()

    def _init(self, cluster: str | None, workers: int) -> str | None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"address": cluster} if cluster else {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": 128 << 20,  # accounts only: rows never pass through it
        }  # fmt: skip
        context = self._ray.init(log_to_driver=False, configure_logging=False, **options)
        url = getattr(context, "dashboard_url", None)
        return f"http://{url}" if url and cluster else None

    # ------------------------------------------------------------------------------------------------ the driver's side

    @property
    def slots(self) -> int:
        """Twice the cluster's cores, so that it stays busy and an autoscaler sees demand; more where tasks are quick."""
        return max(LEAST_SLOTS, 2 * int(self._seen().cpus)) * self._bundle

    def accepts(self, task: Task) -> bool:
        if not self._on_gpu(task):
            return self._held[False] < self.slots
        return self._held[True] < 2 * max(1, len(self._actors), int(self._seen().gpus / task.resources.num_gpus))

    def submit(self, task: Task) -> None:
        self._held[self._on_gpu(task)] += 1
        self._enqueue(task)

    def outcome(self) -> Outcome:
        while not self._ready:
            for task in self._tries.due():
                self._enqueue(task)
            self._send_bundles()
            self._send_to_actors()
            if not self._ready:
                self._collect()
        done = self._ready.popleft()
        self._held[self._on_gpu(done.task)] -= 1
        return done

    def close(self) -> None:
        for actor in list(self._actors):
            self._dismiss(actor)
        for call in self._calls:
            self._ray.cancel(call, force=True)
        if self._ours:
            self._ray.shutdown()

    # ------------------------------------------------------------------------------------------------ the cluster

    def _seen(self) -> _Size:
        if time.monotonic() - self._size.seen > LOOK_SECONDS:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._size = _Size(
                cpus=sum(node.get("CPU", 0) for node in nodes),
                gpus=sum(node.get("GPU", 0) for node in nodes),
                largest_memory=int(max((node.get("memory", 0) for node in nodes), default=0)),
                nodes=nodes,
                seen=time.monotonic(),
            )
        return self._size

    def _on_gpu(self, task: Task) -> bool:
        wanted = task.resources
        return wanted.num_gpus > 0 and not (wanted.gpu_optional and self._seen().gpus < wanted.num_gpus)

    def _memory_of(self, task: Task) -> int:
        """Declared bytes, twice as many after each time that Ray killed it for want of memory; a node's at most."""
        wanted = self._memory.get((task.step_key, task.part), task.resources.memory_bytes)
        return min(wanted, self._seen().largest_memory or wanted)

    def _unfit(self, task: Task) -> Failure | None:
        """The error of a task that no node can ever run, as far as is known now."""
        size, wanted = self._seen(), task.resources
        if self._on_gpu(task) and (error := no_gpu(task, int(size.gpus), "the Ray cluster")):
            return error
        if size.fits(wanted, on_gpu=self._on_gpu(task)):
            return None
        message = (
            f"{task.step_key} needs {wanted.num_cpus:g} CPU and {wanted.num_gpus:g} GPU on one node, and none of the "
            f"{len(size.nodes)} nodes of the Ray cluster has as much"
        )
        return Failure(WrongSetup(message), "machine", "")

    # ------------------------------------------------------------------------------------------------ sending

    def _enqueue(self, task: Task) -> None:
        if self._started_here and (error := self._unfit(task)):  # nothing will ever join a Ray of our own
            self._settle(task, error)
        else:
            (self._gpu_queue if self._on_gpu(task) else self._queue).append(task)

    def _send_bundles(self) -> None:
        while self._queue:
            first = self._queue.popleft()
            bundle, memory = [first], self._memory_of(first)
            while self._queue and len(bundle) < self._bundle_of(first) and self._alike(first, self._queue[0]):
                bundle.append(self._queue.popleft())
            key = (first.resources.num_cpus, memory)
            if key not in self._remote:
                self._remote[key] = self._ray.remote(num_cpus=key[0], memory=memory, max_retries=0)(_run)
            call = self._remote[key].remote(tuple(bundle), self._address, __version__)
            self._calls[call] = _Call(tuple(bundle))

    def _bundle_of(self, task: Task) -> int:
        """How many of a step's tasks go into one Ray task: one, until they have shown that they are quick."""
        seconds = self._seconds.get(task.step_key, BUNDLE_SECONDS)
        return max(1, min(BUNDLE, int(BUNDLE_SECONDS / max(seconds, 1e-3))))

    def _alike(self, first: Task, other: Task) -> bool:
        return other.step_key == first.step_key and not self._tries.tried(first) and not self._tries.tried(other)

    def _send_to_actors(self) -> None:
        """One task to each idle actor of its step; more actors where GPUs are free, or may come."""
        now = time.monotonic()
        for actor in [a for a in self._actors if a.started and not a.busy and now - a.idle_since > IDLE_SECONDS]:
            self._dismiss(actor)
        waiting, self._gpu_queue = self._gpu_queue, deque()
        for task in waiting:
            idle = [a for a in self._actors if a.step_key == task.step_key and a.started and not a.busy]
            if idle:
                idle[0].busy = True
                call = idle[0].handle.run.remote((task,), self._address, __version__)
                self._calls[call] = _Call((task,), idle[0])
            else:
                self._gpu_queue.append(task)
        for step_key in dict.fromkeys(task.step_key for task in self._gpu_queue):
            self._hire(step_key)

    def _hire(self, step_key: str) -> None:
        """Actors for the waiting tasks of a step, as many as there are GPUs; on a cluster that may grow, a few ahead."""
        tasks = [task for task in self._gpu_queue if task.step_key == step_key]
        wanted = tasks[0].resources
        own = [actor for actor in self._actors if actor.step_key == step_key]
        starting = sum(not actor.started for actor in own)
        missing = len(tasks) - starting
        self._make_room(step_key, wanted.num_gpus * (1 if missing > 0 else 0))
        while missing > 0 and self._gpus_used() + wanted.num_gpus <= self._seen().gpus + 1e-9:
            self._start(step_key, wanted)
            missing, starting = missing - 1, starting + 1
        if not self._started_here and not starting:
            for _ in range(min(missing, max(1, len(own)))):
                self._start(step_key, wanted)

    def _make_room(self, step_key: str, gpus: float) -> None:
        """Dismiss other steps' actors that have had nothing to do for a moment, while GPUs are short."""
        before = time.monotonic() - SWITCH_SECONDS
        for actor in [a for a in self._actors if a.step_key != step_key and not a.busy and a.idle_since < before]:
            if self._gpus_used() + gpus <= self._seen().gpus + 1e-9:
                return
            if not self._needed(actor):
                self._dismiss(actor)

    def _gpus_used(self) -> float:
        return sum(actor.resources.num_gpus for actor in self._actors)

    def _needed(self, actor: _Actor) -> bool:
        return any(task.step_key == actor.step_key for task in self._gpu_queue)

    def _start(self, step_key: str, wanted: Resources) -> None:
        memory = min(wanted.memory_bytes, self._seen().largest_memory or wanted.memory_bytes)
        # an actor holds what it asks for even while it waits for rows: without a core left for them, none would come
        options = {"num_cpus": max(0.0, wanted.num_cpus - 1), "num_gpus": wanted.num_gpus, "memory": memory}
        handle = self._ray.remote(**options, max_restarts=0)(_GpuWorker).remote()
        actor = _Actor(handle, step_key, wanted)
        self._actors.append(actor)
        self._calls[handle.ready.remote()] = _Call((), actor)

    def _dismiss(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        self._calls = {ref: call for ref, call in self._calls.items() if call.actor is not actor}
        self._ray.kill(actor.handle)

    # ------------------------------------------------------------------------------------------------ collecting

    def _collect(self) -> None:
        """Wait until a call is done (or a pause is over, or it is time to look at the cluster), take all that are."""
        pause = min(SWITCH_SECONDS if self._gpu_queue else LOOK_SECONDS, self._tries.seconds_to_next() or LOOK_SECONDS)
        if not self._calls:
            time.sleep(pause)
            return
        found, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=pause)
        if not found:
            self._lose_patience()
            return
        self._moved = time.monotonic()
        found, _ = self._ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        for ref in found:
            if ref in self._calls:  # not gone with its actor meanwhile
                self._take(ref, self._calls.pop(ref))

    def _take(self, ref: Any, call: _Call) -> None:
        actor = call.actor
        try:
            answers: list[Answer] = self._ray.get(ref) if call.tasks else []
            if not call.tasks:
                self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._lost(call, error)
            return
        if actor is not None:
            actor.started, actor.busy, actor.idle_since = True, False, time.monotonic()
        for task, answer in zip(call.tasks, answers, strict=True):
            if isinstance(answer, PartAccount):
                before = self._seconds.get(task.step_key, 0.0)
                self._seconds[task.step_key] = max(answer.seconds, 0.9 * before + 0.1 * answer.seconds)
                self._memory.pop((task.step_key, task.part), None)
            self._settle(task, answer)
        if call.tasks:
            self._bundle = self._bundle_of(call.tasks[-1])

    def _lost(self, call: _Call, error: Exception) -> None:
        """A call that ended without an answer: its worker, its node or its actor is gone."""
        actor, tasks = call.actor, call.tasks
        if actor is not None:
            if actor in self._actors:
                self._dismiss(actor)
            if not tasks:  # it never started: that counts against the first task that waits for it
                waiting = [task for task in self._gpu_queue if task.step_key == actor.step_key][:1]
                self._gpu_queue = deque(task for task in self._gpu_queue if task not in waiting)
                tasks = tuple(waiting)
        cause = getattr(error, "cause", None)
        shown = cause if isinstance(cause, Exception) else error
        for task in tasks:
            if type(error).__name__ == "OutOfMemoryError":
                self._memory[task.step_key, task.part] = 2 * self._memory_of(task)
            self._settle(task, Failure(shown, fault_of(error), ""))

    def _lose_patience(self) -> None:
        """Give up on what no node can run once nothing has moved for PATIENCE_SECONDS."""
        if time.monotonic() - self._moved < PATIENCE_SECONDS:
            return
        for task in list(self._gpu_queue):
            if error := self._unfit(task):
                self._gpu_queue.remove(task)
                self._settle(task, error)
        for ref, call in list(self._calls.items()):
            errors = [self._unfit(task) for task in call.tasks]
            if call.tasks and call.actor is None and all(errors):
                self._ray.cancel(ref, force=True)
                del self._calls[ref]
                for task, error in zip(call.tasks, errors, strict=True):
                    assert error is not None
                    self._settle(task, error)

    def _settle(self, task: Task, answer: Answer) -> None:
        outcome = self._tries.settle(task, answer, self.on_retry)
        if outcome is not None:
            self._ready.append(outcome)


def _imported(cluster: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        msg = "the ray executor needs the package `ray`: pip install 'ray>=2.50'"
        raise RuntimeError(msg) from error
    if cluster and cluster.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        msg = (
            f"{cluster} is a Ray Client address, which needs pip install 'ray[client]'; on the cluster itself --address auto needs "
            "nothing, and from outside `ray job submit` is sturdier (recipes/clusters/README.md)"
        )
        raise RuntimeError(msg)
    return ray
