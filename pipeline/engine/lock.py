"""One run per folder: the second is refused with a message that names the first.

On a disk the lock is an advisory lock of the operating system, which dies with its holder, so that a killed run never
leaves a stale one. An object store has no such thing: there the lock is a small object created only if absent,
refreshed every few seconds, and taken over once it has not been refreshed for a minute.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline.engine.storage import Storage

STALE_SECONDS = 60.0
REFRESH_SECONDS = 10.0
NAME = "lock"


class RunIsLocked(RuntimeError):
    """Another run works in this folder."""


def _holder() -> dict[str, str | int | float]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}


def _refused(storage: Storage, holder: object) -> RunIsLocked:
    who = holder if isinstance(holder, dict) else {}
    return RunIsLocked(
        f"another run works in {storage.address} (process {who.get('pid', '?')} on {who.get('host', '?')}): "
        "wait for it to end, stop it, or choose another folder with --out"
    )


@contextmanager
def locked(storage: Storage) -> Iterator[None]:
    """Hold the folder's lock. Raises RunIsLocked when somebody else does."""
    with _locked_disk(storage) if storage.local else _locked_object(storage):
        yield


@contextmanager
def _locked_disk(storage: Storage) -> Iterator[None]:
    os.makedirs(storage.root, exist_ok=True)
    with open(storage.url(NAME), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            with suppress(ValueError):
                raise _refused(storage, json.loads(file.read() or "null")) from None
            raise _refused(storage, None) from None
        file.truncate(0)
        file.write(json.dumps(_holder()))
        file.flush()
        yield


@contextmanager
def _locked_object(storage: Storage) -> Iterator[None]:
    url = storage.url(NAME)
    try:
        storage.fs.pipe_file(url, json.dumps(_holder()).encode(), mode="create")
    except FileExistsError:
        holder = storage.read_json(NAME)
        if isinstance(holder, dict) and time.time() - float(holder.get("time", 0)) < STALE_SECONDS:
            raise _refused(storage, holder) from None
        storage.fs.pipe_file(url, json.dumps(_holder()).encode())
    done = threading.Event()

    def refresh() -> None:
        while not done.wait(REFRESH_SECONDS):
            with suppress(OSError):
                storage.fs.pipe_file(url, json.dumps(_holder()).encode())

    thread = threading.Thread(target=refresh, daemon=True, name="run-lock")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(OSError):
            storage.fs.rm_file(url)
