"""Stages that wait, for tests of what runs meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

import pyarrow as pa

from pipeline.engine.rowlocal import ContractError
from pipeline.stage import Annotate, RunFiles
from tests.toy_stages import CountRows, TextFile


class WaitsFor(Annotate):
    """At a given text, waits until a file is there; fails after `patience_seconds`.

    The first part takes `first_seconds`, so that the pool of processes does not take the others for quick ones, of
    which it queues two at a time behind each other in one process.
    """

    kind = "waits_for"
    text: str
    path: str
    first_seconds: float
    patience_seconds: float = 30.0

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        texts = docs["text"].to_pylist()
        if "word0 text 0 0" in texts:
            time.sleep(self.first_seconds)
        if self.text in texts:
            end = time.monotonic() + self.patience_seconds
            while not os.path.exists(self.path):
                if time.monotonic() > end:
                    msg = f"nobody made {self.path}"
                    raise ContractError(msg)
                time.sleep(0.01)
        return {}


class Sleeps(Annotate):
    """Takes its time over every batch."""

    kind = "sleeps"
    seconds: float

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        time.sleep(self.seconds)
        return {}


class SlowTextFile(TextFile):
    """Takes its time at the start, and then as long as TextFile does."""

    kind = "slow_text_file"
    seconds: float

    def write(self, batches: Iterator[pa.RecordBatch], files: RunFiles, part: int) -> Iterator[pa.RecordBatch]:
        time.sleep(self.seconds)
        yield from super().write(batches, files, part)


class SlowCount(CountRows):
    """Takes its time over every summary."""

    kind = "slow_count"
    seconds: float

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        time.sleep(self.seconds)
        return super().summary(batches, label)
