"""The engine on object storage: a real S3-protocol server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.engine.lock import RunIsLocked, locked
from pipeline.engine.storage import Storage
from pipeline.stage import Exchange
from tests.test_engine import chain, corpus, counts, plan_of, run
from tests.toy_stages import MinLength, ShuffleKey, SortedTexts, TextFile

pytestmark = pytest.mark.slow
__all__ = ["corpus"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """`s3://bucket` on a moto server of this test's own; credentials in the environment, as in production."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    settings = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        import s3fs

        for _ in range(100):
            try:
                s3fs.S3FileSystem(skip_instance_cache=True).mkdir("runs")
                break
            except OSError:
                time.sleep(0.2)
        yield "s3://runs"
    finally:
        server.kill()
        server.wait()
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_on_s3_gives_the_rows_of_a_run_on_disk(bucket: str, corpus: Path, tmp_path: Path, workers: int) -> None:
    exchange = Exchange(by="shuffle_key", partitions=2, placement="range")
    plan = plan_of(chain(corpus, MinLength(), SortedTexts(), ShuffleKey(), exchange, TextFile()))
    remote = f"{bucket}/toy-{workers}"
    done, _ = run(plan, remote, workers=workers)
    run(plan, tmp_path / "local")
    storage = Storage(remote)
    names = storage.names("out")
    assert names == ["part-00000.txt", "part-00001.txt"]
    for name in names:
        assert storage.read(f"out/{name}") == (tmp_path / "local" / "out" / name).read_bytes()
    assert counts(done)["min_length"] == (30, 25, 5)
    with storage.open(f"{plan.steps[-1].folder}/part-00000.parquet") as file:
        assert pq.read_table(file).num_rows == 1


def test_a_second_run_into_a_locked_s3_folder_is_refused(bucket: str) -> None:
    storage = Storage(f"{bucket}/locked")
    with locked(storage):
        with pytest.raises(RunIsLocked, match="another run works in s3://runs/locked"), locked(storage):
            pass
    with locked(storage):
        pass
    assert not storage.exists("lock")
