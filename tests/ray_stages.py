"""Stages for tests of the executors (importable by worker processes): GPU work, slow work, storage that fails for a while."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import TEXT, field
from pipeline.stage import Annotate, Resources

_LOADED: dict[str, int] = {}
"""Models by name: once per process, as real stages do it."""


class OnGpu(Annotate):
    """Measures texts "on a GPU": loads a model once per process, and writes who ran, on which GPU, from when to when."""

    kind = "on_gpu"
    notes: str
    gpu_optional: bool = False
    num_gpus: float = 1.0
    seconds: float = 0.0

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (field("length", pa.int64(), "code points"),)

    def resources(self) -> Resources:
        return Resources(num_gpus=self.num_gpus, gpu_optional=self.gpu_optional)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        if self.kind not in _LOADED:
            _LOADED[self.kind] = 1
            note(self.notes, f"load {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        started = time.time()
        time.sleep(self.seconds)
        note(self.notes, f"run {os.getpid()} {started:.6f} {time.time():.6f}")
        return {"length": pc.utf8_length(docs["text"]).cast(pa.int64())}


class AlsoOnGpu(OnGpu):
    """Another step with another model."""

    kind = "also_on_gpu"

    def adds(self) -> tuple[pa.Field, ...]:
        return (field("length_again", pa.int64(), "code points"),)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        return {"length_again": super().columns(docs)["length"]}


class Sleeps(Annotate):
    """Takes its time over each batch."""

    kind = "sleeps"
    seconds: float
    notes: str

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        note(self.notes, f"begin {os.getpid()} {docs['origin'][0]}")
        time.sleep(self.seconds)
        return {}


class StorageComesBack(Annotate):
    """Raises a storage error the first `times` times that it meets `victim` (a file remembers)."""

    kind = "storage_comes_back"
    victim: str
    times: int
    notes: str
    message: str = "read timed out"

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        if self.victim in docs["text"].to_pylist() and len(lines(self.notes)) < self.times:
            note(self.notes, "failed")
            raise ConnectionResetError(104, self.message)
        return {}


class HidesItsError(Annotate):
    """Raises an error that cannot be pickled back."""

    kind = "hides_its_error"

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        raise Unpicklable("bad", 7)


class Unpicklable(ValueError):
    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")


def note(path: str, line: str) -> None:
    """Append a line; several processes may."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line + "\n")


def lines(path: str) -> list[list[str]]:
    """What was noted, in words."""
    return [line.split() for line in Path(path).read_text().splitlines()] if os.path.exists(path) else []
