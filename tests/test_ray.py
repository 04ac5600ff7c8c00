"""The Ray executor against real Ray: resources, GPU actors, bundles, lost workers, a real cluster of three nodes that loses one."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.engine import faults, ray_cluster
from pipeline.engine.account import PartAccount
from pipeline.engine.executors import Retry
from pipeline.engine.plan import Plan
from pipeline.engine.ray_cluster import Ray
from pipeline.engine.run import Driver, StepFailed
from pipeline.engine.storage import Storage
from pipeline.stage import Resources, Step
from tests.ray_stages import AlsoOnGpu, OnGpu, Sleeps, StorageComesBack, lines
from tests.test_engine import Quiet, chain, corpus, counts, plan_of
from tests.test_engine import run as run_local
from tests.toy_stages import Fails, KillsItsWorkerOnce, Lines, MinLength, SortedTexts, Upper

ray: Any = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
__all__ = ["corpus"]


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """A Ray of two cores and two logical GPUs, which executors of this process use as it is."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
    yield
    ray.shutdown()


def driven(plan: Plan, folder: Path, executor: Ray) -> dict[str, Any]:
    try:
        return dict(Driver(plan, Storage(str(folder)), executor, Quiet()).run())
    finally:
        executor.close()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def many_files(folder: Path, files: int) -> Path:
    folder.mkdir()
    for number in range(files):
        (folder / f"f{number:03d}.txt").write_text("\n".join(f"word{n % 3} text {number} {n}" for n in range(6)))
    return folder


def test_gpu_steps_run_on_one_actor_per_gpu_that_loads_its_model_once(two_gpus: None, tmp_path: Path) -> None:
    notes, corpus = str(tmp_path / "notes"), many_files(tmp_path / "corpus", 12)
    step = Step("gpu", OnGpu(notes=notes, seconds=0.2), checkpoint=True)
    plan = plan_of(chain(corpus, MinLength(), step, AlsoOnGpu(notes=notes, seconds=0.2), Upper()))
    done = driven(plan, tmp_path / "run", Ray(str(tmp_path / "run"), None, 2))
    assert counts(done)["also_on_gpu"] == (72, 72, 0)
    loads = [line[1:] for line in lines(notes) if line[0] == "load"]
    runs = [(pid, float(a), float(b)) for word, pid, a, b in (x for x in lines(notes) if len(x) == 4) if word == "run"]
    assert len({pid for pid, _ in loads}) == len(loads) >= 4, "one load per actor, and each step has actors of its own"
    assert len(runs) == 2 * 12
    assert len(loads) < len(runs) / 2
    assert {gpu for _, gpu in loads} == {"0", "1"}
    gpu_of = dict(loads)
    for gpu in ("0", "1"):
        times = sorted((start, end) for pid, start, end in runs if gpu_of[pid] == gpu)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times)), "one task at a time"
    assert _gpus_come_back()


def _gpus_come_back(seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if ray.available_resources().get("GPU") == 2:
            return True
        time.sleep(0.2)
    return False


def test_more_gpus_than_a_ray_of_our_own_has_is_an_error_at_once(corpus: Path, tmp_path: Path, two_gpus: None) -> None:
    executor = Ray(str(tmp_path / "run"), None, 2)
    executor._started_here = True  # as when nothing can join
    plan = plan_of(chain(corpus, OnGpu(notes=str(tmp_path / "notes"), num_gpus=3)))
    with pytest.raises(StepFailed, match=r"toy/on_gpu needs 3 GPU for each task, and the Ray cluster has 2"):
        driven(plan, tmp_path / "run", executor)


def test_no_patience_is_left_for_what_no_node_of_a_joined_cluster_can_run(
    corpus: Path, tmp_path: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(MinLength, "resources", lambda self: Resources(num_cpus=64))
    with pytest.raises(StepFailed, match=r"toy/min_length needs 64 CPU and 0 GPU on one node, and none of the 1 nodes"):
        driven(plan_of(chain(corpus, MinLength())), tmp_path / "run", Ray(str(tmp_path / "run"), None, 2))


def test_memory_is_declared_to_ray_and_never_more_than_a_node_has(
    corpus: Path, tmp_path: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(chain(corpus, MinLength()))
    executor = Ray(str(tmp_path / "run"), None, 2)
    driven(plan, tmp_path / "run", executor)
    assert {memory for _, memory in executor._remote} == {1 << 30}
    monkeypatch.setattr(MinLength, "resources", lambda self: Resources(memory_bytes=1 << 50))
    huge = Ray(str(tmp_path / "huge"), None, 2)
    driven(plan_of(chain(corpus, MinLength())), tmp_path / "huge", huge)
    largest = max(int(node["Resources"]["memory"]) for node in ray.nodes())
    assert {memory for _, memory in huge._remote} == {largest}


def test_a_killed_ray_worker_costs_its_part_and_no_row(corpus: Path, tmp_path: Path, two_gpus: None) -> None:
    killer = KillsItsWorkerOnce(victim="word1 text 2 1", memory=str(tmp_path / "killed"))
    executor, told = Ray(str(tmp_path / "run"), None, 2), list[Retry]()
    executor.on_retry = told.append
    done = driven(plan_of(chain(corpus, killer, MinLength())), tmp_path / "run", executor)
    assert counts(done)["min_length"] == (30, 25, 5)
    assert [(one.task.part, one.fault) for one in told] == [(2, "worker")]


def test_a_killed_gpu_actor_is_replaced(
    corpus: Path, tmp_path: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KillsItsWorkerOnce, "resources", lambda self: Resources(num_gpus=1))
    killer = KillsItsWorkerOnce(victim="word1 text 2 1", memory=str(tmp_path / "killed"))
    executor, told = Ray(str(tmp_path / "run"), None, 2), list[Retry]()
    executor.on_retry = told.append
    done = driven(plan_of(chain(corpus, killer)), tmp_path / "run", executor)
    assert counts(done)["kills_its_worker_once"] == (30, 30, 0)
    assert [(one.task.part, one.fault) for one in told] == [(2, "worker")]


def test_on_ray_too_storage_is_asked_again_and_a_stage_is_not(
    corpus: Path, tmp_path: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE_SECONDS", 0.05)
    outage = StorageComesBack(victim="word1 text 2 1", times=2, notes=str(tmp_path / "notes"))
    executor, told = Ray(str(tmp_path / "run"), None, 2), list[Retry]()
    executor.on_retry = told.append
    done = driven(plan_of(chain(corpus, outage)), tmp_path / "run", executor)
    assert counts(done)["storage_comes_back"] == (30, 30, 0)
    assert [one.fault for one in told] == ["outage", "outage"]
    with pytest.raises(StepFailed, match=r"toy/fails, part 2 .*ValueError: cannot digest"):
        driven(
            plan_of(chain(corpus, Fails(on="word1 text 2 1"))),
            tmp_path / "fails",
            Ray(str(tmp_path / "fails"), None, 2),
        )


def test_quick_tasks_travel_in_bundles_and_give_the_same_bytes(tmp_path: Path, two_gpus: None) -> None:
    folder = many_files(tmp_path / "corpus", 120)
    plan = plan_of(chain(folder, MinLength()))
    run_local(plan, tmp_path / "local")
    executor = Ray(str(tmp_path / "run"), None, 2)
    sizes: list[int] = []
    take = executor._take
    executor._take = lambda ref, call: (sizes.append(len(call.tasks)), take(ref, call))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    driven(plan, tmp_path / "run", executor)
    assert sum(sizes) == 120
    assert len(sizes) < 90
    assert 1 < max(sizes) <= ray_cluster.BUNDLE
    assert files(tmp_path / "run") == files(tmp_path / "local")


def test_only_accounts_come_back_to_the_driver(corpus: Path, tmp_path: Path, two_gpus: None) -> None:
    executor = Ray(str(tmp_path / "run"), None, 2)
    seen: list[object] = []
    settle = executor._settle
    executor._settle = lambda task, answer: (seen.append(answer), settle(task, answer))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    driven(plan_of(chain(corpus, MinLength(), SortedTexts())), tmp_path / "run", executor)
    assert seen
    assert all(type(answer) is PartAccount for answer in seen)


def test_a_worker_of_another_version_is_refused(
    corpus: Path, tmp_path: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "__version__", "9.9.9")
    with pytest.raises(StepFailed, match=r"has tokenmill .*, the driver 9.9.9: install the same"):
        driven(plan_of(chain(corpus, MinLength())), tmp_path / "run", Ray(str(tmp_path / "run"), None, 2))


# ---------------------------------------------------------------------------------------------------- a cluster of nodes


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores and two nodes of one core each: real Ray nodes, each with a raylet of its own."""
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()


def test_a_cluster_that_loses_a_node_in_the_middle_ends_in_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    folder = many_files(tmp_path / "corpus", 24)
    notes = str(tmp_path / "notes")
    plan = plan_of(chain(folder, Sleeps(seconds=0.3, notes=notes), MinLength(), SortedTexts()))
    run_local(plan, tmp_path / "local")
    Path(notes).unlink()
    assert Lines(folder=str(folder)).max_rows == 3  # two batches a file: 0.6 s a part, 15 s in all on one core

    executor = Ray(str(tmp_path / "run"), cluster.address, 2)
    told: list[Retry] = []
    executor.on_retry = told.append

    def kill_a_node() -> None:
        while len(lines(notes)) < 8:
            time.sleep(0.05)
        raylet = psutil.Process(cluster.nodes[0].all_processes["raylet"][0].process.pid)
        gone = [one for one in raylet.children(recursive=True) if "ray::" in " ".join(one.cmdline())]
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        for worker in gone:  # a machine that is gone takes its workers along; a killed raylet lets them finish
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    killer = threading.Thread(target=kill_a_node)
    killer.start()
    driven(plan, tmp_path / "run", executor)
    killer.join()
    assert files(tmp_path / "run") == files(tmp_path / "local")
    assert told
    assert {one.fault for one in told} == {"worker"}


def test_slots_follow_the_cluster_as_it_grows(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(ray_cluster, "LEAST_SLOTS", 2)
    executor = Ray(str(tmp_path / "run"), cluster.address, 2)
    assert executor.slots == 4
    cluster.add_node(num_cpus=3)
    until = time.monotonic() + 20
    while executor.slots != 10 and time.monotonic() < until:
        time.sleep(0.2)
    assert executor.slots == 10
    executor.close()
