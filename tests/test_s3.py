"""The engine on object storage: a real S3-protocol server on loopback."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

import pipeline.engine.lock as lock_module
from pipeline.engine.lock import Holder, RunIsLocked, holder_of, locked
from pipeline.engine.storage import UPLOAD_BYTES, Storage
from pipeline.stage import Exchange
from tests.faults.s3_proxy import FaultyProxy
from tests.mini_run import MINI, ROOT, digest, tokenmill
from tests.s3_server import environment, moto
from tests.test_engine import chain, corpus, counts, plan_of, run
from tests.toy_stages import MinLength, ShuffleKey, SortedTexts, TextFile

pytestmark = pytest.mark.slow
__all__ = ["corpus"]
KEY, SECRET = "AKIDRECOGNISABLE7", "wJalrRECOGNISABLE/secret+0451"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a moto server of this module's own."""
    with moto("runs", "inputs") as url:
        yield url


@pytest.fixture(scope="module")
def bucket(server: str) -> str:
    return "s3://runs"


def direct() -> s3fs.S3FileSystem:
    """A client that is not ours, to look at what is there."""
    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


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


# ---------------------------------------------------------------------------------------------------- files


def test_a_small_file_is_one_put_and_a_large_one_a_multipart_upload(bucket: str) -> None:
    storage = Storage(f"{bucket}/files")
    large = os.urandom(60 << 20)
    with storage.transaction() as files:
        files.create("small").write(b"x" * 1000)
        out = files.create("large")
        for start in range(0, len(large), 7 << 20):
            out.write(large[start : start + (7 << 20)])
        assert not storage.exists("small")
        assert not storage.exists("large")
        written = {file.path: file.bytes for file in files.commit()}
    assert written == {"small": 1000, "large": 60 << 20}
    assert storage.read("large") == large
    parts = re.search(r"-(\d+)\"?$", str(direct().info(f"{bucket}/files/large")["ETag"]))  # S3 writes `-pieces` there
    assert parts
    assert 2 <= int(parts[1]) <= (60 << 20) // UPLOAD_BYTES + 1
    assert "-" not in str(direct().info(f"{bucket}/files/small")["ETag"])
    assert uploads(bucket) == []


def uploads(bucket: str) -> list[str]:
    answer = direct().call_s3("list_multipart_uploads", Bucket=bucket.removeprefix("s3://"))
    return [upload["Key"] for upload in answer.get("Uploads", [])]


def test_what_was_not_committed_leaves_neither_file_nor_upload(bucket: str) -> None:
    storage = Storage(f"{bucket}/aborted")
    with storage.transaction() as files:
        files.create("large").write(bytes(40 << 20))
        files.create("small").write(b"x")
        assert uploads(bucket) == ["aborted/large"]
    assert uploads(bucket) == []
    assert not storage.exists("small")


def test_uploads_that_a_killed_worker_left_are_forgotten_when_its_step_starts_again(bucket: str) -> None:
    storage = Storage(f"{bucket}/killed")
    code = (
        "import os, sys; from pipeline.engine.storage import Storage; "
        "Storage(sys.argv[1]).transaction().__enter__().create('datasets/a/large').write(bytes(40 << 20)); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, storage.address], cwd=ROOT, check=False).returncode == 9
    assert uploads(bucket) == ["killed/datasets/a/large"]
    storage.remove_temporary_files("datasets/b")
    assert uploads(bucket) == ["killed/datasets/a/large"]
    storage.remove_temporary_files("datasets/a")
    assert uploads(bucket) == []


def test_a_range_that_is_not_all_there_is_an_error_on_s3_and_on_disk(bucket: str, tmp_path: Path) -> None:
    for storage in (Storage(f"{bucket}/ranges"), Storage(str(tmp_path))):
        storage.write("file", bytes(range(100)))
        assert storage.read_range("file", 10, 5).to_pybytes() == bytes([10, 11, 12, 13, 14])
        assert storage.read_range("file", 0, 100).size == 100
        with pytest.raises(OSError, match="20 bytes from 90 were asked for, but only 10 are there"):
            storage.read_range("file", 90, 20)


def test_a_file_written_a_moment_ago_by_another_is_listed_and_found(bucket: str) -> None:
    storage = Storage(f"{bucket}/fresh")
    storage.write("folder/a", b"1")
    assert storage.names("folder") == ["a"]
    assert not storage.exists("folder/b")
    direct().pipe_file(f"{bucket}/fresh/folder/b", b"2")
    assert storage.names("folder") == ["a", "b"]
    assert storage.exists("folder/b")
    direct().pipe_file(f"{bucket}/fresh/folder/a", b"longer")
    assert (storage.size("folder/a"), storage.read("folder/a")) == (6, b"longer")


def test_an_account_that_a_listing_hides_costs_its_part_again_and_changes_nothing(
    bucket: str, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(chain(corpus, MinLength(), SortedTexts()))
    storage = Storage(f"{bucket}/hidden")
    run(plan, storage.address)
    last = plan.steps[-1].folder

    def etags() -> dict[str, str]:
        found = direct().find(storage.address, detail=True)
        return {path: one["ETag"] for path, one in found.items() if "account" not in path and "manifest" not in path}

    before = etags()
    for step in plan.steps:
        storage.fs.rm_file(storage.url(f"{step.folder}/manifest.json"))
    everything = Storage.names
    monkeypatch.setattr(
        Storage, "names", lambda self, folder: [] if folder.endswith("account") else everything(self, folder)
    )
    done, quiet = run(plan, storage.address)
    assert any(part.startswith(plan.steps[-1].key) for part in quiet.parts)
    assert counts(done)["min_length"] == (30, 25, 5)
    assert etags() == before
    assert storage.exists(f"{last}/manifest.json")


def _read_in_child(storage: Storage, answers: multiprocessing.Queue[bytes]) -> None:
    answers.put(storage.read("file"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_storage_works_in_a_forked_and_in_a_spawned_process(bucket: str) -> None:
    storage = Storage(f"{bucket}/forked")
    storage.write("file", b"seen")
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        answers = context.Queue()
        child = context.Process(target=_read_in_child, args=(storage, answers))
        child.start()
        assert answers.get(timeout=60) == b"seen"
        child.join(60)
    assert storage.read("file") == b"seen"


# ---------------------------------------------------------------------------------------------------- the lock


def test_a_second_run_into_a_locked_s3_folder_is_refused_at_once(bucket: str) -> None:
    storage = Storage(f"{bucket}/locked")
    with locked(storage):
        started = time.monotonic()
        with pytest.raises(RunIsLocked, match="another run works in s3://runs/locked"), locked(storage):
            pass
        assert time.monotonic() - started < 1
        assert str(holder_of(storage)) == f"process {os.getpid()} on {os.uname().nodename}"
    assert holder_of(storage) is None
    with locked(storage):
        pass
    assert not storage.exists("lock")


CONTENDER = """
import sys, time
from pipeline.engine.lock import RunIsLocked, locked
from pipeline.engine.storage import Storage
storage = Storage(sys.argv[1])
storage.exists("lock")
sys.stdin.readline()
try:
    with locked(storage):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except RunIsLocked:
    print("refused", flush=True)
"""


@pytest.mark.parametrize("conditions", ["known", "ignored"])
def test_of_runs_that_start_at_once_exactly_one_gets_the_folder(server: str, conditions: str) -> None:
    """Also where the store ignores conditions on a PUT, as a proxy makes it here."""
    without = ("if-none-match", "if-match") if conditions == "ignored" else ()
    proxy = FaultyProxy(server, share=0, seed=1, without=without).start()
    with environment({"AWS_ENDPOINT_URL": proxy.url}):
        started = [
            subprocess.Popen(
                [sys.executable, "-c", CONTENDER, f"s3://runs/race-{conditions}", "6"],
                cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
            for _ in range(4)
        ]  # fmt: skip
        time.sleep(4)  # until all wait at the line
        for one in started:
            assert one.stdin
            one.stdin.write("\n")
            one.stdin.flush()
        said = sorted(one.communicate(timeout=60)[0].strip() for one in started)
    proxy.stop()
    assert said == ["held", "refused", "refused", "refused"]


def test_the_lock_of_a_killed_process_of_this_machine_is_taken_over_at_once(bucket: str) -> None:
    storage = Storage(f"{bucket}/killed-holder")
    holder = subprocess.Popen(
        [sys.executable, "-c", CONTENDER, storage.address, "600"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdin
    assert holder.stdout
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with locked(storage):
        assert time.monotonic() - started < lock_module.SETTLE_SECONDS + 3


def elsewhere(beat: int = 0) -> Holder:
    return Holder("far-away", 7, "theirs", "another machine", "1", beat)


def test_a_holder_on_another_machine_is_judged_by_its_heartbeats_and_never_by_a_clock(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 4.0)
    monkeypatch.setattr(lock_module, "REFRESH_SECONDS", 1.0)
    monkeypatch.setattr(lock_module, "SETTLE_SECONDS", 0.2)
    storage = Storage(f"{bucket}/far")
    storage.write("lock", elsewhere().to_bytes())
    stop = threading.Event()

    def beats() -> None:
        other, beat = Storage(f"{bucket}/far"), 0
        while not stop.wait(1.0):
            other.write("lock", elsewhere(beat := beat + 1).to_bytes())

    living = threading.Thread(target=beats)
    living.start()
    jumps = iter(range(0, 10**12, 10**7))
    with monkeypatch.context() as clock:
        clock.setattr(lock_module.time, "time", lambda: float(next(jumps)))
        with pytest.raises(RunIsLocked, match="process 7 on far-away"), locked(storage):
            pass
    stop.set()
    living.join()
    started = time.monotonic()
    with locked(storage):  # its heart has stopped
        assert 4.0 <= time.monotonic() - started < 12


def test_a_holder_that_lost_its_lock_stops_and_leaves_the_other_s_alone(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "REFRESH_SECONDS", 0.5)
    storage = Storage(f"{bucket}/lost")

    def work() -> None:
        with locked(storage):
            storage.write("lock", elsewhere().to_bytes())
            time.sleep(30)

    started = time.monotonic()
    with pytest.raises(RunIsLocked, match="process 7 on far-away"):
        work()
    assert time.monotonic() - started < 10
    assert Holder.of(storage.read("lock")) == elsewhere()


# ---------------------------------------------------------------------------------------------------- recipes


def _warc(path: Path, pages: int) -> None:
    from io import BytesIO

    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for page in range(pages):
            html = f"<html><body><p>Page {page} of the crawl speaks of nothing much.</p></body></html>".encode()
            head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            writer.write_record(
                writer.create_warc_record(f"http://x.test/{page}", "response", payload=BytesIO(html), http_headers=head)
            )


@pytest.fixture
def inputs(server: str, tmp_path: Path) -> Path:
    """The same files on a disk and in s3://inputs: JSON lines, Parquet, WARC."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for number in range(2):
        lines = [json.dumps({"text": f"line {number} {n} of a file", "url": f"u{number}/{n}"}) for n in range(50)]
        (folder / f"a{number}.jsonl").write_text("\n".join([*lines, "{broken"]))
        table = pa.table({"text": [f"row {number} {n} of a table" for n in range(50)]})
        pq.write_table(table, folder / f"b{number}.parquet", row_group_size=20)
        _warc(folder / f"c{number}.warc.gz", 20 + number)
    direct().put(str(folder) + "/", "s3://inputs/", recursive=True)
    return folder


RECIPE = """
name: inputs
seed: 3
datasets:
  lines: {{from: {{kind: jsonl, paths: "{root}/*.jsonl", columns: {{text: text, origin: url}}}}, steps: [{{kind: exact_dedup}}]}}
  rows: {{from: {{kind: parquet, paths: "{root}/b*.parquet"}}, steps: [{{kind: exact_dedup}}]}}
  pages: {{from: {{kind: warc, paths: ["{root}/c0.warc.gz", "{root}/c1*"]}}, steps: [{{kind: extract_html}}]}}
"""
KEPT = "select dataset, kept, count(*), coalesce(sum(chars), 0)::bigint from documents group by all order by all"


def test_inputs_on_s3_give_the_documents_of_inputs_on_disk_and_no_credential_is_ever_written(
    server: str, inputs: Path, tmp_path: Path
) -> None:
    tables = {}
    said = ""
    with environment({"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SECRET}):
        for where, root, out in (
            ("disk", inputs, str(tmp_path / "run")),
            ("s3", "s3://inputs", "s3://runs/inputs"),
        ):
            recipe = tmp_path / f"{where}.yaml"
            recipe.write_text(RECIPE.format(root=root))
            for words in (
                ("plan", recipe, "--out", out), ("run", recipe, "--out", out, "--workers", "2"), ("status", out),
                ("inspect", out), ("trace", out, "u1/7"), ("plan", recipe, "--out", out),
            ):  # fmt: skip
                done = tokenmill(*words)
                said += done.stdout + done.stderr
            assert "0 reused" not in done.stdout
            tables[where] = tokenmill("inspect", out, "--sql", KEPT).stdout
        missing = tokenmill("run", recipe, "--out", "s3://no-such-bucket/x", "--workers", "1", check=False)
        said += missing.stdout + missing.stderr
        assert missing.returncode == 1
        assert "there is no such bucket" in missing.stderr
    assert tables["s3"] == tables["disk"]
    assert re.search(r"lines +True +100 ", tables["s3"]), tables["s3"]
    fs = direct()
    paths = fs.find("s3://runs/inputs")
    assert {path.rsplit("/", 1)[-1] for path in paths} >= {"recipe.yaml", "run.json", "plan.json", "catalog.duckdb"}
    written = {path: fs.cat_file(path) for path in paths}
    for secret in (KEY, SECRET):
        assert secret not in said
        assert [path for path, data in written.items() if secret.encode() in data] == []


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(("--workers", "1"), id="one", marks=pytest.mark.long),
        pytest.param(("--workers", "2"), id="two", marks=pytest.mark.long),
        pytest.param(("--executor", "ray", "--workers", "2"), id="ray", marks=pytest.mark.long),
    ],
)
def test_the_mini_recipe_on_s3_ends_in_the_digest_of_a_disk(
    bucket: str, mini: Path, mini_digest: str, how: tuple[str, ...]
) -> None:
    out = f"{bucket}/mini{''.join(how)}"
    tokenmill("run", MINI, "--out", out, *how)
    if how != ("--workers", "2"):
        assert digest(out, "--no-megatron") == mini_digest
        return
    assert digest(out) == mini_digest  # through megatron-core, over copies
    assert "steps" in tokenmill("status", out).stdout
    buckets = (
        "select dataset, bucket, sum(documents)::bigint, sum(tokens)::bigint from buckets group by all order by all"
    )
    assert tokenmill("inspect", out, "--sql", buckets).stdout == tokenmill("inspect", mini, "--sql", buckets).stdout
    delivered = "select sum(tokens_delivered)::bigint, min(delivered_by) from ledger"
    assert tokenmill("inspect", out, "--sql", delivered).stdout == tokenmill("inspect", mini, "--sql", delivered).stdout
    with duckdb.connect(str(mini / "catalog.duckdb"), read_only=True) as con:
        kept = con.execute("select id from documents where dataset = 'code' and kept order by id limit 1").fetchall()
    story = tokenmill("trace", out, kept[0][0]).stdout
    assert "token_shards" in story
    shard = next(path for path in direct().find(f"{out}/megatron/repository_code") if path.endswith(".bin"))
    assert "repositories" in tokenmill("trace", out, f"s3://{shard}:100").stdout
