"""The exchange at scale: MB/s over both sides, and the peak memory of its workers.

    python benchmarks/exchange.py --gigabytes 5 --workers 2 --skew 0 0.3       minutes; 2x the size on the disk
    python benchmarks/exchange.py --gigabytes 0.2 2                            does memory grow with the corpus?
    python benchmarks/exchange.py --smoke                                      seconds, to see that it runs

Documents are pieces of this Python's standard library, each with a salt, 3 kB on average and some of a megabyte; they
are made while the map tasks run (about 1 GB/s, part of the time that is measured). Rows are exchanged by a hash of 16
bytes with the columns of the group, as exact deduplication does; with a skew of 0.3 one key holds 30 % of them. The
reduce side checks order, group sizes and the number of rows.

MB are text; MB/core s counts processor time, which a busy machine distorts less. Memory is per process, Python and Arrow included (they alone take about 100 MB): peak resident is VmHWM and
counts mapped pages of files too; anonymous is RssAnon, read every 5 ms. `--limit-gib` makes the kernel refuse a worker
more private memory than that (RLIMIT_DATA), which includes what its allocator holds in reserve.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import statistics
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.exchange import ExchangeWriter, exchanged_schema, read_partition
from pipeline.engine.storage import Storage
from pipeline.schema import ID, ORIGIN, TEXT, field
from pipeline.stage import Exchange

KEY = field("text_hash", pa.binary(16), "the key of the exchange")
SCHEMA = pa.schema([ID, ORIGIN, TEXT, KEY, field("score", pa.float32(), "a number")])
PART_BYTES = 256 << 20
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Job:
    """One task of either side."""

    run: str
    stage: Exchange
    number: int
    rows: int = 0
    skew: float = 0
    maps: int = 0


@dataclass(frozen=True)
class Done:
    """What a task did, and the memory of its process so far."""

    rows: int
    text_bytes: int
    resident: int
    anonymous: int
    processor_seconds: float


_anonymous = 0


def memory(key: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) << 10
    return 0


def start_worker(limit_gib: float | None) -> None:
    pa.set_cpu_count(1)
    if limit_gib:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gib * 2**30),) * 2)

    def watch() -> None:
        global _anonymous
        while True:
            _anonymous = max(_anonymous, memory("RssAnon"))
            time.sleep(0.005)

    threading.Thread(target=watch, daemon=True).start()


def pool_of_texts() -> pa.Array:
    """About 2,000 real texts: most of 1 to 5 kB, some of a megabyte."""
    texts = [path.read_text("utf-8", "replace") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    joined = "\n".join(texts)
    ends = np.cumsum(np.random.default_rng(1).integers(1000, 5000, 2000)) % (len(joined) - 5000)
    cut = [joined[end : end + 1000 + end % 4000] for end in ends.tolist()]
    return pa.array([*cut, joined[:1_000_000]], TEXT.type)


def sixteen(words: np.ndarray) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(words), [None, pa.py_buffer(words)])


def documents(job: Job, texts: pa.Array) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng([7, job.number])
    for at in range(0, job.rows, BATCH_ROWS):
        count = min(BATCH_ROWS, job.rows - at)
        words = rng.integers(0, 2**63, (count, 4), np.uint64)
        words[rng.random(count) < job.skew, 2:] = 5
        salt = pa.array(words[:, 0]).cast(pa.large_string())
        chosen = np.where(rng.random(count) < 1e-4, len(texts) - 1, rng.integers(0, len(texts) - 1, count))
        text = pc.binary_join_element_wise(texts.take(pa.array(chosen)), salt, pa.scalar("\n", TEXT.type))
        score = pa.array(rng.random(count, np.float32))
        ids, keys = sixteen(words[:, :2].copy()), sixteen(words[:, 2:].copy())
        yield pa.RecordBatch.from_arrays([ids, salt, text, keys, score], schema=SCHEMA)


def map_task(job: Job) -> Done:
    begin, storage, rows, size = time.process_time(), Storage(job.run), 0, 0
    with storage.transaction() as files:
        writer = ExchangeWriter(files, path_of(job.number), job.stage, SCHEMA)
        for batch in documents(job, pool_of_texts()):
            writer.write(batch)
            rows += batch.num_rows
            size += pc.sum(pc.binary_length(batch["text"])).as_py()
        writer.close()
        files.commit()
    return Done(rows, size, memory("VmHWM"), _anonymous, time.process_time() - begin)


def reduce_task(job: Job) -> Done:
    begin = time.process_time()
    rows = size = left = 0
    key = last = b""
    paths = [path_of(number) for number in range(job.maps)]
    for batch in read_partition(Storage(job.run), job.stage, paths, job.number, exchanged_schema(job.stage, SCHEMA)):
        rows += batch.num_rows
        size += pc.sum(pc.binary_length(batch["text"])).as_py()
        for now, one, group in zip(
            batch["text_hash"].to_pylist(), batch["id"].to_pylist(), batch["group_size"].to_pylist(), strict=True
        ):
            left = left - 1 if now == key else group - 1
            assert (now, one) > (key, last), "out of order"
            key, last = now, one
    assert left == 0, "a group is not as large as its column says"
    return Done(rows, size, memory("VmHWM"), _anonymous, time.process_time() - begin)


def path_of(number: int) -> str:
    return f"exchange/part-{number:05d}.exchange"


def measure(gigabytes: float, skew: float, wanted: argparse.Namespace) -> tuple[list[float], int, int]:
    """Seconds of (map, reduce), MB, processor seconds of both; the largest resident and anonymous memory of a worker."""
    average = int(np.mean(np.asarray(pc.binary_length(pool_of_texts())))) + 20
    rows, maps = int(gigabytes * 1e9 / average), max(wanted.workers, round(gigabytes * 1e9 / PART_BYTES))
    stage = Exchange(by="text_hash", partitions=wanted.partitions, group_columns=True)
    folder = tempfile.mkdtemp(prefix="exchange-", dir=wanted.folder)
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(wanted.workers, context, start_worker, (wanted.limit_gib,)) as pool:
            list(pool.map(time.sleep, [0.2] * wanted.workers))  # workers are up
            times, sides = [], []
            for task, count in ((map_task, maps), (reduce_task, wanted.partitions)):
                jobs = [Job(folder, stage, n, rows // maps, skew, maps) for n in range(count)]
                begin = time.perf_counter()
                sides.append(list(pool.map(task, jobs)))
                times.append(time.perf_counter() - begin)
        totals = [(sum(one.rows for one in side), sum(one.text_bytes for one in side)) for side in sides]
        assert totals[0] == totals[1], f"written {totals[0]}, read {totals[1]}"
        done = [one for side in sides for one in side]
        processor = sum(d.processor_seconds for d in done)
        return [*times, totals[0][1] / 1e6, processor], max(d.resident for d in done), max(d.anonymous for d in done)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0], help="of text; several are run in turn")
    parser.add_argument("--skew", type=float, nargs="+", default=[0.0, 0.3], help="share of rows that one key holds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--runs", type=int, default=1, help="the median is shown, and slowest - fastest")
    parser.add_argument("--folder", default=None, help="where the run lies while it lasts (TMPDIR)")
    parser.add_argument("--limit-gib", type=float, default=None, help="refuse a worker more private memory")
    parser.add_argument("--smoke", action="store_true", help="50 MB, one run")
    wanted = parser.parse_args()
    if wanted.smoke:
        wanted.gigabytes, wanted.runs = [0.05], 1

    print(f"{wanted.workers} workers, {wanted.partitions} partitions, MB of memory per worker")
    print(
        f"{'GB':>5} {'skew':>5} {'MB/s':>6} {'slowest - fastest':>17} {'map s':>6} {'reduce s':>8} {'MB/core s':>9} {'resident':>8} {'anonymous':>9}"
    )
    for gigabytes in wanted.gigabytes:
        for skew in wanted.skew:
            runs = [measure(gigabytes, skew, wanted) for _ in range(wanted.runs)]
            speeds = [times[2] / (times[0] + times[1]) for times, _, _ in runs]
            maps, reduces = (statistics.median(times[side] for times, _, _ in runs) for side in (0, 1))
            cores = statistics.median(times[2] / times[3] for times, _, _ in runs)
            resident, anonymous = max(one for _, one, _ in runs) / 1e6, max(one for _, _, one in runs) / 1e6
            spread = f"{min(speeds):.0f} - {max(speeds):.0f}"
            print(
                f"{gigabytes:5.1f} {skew:5.2f} {statistics.median(speeds):6.0f} {spread:>17} {maps:6.1f} {reduces:8.1f} {cores:9.0f} {resident:8.0f} {anonymous:9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
