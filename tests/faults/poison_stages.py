"""Stages that fail on a given text in many ways; apart from the tests, so that a worker process imports little."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from pipeline.schema import ID, TEXT, document_id
from pipeline.stage import Annotate, Filter, InputFile, Source, SourcePart
from tests.toy_stages import Joined, Words


class Unwritable(Exception):
    """An error that cannot be rebuilt from its arguments: it would break a pool of processes."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Picky(Filter):
    """Raises what `how` says on a given text; drops nothing."""

    kind = "picky"
    on: str
    how: str = "value"
    memory: str = ""

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        if self.on in docs["text"].to_pylist():
            self._fail(docs.num_rows)
        return pa.nulls(docs.num_rows, pa.string())

    def _fail(self, number: int) -> None:
        match self.how:
            case "unwritable":
                raise Unwritable("this", "that")
            case "network":
                raise ConnectionResetError("the model's server went away")
            case "once" if os.path.exists(self.memory):
                return
            case "once":
                Path(self.memory).touch()
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                ctypes.string_at(0)
        msg = f"among {number}\nand a second line"
        raise ValueError(msg)


class Everything(Annotate):
    """Fails on all rows: a broken stage."""

    kind = "everything"

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        msg = "no model"
        raise KeyError(msg)


class BreaksOff(Source):
    """A source whose generator raises after a row."""

    kind = "breaks_off"

    def parts(self) -> list[SourcePart]:
        return [SourcePart("broken.bin", (InputFile("broken.bin", 1, "1"),))]

    def schema(self) -> pa.Schema:  # type: ignore[override]
        return pa.schema([ID, TEXT])

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([{"id": document_id("x"), "text": "x"}], schema=self.schema())
        msg = "lost the thread"
        raise ValueError(msg)


class PickyJoined(Joined):
    """Joins groups, but for one."""

    kind = "joined"
    on: str

    def rows(self, docs: pa.RecordBatch) -> pa.RecordBatch:
        if self.on in docs["first_word"].to_pylist():
            msg = "cannot join"
            raise ValueError(msg)
        return super().rows(docs)


class PickyWords(Words):
    """Splits texts, but for one."""

    kind = "words"
    on: str

    def rows(self, docs: pa.RecordBatch) -> pa.RecordBatch:
        if self.on in docs["text"].to_pylist():
            msg = "no words"
            raise ValueError(msg)
        return super().rows(docs)
