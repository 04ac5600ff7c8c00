"""Disks that fill up, refuse writing or lose the run's folder, and clocks that jump: a clear error, then the same bytes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.engine.storage import Storage
from tests.faults.chaos import ROOT, checksums, parts_done, redone_parts, run_command
from tests.faults.corpora import write_corpus, write_recipe

pytestmark = pytest.mark.slow
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight parts, 8 MB in all."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "in", 8, files=8)
    return write_recipe(folder / "small.yaml", folder / "in" / "*.jsonl", max_part_bytes=1 << 20)


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What an undisturbed run writes."""
    run = tmp_path_factory.mktemp("peace") / "run"
    assert tokenmill(recipe, run).returncode == 0
    return checksums(str(run))


def tokenmill(
    recipe: Path,
    run: Path | str,
    workers: int = 1,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Done:
    """`tokenmill run`, to its end; `before` runs in the child."""
    return subprocess.run(
        run_command(recipe, str(run), "--workers", str(workers)),
        cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=before, env={**os.environ, **(environment or {})},
    )  # fmt: skip


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own in memory; skips where mounting is not allowed."""
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no command `mount` here")
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


# ---------------------------------------------------------------------------------------------------- space


@pytest.mark.parametrize(("workers", "megabytes"), [(1, 6), (2, 10), (2, 1)])
def test_on_a_full_disk_the_folder_is_named_finished_parts_stay_and_with_space_the_same_command_completes(
    recipe: Path, expected: Mapping[str, str], tmp_path: Path, workers: int, megabytes: int
) -> None:
    with small_disk(tmp_path / "disk", megabytes) as disk:
        failed = tokenmill(recipe, disk / "run", workers)
        assert failed.returncode == 1
        assert f"{disk / 'run'}: the disk is full" in failed.stderr
        assert "free some space" in failed.stderr
        assert "Traceback" not in failed.stderr
        done_before = len(list((disk / "run").glob("datasets/*/*/account/part-*.json")))
        assert done_before > 0 or megabytes == 1
        remount(disk, "size=100m")
        assert tokenmill(recipe, disk / "run", workers).returncode == 0
        assert checksums(str(disk / "run")) == expected
        assert redone_parts(Storage(str(disk / "run"))) == 0
        assert not list(disk.rglob(".tmp-*"))


def test_a_limit_on_file_sizes_is_told_and_once_it_is_lifted_the_same_command_completes(
    recipe: Path, expected: Mapping[str, str], tmp_path: Path
) -> None:
    limit = 300_000
    failed = tokenmill(recipe, tmp_path / "run", 2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert failed.returncode == 1
    assert f"{tmp_path / 'run'}: a file would grow beyond what is allowed here" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert tokenmill(recipe, tmp_path / "run").returncode == 0
    assert checksums(str(tmp_path / "run")) == expected


# ---------------------------------------------------------------------------------------------------- read-only


def test_a_read_only_disk_is_told_before_anything_runs_and_under_way(
    recipe: Path, expected: Mapping[str, str], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 100) as disk:
        remount(disk, "ro")
        failed = tokenmill(recipe, disk / "run")
        assert (failed.returncode, "Traceback" in failed.stderr) == (1, False)
        assert f"{disk / 'run'}: the file system is read-only" in failed.stderr
        remount(disk, "rw")
        assert tokenmill(recipe, disk / "run").returncode == 0
        last = sorted((disk / "run" / "datasets" / "docs").iterdir())[-1]
        shutil.rmtree(last)
        remount(disk, "ro")
        failed = tokenmill(recipe, disk / "run")
        assert (failed.returncode, "Traceback" in failed.stderr) == (1, False)
        assert f"{disk / 'run'}: the file system is read-only" in failed.stderr
        remount(disk, "rw")
        assert tokenmill(recipe, disk / "run", 2).returncode == 0
        assert checksums(str(disk / "run")) == expected


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="no /sys here")
def test_a_folder_in_which_nothing_may_be_made_is_told(recipe: Path) -> None:
    failed = tokenmill(recipe, "/sys/kernel/tokenmill-run")
    assert (failed.returncode, "Traceback" in failed.stderr) == (1, False)
    assert "/sys/kernel/tokenmill-run: " in failed.stderr
    assert "--out" in failed.stderr


def test_a_run_into_a_path_that_is_a_file_is_told(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    failed = tokenmill(recipe, tmp_path / "run")
    assert (failed.returncode, "Traceback" in failed.stderr) == (1, False)
    assert f"{tmp_path / 'run'}: there is a file of that name" in failed.stderr


# ---------------------------------------------------------------------------------------------------- a lost folder


def wait_for_parts(run: Path, process: subprocess.Popen[str], parts: int) -> None:
    until = time.monotonic() + 60
    while parts_done(Storage(str(run))) < parts and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)


@pytest.mark.parametrize("after_parts", [3, 12])
def test_a_run_whose_folder_is_deleted_under_way_says_so_and_leaves_nothing_false(
    recipe: Path, expected: Mapping[str, str], tmp_path: Path, after_parts: int
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        run_command(recipe, str(run), "--workers", "2"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip
    wait_for_parts(run, process, after_parts)
    run.rename(tmp_path / "gone")  # at once, as a deletion under a fast disk
    said = process.communicate()[0]
    assert process.returncode == 1, said
    assert str(run) in said
    assert "was removed or changed while the run worked" in said.replace("\n", " ")
    assert "Traceback" not in said
    assert tokenmill(recipe, run, 2).returncode == 0
    assert checksums(str(run)) == expected


def test_files_that_vanished_from_an_interrupted_step_are_made_again(
    recipe: Path, expected: Mapping[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert tokenmill(recipe, run).returncode == 0
    last = sorted((run / "datasets" / "docs").iterdir())[-1]
    (last / "manifest.json").unlink()
    sorted(last.glob("part-*.parquet"))[1].unlink()
    assert tokenmill(recipe, run).returncode == 0
    assert checksums(str(run)) == expected


def test_an_account_that_vanished_from_a_finished_step_is_made_again_and_no_row_is_lost(
    recipe: Path, expected: Mapping[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert tokenmill(recipe, run).returncode == 0
    steps = sorted((run / "datasets" / "docs").iterdir())
    sorted((steps[0] / "account").glob("part-*.json"))[-1].unlink()
    shutil.rmtree(steps[1])
    assert tokenmill(recipe, run).returncode == 0
    assert checksums(str(run)) == expected


# ---------------------------------------------------------------------------------------------------- clocks

JUMPING_CLOCK = """\
import os, time
shift, jump = float(os.environ["CLOCK_SHIFT"]), float(os.environ["CLOCK_JUMP"])
real, start = time.time, time.monotonic()
def now():
    return real() + shift + (jump if time.monotonic() - start > 1.5 else 0)
time.time, time.time_ns = now, lambda: int(now() * 1e9)
"""
DAY = 86400


def clock(kind: str, folder: Path, shift: float, jump: float = 0) -> dict[str, str]:
    """Environment in which a process sees another time: `shift` seconds off, and `jump` more after a second and a half."""
    if kind == "python":
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(JUMPING_CLOCK)
        paths = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return {"PYTHONPATH": paths, "CLOCK_SHIFT": str(shift), "CLOCK_JUMP": str(jump)}
    found = sorted(
        [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), *Path("/usr").glob("lib*/faketime/libfaketime.so.1")]
    )
    if not found:
        pytest.skip("no libfaketime here")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": f"{shift:+.0f}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_the_false_clock_is_false(tmp_path: Path) -> None:
    env = {**os.environ, **clock("python", tmp_path / "clock", -DAY)}
    said = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"], env=env, capture_output=True, text=True, check=True
    )
    assert abs(time.time() - DAY - float(said.stdout)) < 60


@pytest.mark.parametrize("kind", ["python", "libfaketime"])
def test_a_clock_that_jumps_by_days_changes_no_byte_and_redoes_no_part(
    recipe: Path, expected: Mapping[str, str], tmp_path: Path, kind: str
) -> None:
    run = tmp_path / "run"
    first = subprocess.Popen(
        run_command(recipe, str(run), "--workers", "2"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, **clock(kind, tmp_path / "clock", DAY)},
    )  # fmt: skip
    wait_for_parts(run, first, 9)
    first.kill()
    first.wait()
    for number, path in enumerate(p for p in run.rglob("*") if p.is_file()):
        when = time.time() + (DAY if number % 2 else -20_000 * DAY)
        os.utime(path, (when, when))
    back = clock(kind, tmp_path / "clock", 0, -DAY)
    assert tokenmill(recipe, run, 2, environment=back).returncode == 0
    assert checksums(str(run)) == expected
    assert redone_parts(Storage(str(run))) == 0
    again = tokenmill(recipe, run, 2, environment=clock(kind, tmp_path / "clock", -DAY))
    assert again.returncode == 0
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["reused"] for event in events if event["event"] == "plan"][-1] == len(
        json.loads((run / "plan.json").read_text())["steps"]
    )
