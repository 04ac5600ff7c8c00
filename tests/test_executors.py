"""Faults and other tries, and GPU steps on this machine: what is tried again, what is reported, and who runs what."""

from __future__ import annotations

import errno
import gzip
import itertools
import signal
from pathlib import Path

import botocore.exceptions
import pyarrow as pa
import pytest
import ray.exceptions as re

from pipeline.engine import faults
from pipeline.engine.executors import Executor, InProcess, ProcessPool, Retry, local_gpus
from pipeline.engine.faults import OnWorker, WorkerLost, WrongSetup, fault_of, pause_seconds
from pipeline.engine.plan import Plan
from pipeline.engine.run import Driver, StepFailed
from pipeline.engine.storage import Storage
from pipeline.stage import Exchange, Resources, Step
from tests.ray_stages import AlsoOnGpu, HidesItsError, OnGpu, StorageComesBack, lines
from tests.test_engine import Quiet, chain, corpus, counts, plan_of
from tests.toy_stages import FirstWord, Joined, KillsItsWorkerOnce, MinLength, Upper

__all__ = ["corpus"]


def driven(plan: Plan, folder: Path, executor: Executor) -> dict[str, object]:
    try:
        return dict(Driver(plan, Storage(str(folder)), executor, Quiet()).run())
    finally:
        executor.close()


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (WorkerLost("gone"), "worker"),
        (re.WorkerCrashedError(), "worker"),
        (re.NodeDiedError("node"), "worker"),
        (re.OutOfMemoryError("killed"), "worker"),
        (re.ActorDiedError(), "worker"),
        (re.ActorUnavailableError("away", None), "worker"),
        (MemoryError(), "worker"),
        (pa.ArrowMemoryError("malloc"), "worker"),
        (re.RayTaskError("f", "trace", ValueError("bad row")), "stage"),
        (re.RayTaskError("f", "trace", ConnectionResetError(104, "reset")), "outage"),
        (re.RuntimeEnvSetupError("pip"), "machine"),
        (ConnectionResetError(104, "reset"), "outage"),
        (TimeoutError("slow"), "outage"),
        (OSError(errno.EIO, "i/o error"), "outage"),
        (OSError(errno.EBUSY, "SlowDown"), "outage"),
        (FileNotFoundError(errno.ENOENT, "not there yet"), "outage"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), "outage"),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), "outage"),
        (botocore.exceptions.ClientError({"Error": {"Code": "503"}}, "PutObject"), "outage"),
        (OSError(errno.ENOSPC, "disk full"), "machine"),
        (OSError(errno.EROFS, "read-only"), "machine"),
        (PermissionError("Access Denied"), "machine"),
        (WrongSetup("no GPU"), "machine"),
        (OSError("Couldn't deserialize thrift"), "stage"),
        (gzip.BadGzipFile("not gzip"), "stage"),
        (ValueError("bad row"), "stage"),
        (KeyError("column"), "stage"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "stage"),
        (OnWorker("Odd: words", "outage"), "outage"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_is_told_apart_by_what_it_speaks_of(error: BaseException, fault: str) -> None:
    assert fault_of(error) == fault


def test_pauses_grow_and_end() -> None:
    pauses = [pause_seconds("outage", n) for n in range(1, 8)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, None]
    assert [pause_seconds("worker", n) for n in (1, 3, 4)] == [0.5, 2.0, None]
    assert pause_seconds("stage", 1) is None
    assert pause_seconds("machine", 1) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_storage_error_is_tried_again_and_told(
    corpus: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE_SECONDS", 0.05)
    stage = StorageComesBack(victim="word1 text 2 1", times=3, notes=str(tmp_path / "notes"))
    plan = plan_of(chain(corpus, stage, MinLength()))
    run = str(tmp_path / "run")
    executor: InProcess | ProcessPool = InProcess(run) if workers == 1 else ProcessPool(run, workers)
    told: list[Retry] = []
    executor.on_retry = told.append
    done = driven(plan, tmp_path / "run", executor)
    assert counts(done)["min_length"] == (30, 25, 5)  # type: ignore[arg-type]
    assert [(one.task.part, one.fault, one.attempts, one.pause_seconds) for one in told] == [
        (2, "outage", 1, 0.05),
        (2, "outage", 2, 0.1),
        (2, "outage", 3, 0.2),
    ]
    assert told[0].error == "ConnectionResetError: [Errno 104] read timed out"


def test_an_outage_that_stays_is_reported_after_its_last_try(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE_SECONDS", 0.01)
    stage = StorageComesBack(victim="word1 text 2 1", times=99, notes=str(tmp_path / "notes"))
    with pytest.raises(StepFailed, match=r"part 2 \(f2.txt\) failed: ConnectionResetError"):
        driven(plan_of(chain(corpus, stage)), tmp_path / "run", ProcessPool(str(tmp_path / "run"), 2))
    assert len(lines(str(tmp_path / "notes"))) == 7


def test_an_error_that_cannot_be_pickled_still_names_itself(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"Unpicklable: bad 7"):
        driven(plan_of(chain(corpus, HidesItsError())), tmp_path / "run", ProcessPool(str(tmp_path / "run"), 2))


def test_a_killed_worker_costs_its_own_part_alone(corpus: Path, tmp_path: Path) -> None:
    killer = KillsItsWorkerOnce(victim="word1 text 2 1", memory=str(tmp_path / "killed"))
    plan = plan_of(chain(corpus, killer, MinLength()))
    executor, told = ProcessPool(str(tmp_path / "run"), 2), []
    executor.on_retry = told.append
    done = driven(plan, tmp_path / "run", executor)
    assert counts(done)["min_length"] == (30, 25, 5)  # type: ignore[arg-type]
    assert [(one.task.part, one.fault) for one in told] == [(2, "worker")]
    assert signal.SIGKILL.name in told[0].error


# ---------------------------------------------------------------------------------------------------- GPUs of this machine


def test_a_change_between_cpu_and_gpu_cuts_a_step(corpus: Path) -> None:
    gpu, also = OnGpu(notes="n"), AlsoOnGpu(notes="n")
    plan = plan_of(chain(corpus, MinLength(), gpu, also, Upper()))
    assert [(s.label, s.resources.num_gpus) for s in plan.steps] == [
        ("min_length", 0.0),
        ("also_on_gpu", 1.0),
        ("upper", 0.0),
    ]


def test_an_exchange_is_cut_enough_between_cpu_and_gpu(corpus: Path) -> None:
    exchange = Step("by", Exchange(by="first_word", partitions=2))
    plan = plan_of(chain(corpus, FirstWord(), exchange, OnGpu(notes="n"), Joined()))
    assert [(s.label, s.kind, s.resources.num_gpus) for s in plan.steps] == [
        ("by", "exchange", 0.0),
        ("joined/exchange", "exchange", 1.0),
        ("joined", "rows", 0.0),
    ]


def test_resources_are_no_part_of_a_fingerprint(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_of(chain(corpus, MinLength()))
    monkeypatch.setattr(MinLength, "resources", lambda self: Resources(num_cpus=3, memory_bytes=5 << 30))
    after = plan_of(chain(corpus, MinLength()))
    assert after.steps[0].resources == Resources(num_cpus=3, memory_bytes=5 << 30, gpu_optional=True)
    assert [s.fingerprint for s in after.steps] == [s.fingerprint for s in before.steps]


def test_together_stages_ask_for_the_larger_of_each() -> None:
    both = Resources(2, 0, 1 << 30) | Resources(1, 1, 4 << 30, gpu_optional=True)
    assert both == Resources(2, 1, 4 << 30, gpu_optional=True)
    assert not (both | Resources(num_gpus=1)).gpu_optional


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gpu_step_without_a_gpu_is_a_clear_error(
    corpus: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    plan = plan_of(chain(corpus, OnGpu(notes=str(tmp_path / "notes"))))
    run = str(tmp_path / "run")
    with pytest.raises(StepFailed, match=r"toy/on_gpu needs 1 GPU for each task, and this machine has 0: run it with"):
        driven(plan, tmp_path / "run", InProcess(run) if workers == 1 else ProcessPool(run, workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_that_may_do_without_its_gpu_runs_on_a_cpu(
    corpus: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    plan = plan_of(chain(corpus, OnGpu(notes=str(tmp_path / "notes"), gpu_optional=True)))
    run = str(tmp_path / "run")
    done = driven(plan, tmp_path / "run", InProcess(run) if workers == 1 else ProcessPool(run, workers))
    assert counts(done)["on_gpu"] == (30, 30, 0)  # type: ignore[arg-type]


def test_each_local_gpu_has_one_process_per_step_and_one_task_at_a_time(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    notes = str(tmp_path / "notes")
    again = Step("also", AlsoOnGpu(notes=notes, seconds=0.05))
    plan = plan_of(chain(corpus, Step("gpu", OnGpu(notes=notes, seconds=0.05), checkpoint=True), again))
    driven(plan, tmp_path / "run", ProcessPool(str(tmp_path / "run"), 3))
    loads = [line for line in lines(notes) if line[0] == "load"]
    assert sorted(gpu for _, _, gpu in loads) == ["4", "4", "7", "7"]
    assert len({pid for _, pid, _ in loads}) == 4, "a second model never shares a process with the first"
    gpu_of = {pid: gpu for _, pid, gpu in loads}
    for gpu in ("4", "7"):
        times = sorted(
            (float(a), float(b)) for _, pid, a, b in (x for x in lines(notes) if x[0] == "run") if gpu_of[pid] == gpu
        )
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("value", "found"),
    [("", []), ("-1", []), ("0", ["0"]), ("2,3", ["2", "3"]), ("0,-1,1", ["0"]), ("GPU-ab", ["GPU-ab"])],
)
def test_visible_gpus_are_read_as_cuda_reads_them(
    value: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert local_gpus() == found
