"""One run per folder: the second is refused with a message that names the first.

On a disk the lock is an advisory lock of the operating system, which dies with its holder, so that a killed run never
leaves a stale one.

An object store has no such thing: there the lock is a small object, created only if absent, whose holder writes it anew
every REFRESH_SECONDS. A holder is gone when its process is (seen at once from the same machine), or when the object
did not change for STALE_SECONDS by the observer's own monotonic clock: nobody's wall clock counts, so clocks may differ
and jump. A holder that slept for so long and comes back finds another's name in the lock, and stops. Stores that ignore
conditions on a PUT are noticed; there the last writer wins, and everybody looks twice, SETTLE_SECONDS apart.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.engine.storage import Storage, StorageUnavailable

REFRESH_SECONDS = 5.0
STALE_SECONDS = 30.0
SETTLE_SECONDS = 2.0
PROBE_SECONDS = 0.3
NAME = "lock"
_log = logging.getLogger("tokenmill")


class RunIsLocked(RuntimeError):
    """Another run works in this folder."""


@dataclass(frozen=True)
class Holder:
    """Who works in a folder. `machine` tells process numbers of different machines and containers apart."""

    host: str
    pid: int
    token: str = ""
    machine: str = ""
    started: str = ""
    beat: int = 0

    @staticmethod
    def here() -> Holder:
        """This process, with a token of its own."""
        return Holder(socket.gethostname(), os.getpid(), secrets.token_hex(8), _machine(), _start_of(os.getpid()))

    @staticmethod
    def of(data: bytes) -> Holder:
        """Who wrote this lock; of an unreadable one, nobody that is known."""
        try:
            value = json.loads(data)
            return Holder(
                str(value["host"]), int(value["pid"]), str(value.get("token", "")), str(value.get("machine", "")),
                str(value.get("started", "")), int(value.get("beat", 0)),
            )  # fmt: skip
        except (ValueError, TypeError, KeyError):
            return Holder("?", 0)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def is_gone(self) -> bool | None:
        """Whether its process has ended; None when that cannot be seen from here."""
        if not self.machine or self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return self.started != _start_of(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid or '?'} on {self.host}"


def _machine() -> str:
    """The same for processes that see each other's numbers; empty where the system does not say."""
    with suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start_of(pid: int) -> str:
    """When a process started, in ticks since the machine did: process numbers are used again."""
    with suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[19]
    return ""


def _refused(storage: Storage, holder: Holder) -> RunIsLocked:
    return RunIsLocked(
        f"another run works in {storage.address} ({holder}): "
        "wait for it to end, stop it, or choose another folder with --out"
    )


def holder_of(storage: Storage) -> Holder | None:
    """Who works in the folder, without taking the lock. On an object store, who did when it was last written."""
    if storage.local:
        return _disk_holder(storage)
    seen = _look(storage)
    return None if seen is None or seen[0].is_gone() else seen[0]


@contextmanager
def locked(storage: Storage) -> Iterator[None]:
    """Hold the folder's lock. Raises RunIsLocked when somebody else does, and when somebody else took it meanwhile."""
    with _locked_disk(storage) if storage.local else _locked_object(storage):
        yield


# ---------------------------------------------------------------------------------------------------- on a disk


@contextmanager
def _locked_disk(storage: Storage) -> Iterator[None]:
    os.makedirs(storage.root, exist_ok=True)
    with open(storage.url(NAME), "a+") as file:
        until = time.monotonic() + PROBE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < until:  # it may be no run, but somebody who looks for a moment (`holder_of`)
                    time.sleep(0.02)
                    continue
                file.seek(0)
                raise _refused(storage, Holder.of(file.read().encode())) from None
        file.truncate(0)
        file.write(Holder.here().to_bytes().decode())
        file.flush()
        yield


def _disk_holder(storage: Storage) -> Holder | None:
    try:
        with open(storage.url(NAME)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return Holder.of(file.read().encode())
    except FileNotFoundError:
        pass
    return None


# ---------------------------------------------------------------------------------------------------- on an object store


@contextmanager
def _locked_object(storage: Storage) -> Iterator[None]:
    own = Holder.here()
    _acquire(storage, own)
    beating = _Heartbeat(storage, own)
    try:
        yield
    except BaseException:
        if beating.lost is not None:  # whatever ended this, most likely the heartbeat's own signal
            raise _refused(storage, beating.lost) from None
        raise
    finally:
        beating.stop()
    if beating.lost is not None:
        raise _refused(storage, beating.lost)


def _look(storage: Storage) -> tuple[Holder, str] | None:
    """The holder, and a version for a conditional PUT that is no newer than it."""
    try:
        version = str(storage.fs.info(storage.url(NAME)).get("ETag", ""))
        return Holder.of(storage.read(NAME)), version
    except FileNotFoundError:
        return None


def _put(storage: Storage, holder: Holder, **conditions: str) -> bool:
    """Write the lock; False when the store says that a condition does not hold."""
    put_if = getattr(storage.fs, "put_if", None)
    if put_if is not None:
        return put_if(storage.url(NAME), holder.to_bytes(), **conditions) is not None
    storage.fs.pipe_file(storage.url(NAME), holder.to_bytes())
    return True


def _acquire(storage: Storage, own: Holder) -> None:
    seen = _look(storage)
    while True:
        if seen is None:
            _put(storage, own, IfNoneMatch="*")
            # The same again: a store that knows conditions refuses it, and then nobody can have come in between.
            sure = not _put(storage, own, IfNoneMatch="*")
        else:
            seen = _wait_until_gone(storage, *seen)
            if seen is None:
                continue
            _log.warning("the run of %s in %s is gone: its lock is taken over", seen[0], storage.address)
            _put(storage, own, IfMatch=seen[1])
            sure = False
        if not sure:
            time.sleep(SETTLE_SECONDS)
        seen = _look(storage)
        if seen is not None and seen[0].token == own.token:
            return


def _wait_until_gone(storage: Storage, holder: Holder, version: str) -> tuple[Holder, str] | None:
    """The lock of a holder that is gone (None: it went). Raises RunIsLocked as soon as it is seen to live."""
    if holder.is_gone():
        return holder, version
    if holder.is_gone() is False:
        raise _refused(storage, holder)
    _log.warning(
        "%s is locked by %s; watching for up to %.0f s whether it lives", storage.address, holder, STALE_SECONDS
    )
    until = time.monotonic() + STALE_SECONDS
    while time.monotonic() < until:
        time.sleep(min(1.0, REFRESH_SECONDS / 2))
        seen = _look(storage)
        if seen is None:
            return None
        if seen[0] != holder:
            raise _refused(storage, seen[0])
    return holder, version


class _Heartbeat:
    """Writes the lock anew from a thread, and notices when it has become another's."""

    def __init__(self, storage: Storage, own: Holder) -> None:
        self._storage, self._own = storage, own
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="run-lock")
        self._owner = threading.current_thread()
        self.lost: Holder | None = None
        self._thread.start()

    def _run(self) -> None:
        beat = 0
        while not self._ended.wait(REFRESH_SECONDS):
            beat += 1
            with suppress(OSError):  # the next one may get through; others wait for STALE_SECONDS
                seen = _look(self._storage)
                if seen is not None and seen[0].token != self._own.token:
                    self._lose(seen[0])
                    return
                now = Holder(**{**asdict(self._own), "beat": beat})
                _put(self._storage, now, **({"IfMatch": seen[1]} if seen else {"IfNoneMatch": "*"}))

    def _lose(self, holder: Holder) -> None:
        self.lost = holder
        if self._owner is not threading.main_thread() or self._owner.ident is None:
            return  # told at the end
        for one in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs start with SIGINT ignored
            if callable(signal.getsignal(one)):
                signal.pthread_kill(self._owner.ident, one)  # a real signal ends a wait for workers as well
                return

    def stop(self) -> None:
        """End the beats and remove the lock, if it is still ours."""
        self._ended.set()
        self._thread.join()
        with suppress(StorageUnavailable, OSError):
            seen: tuple[Holder, Any] | None = _look(self._storage)
            if seen is not None and seen[0].token == self._own.token:
                self._storage.fs.rm_file(self._storage.url(NAME))
