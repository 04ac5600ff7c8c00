"""What a person reads when the disk, not the data, stopped a run: which folder, what is wrong with it, what to do next."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM)
_NO_FOLDER = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT)


def disk_trouble(error: BaseException, folder: str) -> str | None:
    """In plain words, when `error` (or what caused it) says that `folder` could not be written; None for any other error."""
    for one in _causes(error):
        if isinstance(one, OSError) and one.errno is not None:
            said = _said(one, folder)
            if said is not None:
                return f"{folder}: {said}"
        elif "No space left on device" in str(one):  # as DuckDB and Arrow put it
            return f"{folder}: {_full(folder)}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _said(error: OSError, folder: str) -> str | None:
    if error.errno in _FULL:
        return _full(folder)
    if error.errno == errno.EFBIG:
        return (
            "a file would grow beyond what is allowed here (`ulimit -f`, or the file system's own limit): lift the limit or choose "
            "another folder with --out; the same command continues"
        )
    inside = error.filename is not None and os.path.abspath(str(error.filename)).startswith(folder)
    if error.errno == errno.EROFS:
        return "the file system is read-only: mount it for writing or choose another folder with --out; the same command continues"
    if error.errno in _REFUSED and inside:
        return f"permission denied at {error.filename}: allow this user to write there, or choose another folder with --out"
    if error.errno == errno.ENOENT and folder in str(error) and os.path.isdir(folder):
        return (
            f"it was removed or changed while the run worked ({error.filename or error.args[-1]} is gone): the same command makes "
            "again what is missing"
        )
    if error.errno in _NO_FOLDER and inside and not os.path.isdir(folder):
        what = (
            "there is a file of that name" if os.path.exists(folder) else "the folder is not there and cannot be made"
        )
        return f"{what}: choose another folder with --out"
    return None


def _full(folder: str) -> str:
    try:
        space = shutil.disk_usage(folder)
        room = f" ({space.free / 1e6:,.1f} MB free of {space.total / 1e6:,.1f} MB)"
    except OSError:
        room = ""
    return (
        f"the disk is full{room}: free some space, or move the folder to a larger disk and give its new place with --out; finished "
        "parts stay, and the same command continues"
    )
