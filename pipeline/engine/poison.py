"""Finding the record at fault: a batch that fails is asked again in halves, down to single rows (or single groups).

Row-local stages give the same rows whatever the batch cut, so the halves that succeed are as good as the whole. A batch
of n rows with one at fault costs about 2 log2(n) calls on ever smaller pieces: 26 for 8192 rows. Where a stage takes its
whole process along (a segmentation fault, the kernel's out-of-memory killer), the same search asks a child process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.faults import fault_of, survives_pickling
from pipeline.engine.rowlocal import Call, ContractError, Placed, Result, row_call

SEARCH_SECONDS = 60.0
"""How long a run that is going to stop anyway looks for the record to name."""
MESSAGE_CHARS = 200
ISOLATED_SECONDS = 600.0
"""How long a call may take in a child process: a pool has no such bound, since a model may well take minutes to load."""


class RecordFailed(RuntimeError):
    """A stage fails on a record, again and again. The message names the error, the step and the record."""


class ProcessDied(RuntimeError):
    """The process that ran the stage is gone."""


class Hung(RuntimeError):
    """The stage did not answer in time."""


def is_the_records(error: BaseException) -> bool:
    """Whether a record may be the cause: not so for a stage that breaks its contract, nor for disks, networks and imports."""
    if type(error).__name__ == "PanicException":  # Rust's; no subclass of Exception
        return True
    if not isinstance(error, Exception) or isinstance(error, (ContractError, ImportError)):
        return False
    return isinstance(error, MemoryError) or fault_of(error) == "stage"


def described(error: BaseException) -> str:
    """`ValueError: its first line`, bounded and printable."""
    line = next(iter(str(error).splitlines()), "")
    line = "".join(c if c.isprintable() else " " for c in line[:MESSAGE_CHARS])
    return f"{type(error).__name__}: {line}".rstrip(": ")


# ---------------------------------------------------------------------------------------------------- the search


def units(docs: pa.RecordBatch, column: str | None) -> Sequence[int]:
    """Where `docs` may be cut: at every row, or where a new value of `column` begins. Ends with the number of rows."""
    if column is None or column not in docs.schema.names:
        return range(docs.num_rows + 1)
    codes = np.asarray(pc.dictionary_encode(docs[column], null_encoding="encode").indices)
    inner = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    return [0, *inner.tolist(), docs.num_rows]


def pieces(
    call: Call, docs: pa.RecordBatch, bounds: Sequence[int], error: BaseException
) -> Iterator[tuple[pa.RecordBatch, Result | BaseException]]:
    """All of `docs`, which failed with `error`, in order: pieces with what `call` gave, and single units with their error."""
    if len(bounds) <= 2:
        yield docs, error
        return
    for half in _halves(bounds):
        part = docs.slice(half[0] - bounds[0], half[-1] - half[0])
        result = attempt(call, part)
        if isinstance(result, BaseException):
            yield from pieces(call, part, half, result)
        else:
            yield part, result


def culprit(
    call: Call, docs: pa.RecordBatch, bounds: Sequence[int], error: BaseException
) -> tuple[pa.RecordBatch, BaseException]:
    """The first unit that fails by itself, or the smallest failing piece found within SEARCH_SECONDS."""
    deadline = time.monotonic() + SEARCH_SECONDS
    while len(bounds) > 2 and time.monotonic() < deadline:
        for half in _halves(bounds):
            part = docs.slice(half[0] - bounds[0], half[-1] - half[0])
            result = attempt(call, part)
            if isinstance(result, BaseException):
                docs, bounds, error = part, half, result
                break
        else:
            break  # it fails only as a whole
    return docs, error


def _halves(bounds: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    middle = len(bounds) // 2
    return bounds[: middle + 1], bounds[middle:]


def attempt(call: Call, docs: pa.RecordBatch) -> Result | BaseException:
    """What `call` gives, or the error that may be a record's; any other error is raised."""
    try:
        return call(docs)
    except BaseException as error:
        if not is_the_records(error):
            raise
        return error


# ---------------------------------------------------------------------------------------------------- in a child process


@dataclass
class Isolated:
    """Runs stages in a child process, one batch at a time; a new child replaces one that died."""

    stages: tuple[Placed, ...]
    address: str
    seed: int
    _child: Any = None
    _pipe: Connection[Any, Any] | None = None

    def call(self, number: int) -> Call:
        """The call of `stages[number]`."""
        return partial(self._ask, number)

    def _ask(self, number: int, docs: pa.RecordBatch) -> Result:
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send((number, docs))
            if not self._pipe.poll(ISOLATED_SECONDS):
                self.close()
                msg = f"no answer within {ISOLATED_SECONDS:.0f} s"
                raise Hung(msg)
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise ProcessDied(self._last_words()) from None
        if isinstance(answer, BaseException):
            raise answer
        result: Result = answer
        return result

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(
            target=_serve, args=(theirs, os.getpid(), self.stages, self.address, self.seed), daemon=True
        )
        self._child.start()
        theirs.close()

    def _last_words(self) -> str:
        self._child.join(5)
        code = self._child.exitcode
        self.close()
        if code is not None and code < 0:
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        return f"ended with exit status {code}"

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.join()
        if self._pipe is not None:
            self._pipe.close()
        self._child = self._pipe = None


def _serve(pipe: Connection[Any, Any], parent: int, stages: tuple[Placed, ...], address: str, seed: int) -> None:
    """The child: answers batches until the other end closes."""

    def watch() -> None:  # a stage that hangs would outlive its parent
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    pa.set_cpu_count(1)
    calls: dict[int, Callable[[pa.RecordBatch], Result]] = {}
    while True:
        try:
            number, docs = pipe.recv()
        except EOFError:
            return
        try:
            if number not in calls:
                calls[number] = row_call(stages[number], address, seed)
            answer: Result | BaseException = calls[number](docs)
        except BaseException as error:  # noqa: BLE001 - goes to the parent, which raises it
            answer = _sendable(error)
        pipe.send(answer)


def _sendable(error: BaseException) -> BaseException:
    """`error`, or its words where it does not survive a pickle."""
    return error if survives_pickling(error) else RuntimeError(described(error))
