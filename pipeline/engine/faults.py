"""Why a task ended in an error, and whether it is worth another try: one pure function over the exception.

Peers lose days both ways: some retry a broken record for ever, some die of one time-out. Four kinds of fault tell them
apart. A storage outage of half a minute passes unseen (7 tries, 31.5 s of pauses); an exception of a stage is reported
at its first occurrence, since trying again would give it again.
"""

from __future__ import annotations

import errno
import gzip
import io
import pickle
from typing import Literal

from pipeline.engine.storage import StorageRefused

Fault = Literal["worker", "outage", "machine", "stage"]
"""`worker`: the process or node that ran the task is gone (killed, out of memory, lost). Tried again; when it keeps on, the
part itself is suspect. `outage`: storage or network did not answer as they should. Tried again; no part is to blame.
`machine`: disk full, no permission, no GPU. Somebody must mend it; not tried again, and no part is to blame.
`stage`: the stage raised over these rows. Not tried again."""

ATTEMPTS: dict[Fault, int] = {"worker": 4, "outage": 7, "machine": 1, "stage": 1}
FIRST_PAUSE_SECONDS = 0.5

_OUTAGE = ("botocore", "aiobotocore", "aiohttp", "urllib3", "requests", "httpx", "httpcore")
_OUTAGE_MODULES = (*_OUTAGE, "http.client", "urllib.error", "ssl", "socket", "fsspec.exceptions")
_RAY_OUTAGES = {"RpcError", "GetTimeoutError", "ObjectFetchTimedOutError"}
_RAY_SETUP = {"RuntimeEnvSetupError", "TaskUnschedulableError", "ActorUnschedulableError", "AuthenticationError"}
_DATA_ERRORS = (gzip.BadGzipFile, io.UnsupportedOperation)
"""Subclasses of OSError that speak of bytes, not of a device."""
_FOR_GOOD = ("EACCES", "EPERM", "EEXIST", "EISDIR", "ENOTDIR", "ENAMETOOLONG", "EROFS", "ENOSPC", "EDQUOT", "EFBIG")


class WorkerLost(RuntimeError):
    """The process that ran a task ended without an answer."""


class WrongSetup(RuntimeError):
    """The machine or cluster cannot run the task as it is; the message says what is missing."""


class OnWorker(RuntimeError):
    """An error of a worker that cannot travel between processes as it is: its name and words, and what kind it was."""

    def __init__(self, message: str, fault: Fault = "stage") -> None:
        super().__init__(message, fault)
        self.message, self.fault = message, fault

    def __str__(self) -> str:
        return self.message


def fault_of(error: BaseException) -> Fault:
    """The kind of fault that `error` speaks of."""
    if isinstance(error, OnWorker):
        return error.fault
    names = {cls.__name__ for cls in type(error).__mro__}
    modules = {cls.__module__ for cls in type(error).__mro__}
    if "ray.exceptions" in modules:
        return _ray_fault(error, names)
    if isinstance(error, (WorkerLost, MemoryError)) or "BrokenProcessPool" in names:
        return "worker"
    if isinstance(error, (WrongSetup, StorageRefused)):
        return "machine"
    if isinstance(error, _DATA_ERRORS):
        return "stage"
    if isinstance(error, (ConnectionError, TimeoutError)):
        return "outage"
    if any(module == one or module.startswith(f"{one}.") for module in modules for one in _OUTAGE_MODULES):
        return "outage"
    if isinstance(error, OSError):
        return _device_fault(error)
    return "stage"


def _device_fault(error: OSError) -> Fault:
    """An OSError with a number comes from the system; without one, from a parser that found bad bytes."""
    if isinstance(error, FileNotFoundError):
        return "outage"  # a network disk may show a file of another machine half a minute late
    if isinstance(error, (PermissionError, FileExistsError)):
        return "machine"
    if error.errno is None:
        return "stage"
    return "machine" if errno.errorcode.get(error.errno) in _FOR_GOOD else "outage"


def _ray_fault(error: BaseException, names: set[str]) -> Fault:
    cause = getattr(error, "cause", None)
    if "RayTaskError" in names:
        return fault_of(cause) if isinstance(cause, BaseException) and cause is not error else "stage"
    if names & _RAY_SETUP:
        return "machine"
    return "outage" if names & _RAY_OUTAGES else "worker"


def pause_seconds(fault: Fault, attempts: int) -> float | None:
    """How long to wait before the next try after `attempts` failed ones; None when there is none."""
    if attempts >= ATTEMPTS[fault]:
        return None
    pause: float = FIRST_PAUSE_SECONDS * 2.0 ** (attempts - 1)
    return pause


def survives_pickling(error: BaseException) -> bool:
    """Whether another process of ours gets this error as it is (the errors of many libraries do not unpickle)."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - whatever a foreign error's reduce or constructor raises
        return False
