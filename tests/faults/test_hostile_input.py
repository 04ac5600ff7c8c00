"""One document or line of hundreds of megabytes and gzip bombs, through the real command: bounded memory, a counted drop, no dead run.

`HOSTILE_MEGABYTES` sets the size (300 by default; `benchmarks/memory.py --hostile` takes 1000). Every case has a good document
beside the hostile one, which must come through.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.faults.chaos import ROOT, run_command
from tests.faults.hostile import GOOD, HOSTILE, Hostile, MiB, size_of, write_case
from tests.faults.peaks import measured

pytestmark = pytest.mark.slow
SIZE = int(os.environ.get("HOSTILE_MEGABYTES", "300")) * MiB


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Peak of a run over next to nothing: what Python, Arrow and the kernels take."""
    folder = tmp_path_factory.mktemp("calm")
    done = measured(run_command(write_case(HOSTILE[0], folder, 1000), str(folder / "run"), "--workers", "2"), ROOT)
    assert done.returncode == 0, done.output[-2000:]
    return done.anonymous


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name.replace(" ", "_"))
def test_hostile_input_is_kept_or_a_counted_drop_in_bounded_memory(case: Hostile, calm: int, tmp_path: Path) -> None:
    size = size_of(case, SIZE)
    recipe = write_case(case, tmp_path, size)
    done = measured(run_command(recipe, str(tmp_path / "run"), "--workers", "2"), ROOT)
    (tmp_path / case.file).unlink()
    assert done.returncode == 0, done.output[-2000:]
    assert drops(tmp_path / "run") == ([case.reason] if case.reason else [])
    assert kept(tmp_path / "run") == [len(GOOD)]
    assert whole(tmp_path / "run") == ([] if case.filtered else [size])
    assert done.anonymous - calm < case.allowed(size)


def drops(run: Path) -> list[str]:
    return [
        reason
        for path in sorted(run.glob("datasets/*/*/drops/*.parquet"))
        for reason in pq.read_table(path, columns=["reason"])["reason"].to_pylist()
    ]


def whole(run: Path) -> list[int]:
    """Characters of the hostile documents that came through."""
    last = sorted((run / "datasets" / "docs").iterdir())[-1]
    tables = [pq.read_table(path, columns=["text"]) for path in sorted(last.glob("part-*.parquet"))]
    chars = [n for table in tables for n in pc.utf8_length(table["text"]).to_pylist()]
    return [n for n in chars if n > 2 * len(GOOD)]


def kept(run: Path) -> list[int]:
    """Characters of the rows that came through, to within the line ends that extraction may add."""
    last = sorted((run / "datasets" / "docs").iterdir())[-1]
    texts = [t for path in sorted(last.glob("part-*.parquet")) for t in pq.read_table(path)["text"].to_pylist()]
    return [len(GOOD) for text in texts if text.split()[:50] == GOOD.split()[:50]]
