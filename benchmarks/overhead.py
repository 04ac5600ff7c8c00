"""What a part costs when there is nothing to do: one-row parts through a filter, and what Ray asks for empty tasks.

    python benchmarks/overhead.py                  10,000 parts: workers 1, workers 2, again over the finished run
    python benchmarks/overhead.py --ray            and the same on Ray, beside as many empty Ray tasks
    python benchmarks/overhead.py --smoke          200 parts

Every part reads one row, filters it, and writes a Parquet file and its account: nothing is skipped that a real part does.
Targets: 3 ms a part or less on this machine; on Ray 1.5x of its own empty tasks or less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from overhead_stages import NotEmpty, OneRow

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import opened
from pipeline.engine.plan import PhysicalStep, Plan, Status, make_plan
from pipeline.engine.run import Driver, Manifest
from pipeline.engine.storage import Storage
from pipeline.stage import Chain, InputFile, Step


class Silent:
    """A listener that notes when the first part was done: a pool's start is not a part's cost."""

    first: float | None = None

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None: ...

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None: ...

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        self.first = self.first or time.perf_counter()

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None: ...


def timed_run(folder: Path, parts: int, kind: str, workers: int) -> tuple[float, float]:
    """Seconds of the whole run, and seconds from the first part done to the end."""
    chain = Chain("rows", (Step("one_row", OneRow(count=parts)), Step("not_empty", NotEmpty())), "not_empty")
    plan = make_plan([chain], 1, lambda path: InputFile(path, 0, "0"), lambda column: [])
    storage, listener = Storage(str(folder)), Silent()
    started = time.perf_counter()
    with opened(kind, storage.address, workers=workers, cluster=None) as executor:
        done = Driver(plan, storage, executor, listener).run()
        ended = time.perf_counter()
    assert done["rows/not_empty"].rows == parts
    return ended - started, ended - (listener.first or started)


def empty_ray_tasks(count: int, workers: int) -> float:
    """Seconds that Ray takes for as many empty tasks, as many in flight as the engine keeps."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
    empty = ray.remote(num_cpus=1)(_nothing)
    ray.get([empty.remote() for _ in range(4 * workers)])
    started = time.perf_counter()
    flying: list[ray.ObjectRef[None]] = []
    for _ in range(count):
        if len(flying) >= 2 * workers:
            done, flying = ray.wait(flying, num_returns=1)
            ray.get(done)
        flying.append(empty.remote())
    ray.get(flying)
    seconds = time.perf_counter() - started
    ray.shutdown()
    return seconds


def _nothing() -> None:
    pass


def main() -> None:
    """Print one line per case."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--parts", type=int, default=10_000)
    arguments.add_argument("--smoke", action="store_true", help="200 parts")
    arguments.add_argument("--ray", action="store_true")
    given = arguments.parse_args()
    parts = 200 if given.smoke else given.parts
    print(f"{parts} parts of one row")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workers in (1, 2):
            whole, steady = timed_run(folder / str(workers), parts, "local", workers)
            print(f"local, {workers} worker(s): {1000 * steady / parts:6.2f} ms a part ({whole:.1f} s with the start)")
        whole, _ = timed_run(folder / "1", parts, "local", 1)
        print(f"local, all parts done before: {whole:6.2f} s")
        if given.ray:
            own = empty_ray_tasks(parts, 2)
            whole, steady = timed_run(folder / "ray", parts, "ray", 2)
            print(f"ray, empty tasks:    {1000 * own / parts:6.2f} ms a task")
            print(f"ray, parts:          {1000 * steady / parts:6.2f} ms a part ({steady / own:.2f}x)")


if __name__ == "__main__":
    main()
