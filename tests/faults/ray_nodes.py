"""A real Ray cluster of several nodes on this machine, in a process of its own, whose nodes can be killed.

The head takes no tasks, so that every task runs on a node that may die. Killing a node is SIGKILL to its raylet and all that
it started, at once, as when a machine loses power; a fresh node joins in its place, as autoscalers do.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
OBJECT_STORE_BYTES = 100 << 20  # accounts only: rows never pass through it
HEARTBEATS = {  # a dead node is noticed within 3 s instead of 15
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
    "health_check_initial_delay_ms": 1000,
}


class RayNodes:
    """The cluster as its user sees it: an address, nodes to kill, workers to kill."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        msg = f"the Ray cluster ended with code {self._process.wait()}"
        raise RuntimeError(msg)

    def kill_node(self, choice: float) -> None:
        """Kill one node; `choice` in [0, 1) says which. Returns when its successor has joined."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{choice}\n")
        self._process.stdin.flush()
        self._answer()

    def workers(self) -> list[psutil.Process]:
        """Worker processes that run a task at this moment (Ray names them by it)."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                title = (process.cmdline() or [""])[0]
            except psutil.Error:
                continue
            if title.startswith("ray::") and "IDLE" not in title and not title.endswith("Agent"):
                found.append(process)
        return sorted(found, key=lambda process: process.pid)


@contextmanager
def ray_nodes(count: int = 2) -> Iterator[RayNodes]:
    """A cluster of `count` nodes of one core each, gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.ray_nodes", str(count)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield RayNodes(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        kill_all(family)


def kill_all(processes: list[psutil.Process]) -> None:
    """SIGKILL to each that is still there."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _serve(count: int) -> None:
    """The helper process: one line in, one node killed and replaced, one line out; ends with its input."""
    from ray.cluster_utils import Cluster

    common: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": 0, "_system_config": HEARTBEATS})
    nodes = [cluster.add_node(num_cpus=1, **common) for _ in range(count)]
    print(f"> {cluster.address}", flush=True)
    for line in sys.stdin:
        victim = nodes.pop(int(float(line) * len(nodes)))
        raylet = psutil.Process(victim.all_processes["raylet"][0].process.pid)
        kill_all([raylet, *raylet.children(recursive=True)])
        nodes.append(cluster.add_node(num_cpus=1, **common))
        print("> killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
