"""The mini recipe and the command, as a person runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINI = ROOT / "tests" / "recipes" / "mini.yaml"


def tokenmill(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; with `check` it must succeed."""
    command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def digest(run: str | Path, *more: str) -> str:
    """What `tokenmill verify` prints of a run's shards."""
    found = re.search(r"^digest ([0-9a-f]{32})$", tokenmill("verify", run, *more).stdout, re.MULTILINE)
    assert found
    return found.group(1)
