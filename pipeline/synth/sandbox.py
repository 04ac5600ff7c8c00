"""Running programs that nobody has read: a separate process without network, files, children or long life.

Candidate programs (answers under verification, an agent's `run_python`) go to a small server process
(`sandbox_child.py`) which forks once per program. Each program gets its own limits, kernel filters and audit hook, and
costs only itself; if the server dies, the program it was at is tried once more and the rest go on in a fresh server.

Trade-off: a fork per program rather than a container. Start 70 ms, then 2 ms of processor time per small program: 220-380
a second (measured on a 2-core virtual machine with a load of 3 to 4 besides). Where the kernel lends namespaces, Landlock and seccomp they
stand behind the audit hook; elsewhere (containers that forbid them, macOS) rlimits and the audit hook stand alone:
good against careless programs, not against an attacker. `Sandbox.layers` says what holds.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["ok", "error", "timeout", "killed", "output_limit", "sandbox_failed"]
Layer = Literal["namespaces", "landlock", "seccomp"]

_CHILD = Path(__file__).with_name("sandbox_child.py")
_REPLY = struct.Struct(">iBII")
_GRACE_SECONDS = 10.0  # the server kills a program at its deadline; beyond this the server itself is stuck


class Limits(BaseModel):
    """What one program may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_seconds: float = Field(default=3.0, gt=0, le=600)
    cpu_seconds: int = Field(default=2, ge=1, le=600)
    memory_mib: int = Field(default=256, ge=64, le=65536)
    max_output_bytes: int = Field(default=64 << 10, ge=1, le=64 << 20)
    max_program_bytes: int = Field(default=1 << 20, ge=1, le=64 << 20)


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    ok: exit code 0. error: another exit code (an exception is told in `stderr`). timeout: wall or CPU limit. killed:
    died of a signal. output_limit: wrote too much, cut there. sandbox_failed: two servers died or hung at
    this program.
    """

    status: Status
    exit_code: int
    stdout: str
    stderr: str


class Sandbox:
    """A server for programs. Use as a context manager; one per thread."""

    def __init__(self, limits: Limits | None = None, layers: Iterable[Layer] = ("namespaces", "landlock", "seccomp")):
        self.limits = limits or Limits()
        self.layers: tuple[str, ...] = ()
        """Protections that took hold, known once the server runs."""
        self._wanted = ",".join(layers)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, program: str) -> Outcome:
        """Run one program."""
        source = program.encode("utf-8", "replace")
        if len(source) > self.limits.max_program_bytes:
            message = f"program has {len(source)} bytes; at most {self.limits.max_program_bytes} are run"
            return Outcome("error", 1, "", message)
        problem: Exception | None = None
        for _ in range(2):  # a server may die of something else; a program that fells two is to blame
            process = self._process or self._start()
            try:
                assert process.stdin is not None
                process.stdin.write(struct.pack(">I", len(source)) + source)
                process.stdin.flush()
                return self._reply(process)
            except (OSError, EOFError, TimeoutError) as failure:
                self._stop()
                problem = failure
        return Outcome("sandbox_failed", -1, "", f"{type(problem).__name__}: {problem}")

    def run_all(self, programs: Iterable[str]) -> list[Outcome]:
        """Run programs one after the other."""
        return [self.run(program) for program in programs]

    def close(self) -> None:
        """End the server and remove its folder. The sandbox may be used again afterwards."""
        self._stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="tokenmill-sandbox-")
        limits = self.limits
        settings = [limits.wall_seconds, limits.cpu_seconds, limits.memory_mib << 20, limits.max_output_bytes]
        # Not -I: it would ignore PYTHONHASHSEED, and a program that prints a set must print the same every time. The
        # rest of -I is here (-P -s), and the environment holds nothing else.
        self._process = process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", str(_CHILD), *map(str, settings), self._wanted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            length = struct.unpack(">I", self._read(process, 4, _GRACE_SECONDS))[0]
            self.layers = tuple(self._read(process, length, _GRACE_SECONDS).decode().split(","))
        except (EOFError, TimeoutError) as problem:
            self.close()
            msg = f"the sandbox did not start: {problem}; expected a Python at {sys.executable!r} that may fork"
            raise RuntimeError(msg) from problem
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # a request was still in the buffer when the server died
                    continue

    def _reply(self, process: subprocess.Popen[bytes]) -> Outcome:
        header = self._read(process, _REPLY.size, self.limits.wall_seconds + _GRACE_SECONDS)
        status, verdict, out_size, error_size = _REPLY.unpack(header)
        out = self._read(process, out_size, _GRACE_SECONDS).decode("utf-8", "replace")
        error = self._read(process, error_size, _GRACE_SECONDS).decode("utf-8", "replace")
        exit_code = os.waitstatus_to_exitcode(status)
        return Outcome(_status(verdict, exit_code), exit_code, out, error)

    @staticmethod
    def _read(process: subprocess.Popen[bytes], size: int, seconds: float) -> bytes:
        """Exactly `size` bytes, past Python's own buffer, so that waiting is bounded."""
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        deadline = time.monotonic() + seconds
        pieces = bytearray()
        while len(pieces) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                msg = f"no answer within {seconds} s"
                raise TimeoutError(msg)
            piece = os.read(pipe, size - len(pieces))
            if not piece:
                msg = "the server ended"
                raise EOFError(msg)
            pieces += piece
        return bytes(pieces)


def _status(verdict: int, exit_code: int) -> Status:
    if verdict == 1 or exit_code == -signal.SIGXCPU:
        return "timeout"
    if verdict == 2:
        return "output_limit"
    if exit_code < 0:
        return "killed"
    return "ok" if exit_code == 0 else "error"
