"""Runs on an S3 server that spoils its answers: the right bytes all the same, or an end that says what to do."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pipeline.engine.lock as lock_module
from pipeline.engine import faults
from pipeline.engine.account import PartAccount
from pipeline.engine.executors import opened
from pipeline.engine.lock import locked
from pipeline.engine.plan import PhysicalStep, Plan
from pipeline.engine.run import Driver, StepFailed
from pipeline.engine.s3 import PatientS3
from pipeline.engine.storage import Storage, StorageUnavailable
from tests.faults.s3_proxy import KINDS, FaultyProxy
from tests.mini_run import MINI, digest, tokenmill
from tests.s3_server import environment, moto
from tests.test_engine import Quiet, chain, corpus, counts, plan_of, run
from tests.toy_stages import MinLength, SortedTexts, TextFile

pytestmark = pytest.mark.slow
__all__ = ["corpus"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto("runs") as url:
        yield url


@contextmanager
def faulty(server: str, share: float, seed: int = 1, kinds: tuple[str, ...] = KINDS) -> Iterator[FaultyProxy]:
    """A proxy before the server, in the environment in the server's place."""
    proxy = FaultyProxy(server, share=share, seed=seed, kinds=kinds).start()
    try:
        with environment({"AWS_ENDPOINT_URL": proxy.url}):
            yield proxy
    finally:
        proxy.stop()


def toy(corpus: Path) -> Plan:
    return plan_of(chain(corpus, MinLength(), SortedTexts(), TextFile()))


def outputs(address: str) -> dict[str, bytes]:
    storage = Storage(address)
    return {name: storage.read(f"out/{name}") for name in storage.names("out")}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_all_sizes_survive_every_kind_of_fault(server: str, kind: str) -> None:
    name = f"s3://runs/files-{kind}"
    data = {"empty": b"", "small": b"x" * 1000, "large": bytes(range(256)) * (40 << 12)}
    with faulty(server, 0.25, seed=KINDS.index(kind), kinds=(kind,)) as proxy:
        storage = Storage(name)
        for turn in range(4):
            with storage.transaction() as files:
                for file, content in data.items():
                    files.create(f"{turn}/{file}").write(content)
                files.commit()
            assert storage.names(str(turn)) == sorted(data)
            assert {file: storage.read(f"{turn}/{file}") for file in data} == data
            with storage.open(f"{turn}/large") as opened_file:
                assert opened_file.read() == data["large"]
            assert (
                storage.read_range(f"{turn}/large", 1 << 20, 20 << 20).to_pybytes() == data["large"][1 << 20 : 21 << 20]
            )
            assert storage.read_json(f"{turn}/absent") is None
        with locked(storage):
            pass
        assert not storage.exists("lock")
        assert proxy.counts[kind] >= 5
        assert proxy.faulty_share() > 0.1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_with_a_fifth_of_its_requests_spoiled_loses_and_doubles_nothing(
    server: str, corpus: Path, tmp_path: Path, workers: int
) -> None:
    plan = toy(corpus)
    run(plan, tmp_path / "local")
    with faulty(server, 0.2, seed=workers) as proxy:
        done, _ = run(plan, f"s3://runs/toy-{workers}", workers=workers)
        assert outputs(f"s3://runs/toy-{workers}") == {
            path.name: path.read_bytes() for path in (tmp_path / "local" / "out").iterdir()
        }
        assert proxy.faulty_share() >= 0.1
    assert counts(done)["min_length"] == (30, 25, 5)
    assert counts(done)["lines"] == (35, 30, 5)


@pytest.mark.long
@pytest.mark.parametrize("how", [("--workers", "2"), ("--executor", "ray", "--workers", "2")], ids=["local", "ray"])
def test_the_mini_recipe_with_over_5_percent_of_requests_spoiled_ends_in_the_right_digest(
    server: str, mini: Path, mini_digest: str, how: tuple[str, ...]
) -> None:
    out = f"s3://runs/mini-{len(how)}"
    with faulty(server, 0.07, seed=45) as proxy:
        tokenmill("run", MINI, "--out", out, *how)
        assert digest(out, "--no-megatron") == mini_digest
        assert proxy.faulty_share() >= 0.05
        assert set(proxy.counts) == {*KINDS, "good"}
        rows = "select dataset, step, kind, sum(rows_in)::bigint, sum(rows_out)::bigint, sum(rows_dropped)::bigint from accounts group by all order by all"
        assert tokenmill("inspect", out, "--sql", rows).stdout == tokenmill("inspect", mini, "--sql", rows).stdout
        print(f"{proxy.counts.total()} requests, {proxy.faulty_share():.1%} of them spoiled: {dict(proxy.counts)}")


class _Outage(Quiet):
    """From the `after`-th finished part on, every request is spoiled."""

    def __init__(self, proxy: FaultyProxy, after: int) -> None:
        super().__init__()
        self._proxy, self._after = proxy, after

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        super().part_done(step, account)
        if len(self.parts) == self._after:
            self._proxy.share = 1.0


def test_a_store_that_fails_for_good_ends_the_run_with_its_name_and_finished_parts_stay(
    server: str, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientS3, "retries", 2)  # a test need not wait for as long as a run would
    monkeypatch.setitem(faults.ATTEMPTS, "outage", 2)
    plan, address = toy(corpus), "s3://runs/outage"
    with faulty(server, 0.0, kinds=tuple(kind for kind in KINDS if kind != "delay")) as proxy:
        listener = _Outage(proxy, after=3)
        storage = Storage(address)
        with (
            opened("local", address, workers=1, cluster=None) as executor,
            pytest.raises((StepFailed, StorageUnavailable)) as stopped,
        ):
            Driver(plan, storage, executor, listener).run()
        said = f"{stopped.value} {stopped.value.__cause__}"
        assert "s3://runs/outage/" in said
        assert "AWS_ENDPOINT_URL" in said
        assert "the same command again" in said
        proxy.share = 0.0
        done, again = run(plan, address)
        assert set(listener.parts) & set(again.parts) == set()
        assert 3 <= len(listener.parts) < 5  # of the first step's five
        assert counts(done)["min_length"] == (30, 25, 5)


def test_a_command_against_a_dead_store_ends_in_bounded_time_with_what_to_do(server: str) -> None:
    with faulty(server, 1.0, kinds=("reset", "slow_down_503")):
        started = time.monotonic()
        done = tokenmill("run", MINI, "--out", "s3://runs/dead", "--workers", "1", check=False)
        seconds = time.monotonic() - started
    assert done.returncode == 1
    said = re.sub(r"\s+", " ", done.stderr)
    assert "s3://runs/dead" in said
    assert "the object store gave no good answer" in said
    assert "AWS_ENDPOINT_URL" in said
    assert "Traceback" not in said
    assert seconds < 180


def test_a_lock_outlives_an_outage_of_its_store_shorter_than_its_term(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "REFRESH_SECONDS", 0.3)
    with faulty(server, 0.0, kinds=("error_500", "reset")) as proxy:
        storage = Storage("s3://runs/held")
        with locked(storage):
            before = lock_module.holder_of(storage)
            proxy.share = 1.0
            threading.Event().wait(3)
            proxy.share = 0.0
            time.sleep(8)
            after = lock_module.holder_of(storage)
            assert before is not None
            assert after is not None
            assert after.token == before.token
            assert after.beat > before.beat
        assert not storage.exists("lock")
