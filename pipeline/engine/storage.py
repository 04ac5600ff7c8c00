"""The run folder: the only place that opens its files, on a local disk or any fsspec URL (`s3://bucket/run`).

A part's files appear together with one atomic step. On a disk each file is written under a temporary name and
renamed; on an object store the upload is completed by the final PUT. Either way the part's account is written last and
is what makes the part done, so a kill between two renames leaves files that nobody counts and the next run overwrites.
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
            raw = self._storage.fs.open(self._storage.url(path), "wb", autocommit=False)
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
            with suppress(OSError, ValueError):
                file.close()
            file.aborted = True
            if self._storage.local:
                with suppress(OSError):
                    os.unlink(temporary)
            else:
                with suppress(OSError, AttributeError):
                    raw.discard()
        self._files = []


class Storage:
    """A run's folder. Paths are relative to it, with `/`, and never leave it."""

    def __init__(self, root: str) -> None:
        self.fs, bare = fsspec.core.url_to_fs(str(root))
        protocols = self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        self.local = "file" in protocols or "local" in protocols
        self.root = os.path.abspath(bare) if self.local else bare.rstrip("/")
        self.address = self.root if self.local else f"{protocols[0]}://{self.root}"
        """What a person would type to name the folder."""

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.address,)

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
        return pa.PythonFile(self.fs.open(self.url(path), "rb"), mode="r")

    def read_range(self, path: str, start: int, length: int) -> pa.Buffer:
        """`length` bytes from `start`, in one request (a view of the page cache on a disk)."""
        if self.local:
            with pa.memory_map(self.url(path), "r") as file:
                file.seek(start)
                return file.read_buffer(length)
        return pa.py_buffer(self.fs.cat_file(self.url(path), start=start, end=start + length))

    def remove_temporary_files(self, folder: str) -> None:
        """Delete what a killed worker left half-written in `folder` and below (a disk only; uploads expire by themselves)."""
        if self.local:
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
