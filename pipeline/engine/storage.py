"""The run folder: the only place that opens its files, on a local disk or any fsspec URL (`s3://bucket/run`).

A part's files appear together with one atomic step. On a disk each file is written under a temporary name and
renamed; on an object store the upload is completed by the final PUT (one PUT up to UPLOAD_BYTES, a multipart upload
above, in pieces of that size: 160 GB at most). Either way the part's account is written last and is what makes the part
done, so a kill between two renames leaves files that nobody counts and the next run overwrites. Nothing is ever found by
listing that must not be missed: an account that a listing hides costs its part again, and gives the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import xxhash

TEMPORARY = ".tmp-"
UPLOAD_BYTES = 16 << 20
READ_AHEAD_BYTES = 4 << 20
"""Per open file of an object store: column chunks and record batches are larger, so they come in one request each."""

# Inputs are opened through fsspec as well, by code that knows no engine.
for _scheme in ("s3", "s3a"):
    fsspec.register_implementation(_scheme, "pipeline.engine.s3.PatientS3", clobber=True)


class StorageUnavailable(ConnectionError):
    """The object store failed for longer than the retries last; its message names it and says what to do."""


class StorageRefused(OSError):
    """No credentials, or no such bucket: nothing that trying again or leaving out a file would mend."""


@dataclass(frozen=True)
class WrittenFile:
    """A file of a part: path relative to the run, size, xxh3-64 of its bytes (16 hex digits)."""

    path: str
    bytes: int
    checksum: str


class _ChecksummedFile(io.RawIOBase):
    """Counts and hashes what passes; writes in order only, which is all that Arrow's writers do."""

    def __init__(self, raw: Any, path: str) -> None:
        super().__init__()
        self._raw, self.path = raw, path
        self._hash = xxhash.xxh3_64()
        self._size = 0
        self.aborted = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.aborted:  # an Arrow writer that is collected after an error still writes its footer
            return len(view)
        self._raw.write(view)
        self._hash.update(view)
        self._size += len(view)
        return len(view)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        if not self._raw.closed:
            self._raw.flush()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            super().close()

    def written(self) -> WrittenFile:
        return WrittenFile(self.path, self._size, self._hash.hexdigest())


class _Upload:
    """A file of an object store: kept here up to UPLOAD_BYTES, then a multipart upload. Visible at `commit`."""

    def __init__(self, fs: Any, url: str) -> None:
        self._fs, self._url = fs, url
        self._waiting = bytearray()
        self._size = 0
        self._parts: Any = None
        self.closed = False

    def write(self, data: memoryview) -> None:
        self._size += len(data)
        if self._parts is None:
            self._waiting += data
            if len(self._waiting) < UPLOAD_BYTES:
                return
            self._parts = self._fs.open(self._url, "wb", autocommit=False, block_size=UPLOAD_BYTES)
            data, self._waiting = memoryview(self._waiting), bytearray()
        for start in range(0, len(data), UPLOAD_BYTES):  # so that one large write does not become one huge piece
            self._parts.write(data[start : start + UPLOAD_BYTES])

    def flush(self) -> None:
        """Pieces go when they are full."""

    def close(self) -> None:
        """No more bytes; still invisible."""
        if self._parts is not None and not self.closed:
            self._parts.close()
        self.closed = True

    def commit(self) -> None:
        """One PUT, or the end of the multipart upload. Doing it again with the same bytes does no harm."""
        if self._parts is None:
            self._fs.pipe_file(self._url, bytes(self._waiting))
            return
        try:
            self._parts.commit()
        except FileNotFoundError:  # its answer was lost, and the second try found the upload gone: because it is done
            if not self._is_there():
                raise
        if not self._is_there():
            msg = f"{self._url}: {self._size} bytes were uploaded, but the store does not hold a file of that size"
            raise StorageUnavailable(msg)

    def _is_there(self) -> bool:
        try:
            return int(self._fs.size(self._url)) == self._size
        except FileNotFoundError:
            return False

    def discard(self) -> None:
        """Forget it, and what was uploaded."""
        self.closed = True
        self._waiting = bytearray()
        if self._parts is not None:
            self._parts.discard()
            self._parts.closed = True  # else its collection would try to finish it


class Transaction:
    """Files that become visible together, in the order in which they were created (stage.RunFiles for sinks)."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._files: list[tuple[_ChecksummedFile, Any, str]] = []

    def create(self, path: str) -> BinaryIO:
        """A new file, invisible until `commit`."""
        self._storage.check_path(path)
        if self._storage.local:
            target = self._storage.url(path)
            folder, name = os.path.split(target)
            os.makedirs(folder, exist_ok=True)
            temporary = os.path.join(folder, f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{name}")
            raw: Any = open(temporary, "wb")  # noqa: SIM115 - closed by commit or abort
        else:
            temporary = ""
            raw = _Upload(self._storage.fs, self._storage.url(path))
        file = _ChecksummedFile(raw, path)
        self._files.append((file, raw, temporary))
        return file  # type: ignore[return-value]

    def open(self, path: str) -> pa.NativeFile:
        """A finished file of the run, for reading at any offset."""
        return self._storage.open(path)

    def url(self, path: str) -> str:
        """Absolute path or URL of a file of the run."""
        return self._storage.url(path)

    def commit(self) -> list[WrittenFile]:
        """Make all files visible."""
        for file, _, _ in self._files:
            file.close()
        for file, raw, temporary in self._files:
            if self._storage.local:
                os.replace(temporary, self._storage.url(file.path))
            else:
                raw.commit()
        written = [file.written() for file, _, _ in self._files]
        self._files = []
        return written

    def abort(self) -> None:
        """Forget all files that were not committed."""
        for file, raw, temporary in self._files:
            file.aborted = True
            if self._storage.local:
                with suppress(OSError, ValueError):
                    file.close()
                with suppress(OSError):
                    os.unlink(temporary)
            else:
                with suppress(OSError, ValueError):
                    raw.discard()
        self._files = []


class Storage:
    """A run's folder. Paths are relative to it, with `/`, and never leave it."""

    def __init__(self, root: str) -> None:
        fs, bare = _file_system(str(root))
        self._fs, self._pid = fs, os.getpid()
        protocols = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
        self.local = "file" in protocols or "local" in protocols
        self.root = os.path.abspath(bare) if self.local else bare.rstrip("/")
        self.address = self.root if self.local else f"{protocols[0]}://{self.root}"
        """What a person would type to name the folder."""

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.address,)

    @property
    def fs(self) -> Any:
        """The file system, for this process: one made before a fork has an event loop that did not come along."""
        if self._pid != os.getpid():
            self._fs, self._pid = _file_system(self.address)[0], os.getpid()
        return self._fs

    @staticmethod
    def check_path(path: str) -> None:
        """Raise ValueError unless `path` stays inside the run's folder."""
        if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            msg = f"a run's path must be relative, without '.' or '..': {path!r}"
            raise ValueError(msg)

    def url(self, path: str) -> str:
        """Absolute path or URL of `path`, as outside readers need it."""
        return f"{self.root}/{path}" if self.local else f"{self.address}/{path}"

    def exists(self, path: str) -> bool:
        return bool(self.fs.exists(self.url(path)))

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when it is absent. Temporary files are left out."""
        if self.local:
            try:
                found = os.listdir(self.url(folder))
            except FileNotFoundError:
                return []
        else:
            try:
                found = [
                    entry.rstrip("/").rsplit("/", 1)[-1]
                    for entry in self.fs.ls(self.url(folder), detail=False, refresh=True)
                ]
            except FileNotFoundError:
                return []
        return sorted(name for name in found if not name.startswith(TEMPORARY))

    def size(self, path: str) -> int:
        return int(self.fs.size(self.url(path)))

    def read(self, path: str) -> bytes:
        """All bytes of a small file."""
        return bytes(self.fs.cat_file(self.url(path)))

    def read_json(self, path: str) -> Any:
        """A small JSON file, or None when it is absent."""
        try:
            return json.loads(self.read(path))
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> WrittenFile:
        """A small file, atomically."""
        with self.transaction() as files:
            files.create(path).write(data)
            return files.commit()[0]

    def write_json(self, path: str, value: Any) -> None:
        """A small JSON file, atomically."""
        self.write(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def open(self, path: str) -> pa.NativeFile:
        """For reading at any offset: memory-mapped on a disk, ranged requests elsewhere."""
        if self.local:
            return pa.memory_map(self.url(path), "r")
        return pa.PythonFile(self.fs.open(self.url(path), "rb", block_size=READ_AHEAD_BYTES), mode="r")

    def read_range(self, path: str, start: int, length: int) -> pa.Buffer:
        """`length` bytes from `start`, in one request (a view of the page cache on a disk)."""
        if self.local:
            with pa.memory_map(self.url(path), "r") as file:
                file.seek(start)
                found = file.read_buffer(length)
        else:
            data = self.fs.cat_file(self.url(path), start=start, end=start + length) if length else b""
            found = pa.py_buffer(data)
        if found.size != length:
            msg = f"{self.url(path)}: {length} bytes from {start} were asked for, but only {found.size} are there; was it cut?"
            raise OSError(msg)
        return found

    def remove_temporary_files(self, folder: str) -> None:
        """Delete what a killed worker left half-written in `folder` and below."""
        if not self.local:
            if hasattr(self.fs, "abort_uploads"):
                with suppress(OSError):  # only room is at stake, and not every store can list them
                    self.fs.abort_uploads(self.url(folder))
        else:
            for where, _, names in os.walk(self.url(folder)):
                for name in names:
                    if name.startswith(TEMPORARY):
                        with suppress(OSError):
                            os.unlink(os.path.join(where, name))

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Files that appear at `commit`; whatever was not committed at the end is forgotten."""
        files = Transaction(self)
        try:
            yield files
        finally:
            files.abort()


def _file_system(root: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path as it knows it."""
    if root.split("://")[0] in ("s3", "s3a"):
        from pipeline.engine.s3 import PatientS3

        fs = PatientS3()
        return fs, str(fs._strip_protocol(root))
    fs, bare = fsspec.core.url_to_fs(root)
    return fs, str(bare)
