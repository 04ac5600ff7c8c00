"""Peak memory of a command and of every process that it starts, as Linux counts it.

`VmHWM` is the kernel's own high-water mark of a process's resident memory, so polling misses no peak, only what a process did in
its last tenth of a second. It counts pages of mapped files too, which the kernel may take back at any time; `anonymous` is
what it may not (the largest value seen while polling).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.05


@dataclass
class Peaks:
    """What a command did: its end, its words, and bytes at the peak of its largest process."""

    returncode: int
    output: str
    seconds: float
    resident: int
    anonymous: int


def measured(command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None) -> Peaks:
    """Run `command` to its end and watch it and its descendants."""
    started = time.monotonic()
    resident: dict[int, int] = {}
    anonymous: dict[int, int] = {}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        while process.poll() is None:
            for pid in family(process.pid):
                values = memory_of(pid)
                resident[pid] = max(resident.get(pid, 0), values.get("VmHWM", 0))
                anonymous[pid] = max(anonymous.get(pid, 0), values.get("RssAnon", 0))
            time.sleep(POLL_SECONDS)
        said.seek(0)
        output = said.read()
    return Peaks(
        process.returncode, output, time.monotonic() - started, max(resident.values()), max(anonymous.values())
    )


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return [pid]


def memory_of(pid: int) -> dict[str, int]:
    """The memory lines of /proc/<pid>/status in bytes; none when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if value.endswith("kB")
    }
