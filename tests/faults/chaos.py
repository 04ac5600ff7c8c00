"""Seeded kills of a real run, and the proof that nothing came of them.

A round is one run folder. The command is started, killed at seeded moments and started again until it ends by itself; then its
shards must have the digest of an undisturbed run, and its rows, drops and token shards must be the same, each as often. Moments
are counted in finished parts (plus up to 0.2 s, so that kills fall within parts too), so that a seed means the same on a slow
machine. Kills are SIGKILL: of a worker of the pool, of the driver, of a Ray worker in its task, of a whole Ray node.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.engine.storage import Storage
from tests.faults.ray_nodes import RayNodes, kill_all

ROOT = Path(__file__).parents[2]
LOCAL_KINDS = ("pool worker", "driver")
RAY_KINDS = ("ray node", "ray worker", "driver")
MAX_DELAY_SECONDS = 0.2
POLL_SECONDS = 0.02
MAX_STARTS_BESIDE_KILLS = 3
"""Times that a run may end by itself in an error (each is counted) before the round counts as lost."""


@dataclass(frozen=True)
class Kill:
    """One kill: of what, after how many finished parts of the round and how many seconds, and which of several."""

    kind: str
    after_parts: int
    delay: float
    choice: float


@dataclass
class Round:
    """What became of one run folder."""

    kills: list[Kill] = field(default_factory=list)
    starts: int = 0
    errors: list[str] = field(default_factory=list)
    """Ends of the command that no kill of the driver explains, by the last lines that it said."""
    ended: bool = False
    same_digest: bool = False
    lost: int = -1
    doubled: int = -1
    redone: int = 0
    """Parts that were done again although they were finished."""

    @property
    def right(self) -> bool:
        """Whether the run ended, in the same bytes and rows as the undisturbed one."""
        return self.ended and self.same_digest and self.lost == self.doubled == 0


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: what every other must equal."""

    address: str
    digest: str
    parts: int
    rows: Path
    """A DuckDB file of its rows, see `gather_rows`."""
    seconds: float


# ---------------------------------------------------------------------------------------------------- commands


def tokenmill(*words: str | Path) -> list[str]:
    """The command line of the real command."""
    return [sys.executable, "-m", "pipeline.cli", *map(str, words)]


def run_command(recipe: Path, address: str, *more: str) -> list[str]:
    """`tokenmill run` for people who read logs."""
    return tokenmill("run", recipe, "--out", address, "--plain", *more)


def digest_of(address: str) -> str:
    """The digest that `tokenmill verify` prints; an AssertionError with its words where it finds faults."""
    done = subprocess.run(
        tokenmill("verify", address, "--no-megatron"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = re.search(r"^digest ([0-9a-f]{32})$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert found, done.stdout[-2000:]
    return found.group(1)


def undisturbed(recipe: Path, folder: Path, workers: int = 2) -> Undisturbed:
    """Run `recipe` in `folder` in peace."""
    run = folder / "undisturbed"
    started = time.monotonic()
    done = subprocess.run(
        run_command(recipe, str(run), "--workers", str(workers)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    seconds = time.monotonic() - started
    rows = folder / "undisturbed-rows.duckdb"
    gather_rows(str(run), rows)
    return Undisturbed(str(run), digest_of(str(run)), parts_done(Storage(str(run))), rows, seconds)


def checksums(address: str) -> dict[str, str]:
    """Checksum of every file that the steps of a finished run list, read again from the files."""
    storage = Storage(address)
    found = {}
    for step in storage.read_json("plan.json")["steps"]:
        for file in storage.read_json(f"{step['folder']}/manifest.json")["files"]:
            found[file["path"]] = xxhash.xxh3_64_hexdigest(storage.read(file["path"]))
            assert found[file["path"]] == file["checksum"], file["path"]
    return found


# ---------------------------------------------------------------------------------------------------- kills


def planned(seed: int, kinds: Sequence[str], count: int, parts: int) -> list[Kill]:
    """`count` kills of the kinds in turn, spread over the first nine tenths of `parts` finished parts."""
    rng = random.Random(seed)
    width = max(1.0, 0.9 * parts / count)
    moments = [1 + int(width * (n + rng.random())) for n in range(count)]
    return [
        Kill(kinds[n % len(kinds)], moment, rng.uniform(0, MAX_DELAY_SECONDS), rng.random())
        for n, moment in enumerate(moments)
    ]


def parts_done(storage: Storage) -> int:
    """Parts finished so far in a run folder, over all its starts."""
    if storage.local:
        try:
            return Path(storage.url("events.jsonl")).read_bytes().count(b'"event": "part_done"')
        except FileNotFoundError:
            return 0
    storage.fs.invalidate_cache()
    return sum("/account/part-" in path for path in storage.fs.find(storage.url("datasets")))


def redone_parts(storage: Storage) -> int:
    """Parts that were reported as done more than once."""
    if not storage.local:
        return 0
    events = [json.loads(line) for line in Path(storage.url("events.jsonl")).read_text().splitlines() if line]
    return sum(
        count - 1
        for count in Counter((e["step"], e["part"]) for e in events if e["event"] == "part_done").values()
    )  # fmt: skip


def pool_workers(driver: int) -> list[psutil.Process]:
    """The driver's worker processes on this machine (not multiprocessing's own helper)."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "multiprocessing" in words and "resource_tracker" not in words:
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def deliver(kill: Kill, driver: subprocess.Popen[str], nodes: RayNodes | None, patience: float = 20.0) -> bool:
    """Kill what `kill` says. False when the run ended before there was anything of the kind."""
    if kill.kind == "driver":
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        return True
    if kill.kind == "ray node":
        assert nodes is not None
        nodes.kill_node(kill.choice)
        return True
    until = time.monotonic() + patience
    while driver.poll() is None and time.monotonic() < until:
        try:
            victims = pool_workers(driver.pid) if nodes is None else nodes.workers()
        except psutil.NoSuchProcess:
            return False
        if victims:
            kill_all([victims[int(kill.choice * len(victims))]])
            return True
        time.sleep(POLL_SECONDS)
    return False


# ---------------------------------------------------------------------------------------------------- a round


def disturbed(
    recipe: Path,
    address: str,
    plan: Sequence[Kill],
    expected: Undisturbed,
    nodes: RayNodes | None = None,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Round:
    """Run `recipe` into `address` under the kills of `plan`, again and again until it ends; compare with `expected`."""
    where = ("--executor", "ray", "--address", nodes.address) if nodes else ("--workers", "2")
    command = run_command(recipe, address, *where)
    result = Round()
    todo = list(plan)
    log = log or Path(os.devnull)
    while not result.ended and len(result.errors) <= MAX_STARTS_BESIDE_KILLS:
        result.starts += 1
        with open(log, "a") as said:
            driver = subprocess.Popen(
                command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(environment or {})}
            )  # fmt: skip
            killed = _kill_until_end(driver, Storage(address), todo, nodes, result)
        if not killed and driver.returncode != 0:
            result.errors.append(_last_lines(log))
        result.ended = not killed and driver.returncode == 0
    if result.ended:
        _compare(result, address, expected)
    return result


def _kill_until_end(
    driver: subprocess.Popen[str], storage: Storage, todo: list[Kill], nodes: RayNodes | None, result: Round
) -> bool:
    """Watch one start of the command, and kill when it is time. True when the driver was killed."""
    while driver.poll() is None:
        if todo and parts_done(storage) >= todo[0].after_parts:
            kill = todo.pop(0)
            time.sleep(kill.delay)
            if driver.poll() is None and deliver(kill, driver, nodes):
                result.kills.append(kill)
                if kill.kind == "driver":
                    return True
        time.sleep(POLL_SECONDS if storage.local else 0.5)
    return False


def _last_lines(log: Path) -> str:
    return "" if str(log) == os.devnull else log.read_text()[-600:]


def _compare(result: Round, address: str, expected: Undisturbed) -> None:
    result.redone = redone_parts(Storage(address))
    try:
        result.same_digest = digest_of(address) == expected.digest
    except AssertionError as error:
        result.errors.append(str(error))
    result.lost, result.doubled = lost_and_doubled(expected.rows, address)


# ---------------------------------------------------------------------------------------------------- rows


def gather_rows(address: str, into: Path) -> None:
    """Every row that a run holds, as (what, id, hash) in table `rows` of a DuckDB file: what a reader that globs would find.

    `what` is a dataset's rows (hash of the text), its drops (of step and reason), or its token shards (of the tokens).
    """
    storage = Storage(address)
    into.unlink(missing_ok=True)
    with duckdb.connect(str(into)) as con:
        con.execute("create table rows (what varchar, id varchar, hash ubigint)")
        for step in storage.read_json("plan.json")["steps"]:
            if step["keep"]:
                for table in _parquet(storage, step["folder"], ("id", "text")):
                    _insert(con, f"rows of {step['dataset']}", table, "hash(text)")
            for table in _parquet(storage, f"{step['folder']}/drops", ("id", "stage", "reason")):
                _insert(con, f"drops of {step['key']}", table, "hash(stage || reason)")
        for dataset in storage.names("tokens"):
            for bucket in storage.names(f"tokens/{dataset}"):
                for name in storage.names(f"tokens/{dataset}/{bucket}"):
                    with storage.open(f"tokens/{dataset}/{bucket}/{name}") as file:
                        table = pa.ipc.open_file(file).read_all().select(["id", "tokens"])
                        _insert(con, f"tokens of {dataset}/{bucket}", table, "hash(tokens)")


def _parquet(storage: Storage, folder: str, columns: Sequence[str]) -> Iterable[pa.Table]:
    for name in storage.names(folder):
        if name.startswith("part-") and name.endswith(".parquet"):
            with storage.open(f"{folder}/{name}") as file:
                yield pq.read_table(file, columns=list(columns))


def _insert(con: duckdb.DuckDBPyConnection, what: str, table: pa.Table, value: str) -> None:
    con.register("arrived", table)
    con.execute(f"insert into rows select ?, hex(id), {value} from arrived", [what])
    con.unregister("arrived")


def lost_and_doubled(expected: Path, address: str) -> tuple[int, int]:
    """Rows of the undisturbed run that are missing in the run at `address`, and rows that are there too often."""
    found = expected.with_name(f"{expected.stem}-found.duckdb")
    gather_rows(address, found)
    with duckdb.connect() as con:
        con.execute(f"attach '{expected}' as expected (read_only)")
        con.execute(f"attach '{found}' as found (read_only)")
        lost, doubled = con.execute(
            "select coalesce(sum(greatest(n, 0)), 0)::bigint, coalesce(sum(greatest(-n, 0)), 0)::bigint from "
            "(select sum(one) as n from (select *, 1 as one from expected.rows union all select *, -1 from found.rows) "
            "group by what, id, hash)"
        ).fetchall()[0]
    found.unlink()
    return int(lost), int(doubled)


# ---------------------------------------------------------------------------------------------------- a table


def table(rounds: Sequence[Round]) -> str:
    """Kills by kind, and how many of them were of runs that ended right."""
    lines = [f"{'kind':<14}{'kills':>8}{'ended right':>14}"]
    kinds = list(dict.fromkeys(kill.kind for one in rounds for kill in one.kills))
    for kind in [*kinds, "all"]:
        kills = [(kill, one.right) for one in rounds for kill in one.kills if kind in ("all", kill.kind)]
        lines.append(f"{kind:<14}{len(kills):>8}{sum(right for _, right in kills):>14}")
    lines.append(
        f"{len(rounds)} runs, {sum(one.right for one in rounds)} of them with the digest of the undisturbed run; rows lost "
        f"{sum(max(one.lost, 0) for one in rounds)}, doubled {sum(max(one.doubled, 0) for one in rounds)}; finished parts done "
        f"again {sum(one.redone for one in rounds)}; started {sum(one.starts for one in rounds)} times, ended in an error of "
        f"its own {sum(len(one.errors) for one in rounds)} times"
    )
    return "\n".join(lines)
