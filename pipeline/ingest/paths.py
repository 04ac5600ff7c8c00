"""Which files a source reads: globs on a disk or an object store, in an order that never changes.

A plan lists files with their size and version (etag, or mtime in nanoseconds); small ones are grouped into parts of up to
`max_part_bytes`, a file is never cut. A folder that cannot be listed stops the plan, since nobody could say what
is missing; a file that cannot be opened is one counted drop at run time. A local listing costs one `stat` per file: 100,000
files take about a second.
"""

from __future__ import annotations

import errno
import fnmatch
import itertools
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, cast

import fsspec
import fsspec.core
from pydantic import Field, field_validator

from pipeline.stage import InputFile, Source, SourcePart, Unreadable, in_batches

_MAGIC = re.compile(r"[*?\[]")


class FileSource(Source):
    """What all sources over files share: `paths` in, parts out, files that cannot be opened counted.

    Memory: one batch (16 MiB of text) plus the largest record that the source's own limit allows.
    """

    paths: str | tuple[str, ...]
    """One glob or several, on a disk or `s3://`: `*` within a name, `**` for any depth of folders."""
    max_part_bytes: int = Field(default=64 << 20, gt=0)
    """Small files are read together up to this size; a larger file is a part of its own."""

    @field_validator("paths")
    @classmethod
    def _some_path(cls, paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not paths or any(not one for one in ([paths] if isinstance(paths, str) else paths)):
            msg = "paths must name at least one file or glob, for example 'crawl/*.warc.gz'"
            raise ValueError(msg)
        return paths

    def parts(self) -> list[SourcePart]:
        """The files that `paths` names now, in order of their names, grouped by size."""
        return file_parts(find(self.paths), self.max_part_bytes)

    def batches(self, part: SourcePart) -> Iterator[Any]:
        """Rows of all files of the part, batch by batch."""
        rows = itertools.chain.from_iterable(self._guarded(file, name) for file, name in named_files(part))
        return in_batches(rows, self.schema())

    def rows_of(self, file: InputFile, name: str) -> Iterator[Mapping[str, Any] | Unreadable]:
        """The rows of one file; `name` is its path within the source."""
        raise NotImplementedError

    def _guarded(self, file: InputFile, name: str) -> Iterator[Mapping[str, Any] | Unreadable]:
        try:
            yield from self.rows_of(file, name)
        except Defect as defect:
            yield Unreadable(name, f"unreadable: {defect}")
        except OSError as error:  # object stores open lazily: that an object is gone shows at the first read
            if not _is_about_the_file(error):
                raise
            yield Unreadable(name, f"unreadable: {complaint(error)}")


class Defect(Exception):
    """What is wrong with a file or record, in the lower-case words that follow `unreadable: `."""


def _is_about_the_file(error: OSError) -> bool:
    """Whether reading again could not help. A failing disk or network is no property of the data: the part is retried."""
    lasting = (
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENXIO,
    )
    return error.errno in lasting or isinstance(error, (FileNotFoundError, PermissionError))


def complaint(error: OSError) -> str:
    """The defect in lower-case words, without the path: `permission denied`, `is a directory`."""
    if error.errno is not None:
        return os.strerror(error.errno).lower()
    return "permission denied" if isinstance(error, PermissionError) else "no such file or directory"


# ---------------------------------------------------------------------------------------------------- finding


def find(paths: str | Iterable[str]) -> list[tuple[InputFile, str]]:
    """All files that the globs name, with their names within the source, sorted by name.

    A name is the path below the globs' fixed root (the folders before the first wildcard, the common ones when there are
    several globs): a source that moves as a whole keeps its names, and so its ids.
    """
    patterns = [paths] if isinstance(paths, str) else list(paths)
    found: dict[str, tuple[InputFile, str]] = {}
    for root, group in _by_file_system(patterns):
        for pattern in group:
            files = _remote(pattern) if "://" in pattern else _local(pattern)
            if not files:
                msg = f"paths: '{pattern}' matches no file"
                raise FileNotFoundError(msg)
            for one in files:
                found[one.path] = (one, _name(one.path, root))
    names: dict[str, str] = {}
    for one, name in found.values():
        other = names.setdefault(name, one.path)
        if other != one.path:
            msg = f"paths: '{other}' and '{one.path}' have the same name '{name}' within the source; read them as two datasets"
            raise ValueError(msg)
    return sorted(found.values(), key=lambda pair: pair[1])


def find_folders(paths: str | Iterable[str]) -> list[tuple[str, str]]:
    """All local folders that the globs name, with their names within the source, sorted by name."""
    found: dict[str, str] = {}
    for root, patterns in _by_file_system([paths] if isinstance(paths, str) else list(paths)):
        for pattern in patterns:
            if "://" in pattern:
                msg = f"paths: '{pattern}' is not on a local disk; folders of source code are read from a disk only"
                raise ValueError(msg)
            folders = [path for path in _matches(pattern) if os.path.isdir(path) and not os.path.islink(path)]
            if not folders:
                msg = f"paths: '{pattern}' matches no folder"
                raise FileNotFoundError(msg)
            found.update((path, _name(path, root)) for path in folders)
    return sorted(found.items(), key=lambda pair: pair[1])


def _name(path: str, root: str) -> str:
    return printable(path[len(root) :].lstrip("/").replace(os.sep, "/"))


def printable(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 appear as `\\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_parts(files: Iterable[tuple[InputFile, str]], max_part_bytes: int) -> list[SourcePart]:
    """Neighbouring files together up to `max_part_bytes`; never a cut within a file."""
    parts: list[SourcePart] = []
    waiting: list[tuple[InputFile, str]] = []

    def close() -> None:
        names = {"names": [name for _, name in waiting]}
        parts.append(SourcePart(f"{len(parts):05d}", tuple(file for file, _ in waiting), names))
        waiting.clear()

    size = 0
    for file, name in files:
        if waiting and size + file.size > max_part_bytes:
            close()
            size = 0
        waiting.append((file, name))
        size += file.size
    if waiting:
        close()
    return parts


def named_files(part: SourcePart) -> Iterator[tuple[InputFile, str]]:
    """The files of a part with their names within the source."""
    return zip(part.files, cast("list[str]", part.settings["names"]), strict=True)


def _by_file_system(patterns: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(common root, patterns) per scheme and bucket."""
    groups: dict[str, list[str]] = {}
    for pattern in patterns:
        scheme, _, rest = pattern.rpartition("://")
        groups.setdefault(f"{scheme}://{rest.split('/')[0]}" if scheme else "", []).append(pattern)
    for group in groups.values():
        absolute = [one if "://" in one else os.path.abspath(one) for one in group]
        roots = [_fixed_root(one).split("/") for one in absolute]
        common = [
            names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*roots, strict=False))
        ]
        yield "/".join(common), absolute


def _fixed_root(pattern: str) -> str:
    """The folders before the first wildcard; of a plain path, its folder."""
    names = pattern.split("/")
    fixed = list(itertools.takewhile(lambda name: not _MAGIC.search(name), names))
    return "/".join(fixed if len(fixed) < len(names) else fixed[:-1])


def _remote(pattern: str) -> list[InputFile]:
    # Credentials are whatever fsspec finds in the environment or the profile: no setting takes any.
    system, path = fsspec.core.url_to_fs(pattern)
    scheme = pattern.split("://")[0]
    if not _MAGIC.search(path):
        return [_remote_file(pattern)] if system.exists(path) else []
    listing: dict[str, dict[str, Any]] = system.glob(path, detail=True)
    return [_described(f"{scheme}://{name}", info) for name, info in sorted(listing.items()) if info["type"] == "file"]


def _remote_file(url: str) -> InputFile:
    system, path = fsspec.core.url_to_fs(url)
    return _described(url, system.info(path))


def _described(url: str, info: Mapping[str, Any]) -> InputFile:
    keys = ("ETag", "etag", "LastModified", "mtime", "created")
    version = next((str(info[key]) for key in keys if info.get(key)), "")
    return InputFile(url, int(info.get("size") or 0), version.strip('"'))


def _local(pattern: str) -> list[InputFile]:
    anything = pattern.endswith("*") and pattern.split("/")[-1] in ("*", "**")
    return [local_file(path) for path in _matches(pattern) if not (anything and os.path.isdir(path))]


def _matches(pattern: str) -> list[str]:
    # Not glob.glob: it passes silently over folders that it may not list.
    names = os.path.abspath(pattern).split(os.sep)
    start = os.sep.join(itertools.takewhile(lambda name: not _MAGIC.search(name), names)) or os.sep
    rest = list(itertools.dropwhile(lambda name: not _MAGIC.search(name), names))
    if not os.path.lexists(start):
        return []
    return sorted(set(_walk(start, rest))) if rest else [start]


def _walk(folder: str, names: list[str]) -> Iterator[str]:
    """Paths below `folder` that match; hidden names only where the pattern spells the dot."""
    first, rest = names[0], names[1:]
    if not _MAGIC.search(first):
        path = os.path.join(folder, first)
        if os.path.lexists(path):
            yield from _walk(path, rest) if rest else (path,)
        return
    if first == "**":
        yield from _walk(folder, rest or ["*"])
    for entry in list_folder(folder):
        if entry.name.startswith(".") and not first.startswith("."):
            continue
        if first == "**":
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, names)
        elif fnmatch.fnmatchcase(entry.name, first):
            if not rest:
                yield entry.path
            elif entry.is_dir():
                yield from _walk(entry.path, rest)


def list_folder(folder: str) -> list[os.DirEntry[str]]:
    """The entries of a folder by name. Raises an error that names it when it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        msg = f"paths: cannot list folder '{folder}': {complaint(error)}"
        raise type(error)(error.errno, msg) from error


def local_file(path: str) -> InputFile:
    """A local file as it is now. One that cannot be looked at stays in the list, and is a counted drop when it is read."""
    try:
        info = os.stat(path)
    except OSError as error:
        return InputFile(path, 0, complaint(error))
    size = info.st_size if stat.S_ISREG(info.st_mode) else 0
    return InputFile(path, size, str(info.st_mtime_ns))


# ---------------------------------------------------------------------------------------------------- opening


def open_file(file: InputFile) -> BinaryIO:
    """The file's bytes as they are stored. Raises Defect where opening it again could not help."""
    try:
        if "://" in file.path:
            return cast("BinaryIO", fsspec.open(file.path, "rb").open())
        return _open_regular(file.path)
    except OSError as error:
        if not _is_about_the_file(error):
            raise
        raise Defect(complaint(error)) from error


def _open_regular(path: str) -> BinaryIO:
    """A pipe or a device is refused: it could block for ever."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    msg = "not a regular file"
    raise Defect(msg)


def read_whole(file: InputFile, max_bytes: int) -> bytes:
    """All bytes of a small file, gunzipped when it is gzip. Holds at most `max_bytes` of each form."""
    with open_file(file) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _over(max_bytes)
    return gunzip(data, max_bytes) if data[:2] == b"\x1f\x8b" else data


def gunzip(data: bytes, max_bytes: int) -> bytes:
    """All members of a gzip file in memory."""
    out: list[bytes] = []
    room = max_bytes
    while data[:2] == b"\x1f\x8b":
        inflate = zlib.decompressobj(31)
        try:
            piece = inflate.decompress(data, room + 1)
        except zlib.error as error:
            msg = "broken gzip data"
            raise Defect(msg) from error
        room -= len(piece)
        if room < 0:
            raise _over(max_bytes)
        if not inflate.eof:
            msg = "truncated gzip"
            raise Defect(msg)
        out.append(piece)
        data = inflate.unused_data
    return b"".join(out)


def utf8(data: bytes) -> str:
    """The text without its byte order mark."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"not UTF-8 at byte {error.start}"
        raise Defect(msg) from error
    return text.removeprefix("\ufeff")


def _over(max_bytes: int) -> Defect:
    return Defect(f"over {max_bytes} bytes")


def input_file(path: str) -> InputFile:
    """One outside file as it is now, local or remote: how a plan notices that a model or word list has changed."""
    if "://" in path:
        return _remote_file(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return local_file(os.path.abspath(path))
