"""Does a worker's memory stay the same while the corpus grows tenfold, and does a second worker nearly double the speed?

    python benchmarks/memory.py                  0.2 GB and 2 GB of text: half an hour, and 12 GB of disk
    python benchmarks/memory.py --sizes 0.05,0.5
    python benchmarks/memory.py --scaling        the quickstart's CPU steps with one worker and with two
    python benchmarks/memory.py --hostile 1000   documents, lines and gzip bombs of 1000 MB, one after the other
    python benchmarks/memory.py --smoke          seconds, to see that it runs

The corpus is prose out of this Python's own sources in JSONL files of 32 MB, through gopher_quality, exact_dedup and
minhash_dedup with two workers. Peaks are the kernel's own, of the largest process: `resident` counts mapped pages of files, which
the kernel takes back when it likes; `anonymous` is what it cannot. More text means more parts and more partitions, never larger ones.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.chaos import run_command  # noqa: E402
from tests.faults.corpora import write_corpus, write_recipe  # noqa: E402
from tests.faults.hostile import HOSTILE, MiB, size_of, write_case  # noqa: E402
from tests.faults.peaks import measured  # noqa: E402

FILE_MB = 32
PARTITION_MB = 64
NOT_PIPELINE = ("curriculum", "tokenizer")


def memory(sizes_gb: list[float], folder: Path, file_mb: float = FILE_MB) -> None:
    """Peaks per corpus size, and the ratio of the largest to the smallest."""
    print(f"{'text GB':>8}{'parts':>7}{'seconds':>9}{'MB/s':>7}{'resident MB':>13}{'anonymous MB':>14}")
    found = []
    for size in sizes_gb:
        files = max(1, math.ceil(size * 1000 / file_mb))
        write_corpus(folder / "in", size * 1000, files)
        partitions = max(2, math.ceil(size * 1000 / PARTITION_MB))
        recipe = write_recipe(folder / "memory.yaml", folder / "in" / "*.jsonl", partitions)
        done = measured(run_command(recipe, str(folder / "run"), "--workers", "2"), ROOT)
        if done.returncode:
            sys.exit(done.output[-3000:])
        found.append((done.resident / 1e6, done.anonymous / 1e6))
        print(
            f"{size:>8g}{files:>7}{done.seconds:>9.1f}{size * 1000 / done.seconds:>7.1f}{found[-1][0]:>13.0f}{found[-1][1]:>14.0f}",
            flush=True,
        )
        shutil.rmtree(folder / "in")
        shutil.rmtree(folder / "run")
    resident, anonymous = (found[-1][n] / found[0][n] for n in (0, 1))
    print(f"last / first: resident {resident:.3f}, anonymous {anonymous:.3f} (1.15 or less is asked for)")


def scaling(recipe: Path, folder: Path) -> None:
    """Wall time of the quickstart's CPU steps: first part started to last part done, of all steps before the curriculum."""
    print(f"{'workers':>8}{'steps s':>9}{'work s':>8}{'whole run s':>13}")
    walls = []
    for workers in (1, 2):
        run = folder / f"run-{workers}"
        started = time.monotonic()
        subprocess.run(
            run_command(recipe, str(run), "--workers", str(workers)), cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        whole = time.monotonic() - started
        wall, work = _span(run)
        walls.append(wall)
        print(f"{workers:>8}{wall:>9.1f}{work:>8.1f}{whole:>13.1f}", flush=True)
    print(f"two workers are {walls[0] / walls[1]:.2f} times as fast as one (1.8 or more is asked for)")


def _span(run: Path) -> tuple[float, float]:
    """(wall seconds, seconds of work) of the datasets' own steps. Folds are one task each, by nature on one core; their
    wall time counts."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    started = min(event["time"] for event in events if event["event"] == "step_started")
    ends: dict[bool, float] = defaultdict(float)
    work = 0.0
    for event in events:
        if event["event"] == "part_done" and event["step"].split("/")[0] not in NOT_PIPELINE:
            ends[True] = max(ends[True], event["time"])
            work += event["seconds"]
    return ends[True] - started, work


def hostile(megabytes: int, folder: Path) -> None:
    """Every hostile input at a size, with its peak above that of a run over nothing."""
    calm = measured(run_command(write_case(HOSTILE[0], folder / "calm", 1000), str(folder / "calm" / "run")), ROOT)
    print(f"{'input':<42}{'MB':>6}{'end':>5}{'seconds':>9}{'MB above calm':>15}{'allowed':>9}")
    for case in HOSTILE:
        size = size_of(case, megabytes * MiB)
        recipe = write_case(case, folder / "case", size)
        done = measured(run_command(recipe, str(folder / "case" / "run"), "--workers", "2"), ROOT)
        above = (done.anonymous - calm.anonymous) / MiB
        end = "ok" if done.returncode == 0 else str(done.returncode)
        print(
            f"{case.name:<42}{size // MiB:>6}{end:>5}{done.seconds:>9.1f}{above:>15.0f}{case.allowed(size) / MiB:>9.0f}",
            flush=True,
        )
        shutil.rmtree(folder / "case")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.2,2", help="GB of text, smallest first, with commas")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "quickstart.yaml", help="of --scaling")
    parser.add_argument("--hostile", type=int, metavar="MB", default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder by default")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenmill-memory-", dir=options.folder) as name:
        folder = Path(name)
        if options.smoke:
            memory([0.002, 0.006], folder, file_mb=1)
        elif options.scaling:
            scaling(options.recipe, folder)
        elif options.hostile:
            hostile(options.hostile, folder)
        else:
            memory([float(size) for size in options.sizes.split(",")], folder)


if __name__ == "__main__":
    main()
