"""JSON Lines, plain, `.gz` or `.zst`, with any field names.

Lines stream: one beyond `max_line_bytes` is passed over without being held. A line that is no JSON object, or has a field of
the wrong type, is a counted drop that names file and line. A large file is one part for now, so one worker reads it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
from pydantic import Field

from pipeline.ingest.mapped import MappedSource
from pipeline.ingest.paths import Defect, open_file
from pipeline.stage import InputFile, Unreadable

_CHUNK = 1 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"


class Readable(Protocol):
    """What lines are read from."""

    def read(self, size: int, /) -> bytes: ...


class Jsonl(MappedSource):
    """One document per line (`kind: jsonl`).

    Memory: one batch plus three times the longest line, which `max_line_bytes` bounds. Ids are those of the mapped `id`,
    else of a mapped URL (with its time, where mapped), else of file and line number. Format: RFC 8259, one object per line.
    """

    kind = "jsonl"

    max_line_bytes: int = Field(default=256 << 20, ge=1 << 10)
    """A longer line is dropped unread."""

    def rows_of(self, file: InputFile, name: str) -> Iterator[Mapping[str, Any] | Unreadable]:
        """One row per line that is not blank."""
        with open_file(file) as stored:
            for number, line in lines(decompressed(stored), self.max_line_bytes):
                size = None if isinstance(line, Defect) else len(line)
                try:
                    if isinstance(line, Defect):
                        raise line
                    if line.strip():
                        held = [line]
                        del line  # it may be large: nothing here holds it, or its row, while the batch is at work
                        yield self.row(_object(held.pop()), (name, str(number)))
                except Defect as defect:
                    yield Unreadable(f"{name}#{number}", f"unreadable: {defect}", size)


def decompressed(file: BinaryIO) -> Readable:
    """The file's content, whatever its name says: gzip and zstd are known by their first bytes."""
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if magic == _ZSTD:
        stream: Readable = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
        return stream
    return file


def lines(stream: Readable, max_line_bytes: int) -> Iterator[tuple[int, bytes | Defect]]:
    """Lines with their numbers from 1. Ends with a Defect where compressed data is broken or cut."""
    number, waiting, size, dropping = 1, list[bytes](), 0, False
    while True:
        try:
            chunk = stream.read(_CHUNK)
        except EOFError:
            yield number, Defect("truncated compressed data")
            return
        except (OSError, zlib.error, pa.ArrowInvalid) as error:
            said = str(error).lower()
            if (
                isinstance(error, OSError)
                and not isinstance(error, gzip.BadGzipFile)
                and not any(word in said for word in ("compressed stream", "zstd"))
            ):
                raise  # the disk or the network, not the data
            yield number, Defect("truncated compressed data" if "truncated" in said else "broken compressed data")
            return
        if not chunk:
            break
        if not (size or dropping or chunk.strip(b"\n")):  # a gzip bomb of line ends is no billion lines to look at
            number += len(chunk)
            continue
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            over = dropping or size + len(piece) > max_line_bytes
            if over:
                waiting.clear()
            yield number, Defect(f"line over {max_line_bytes} bytes") if over else _joined(waiting, piece)
            number, size, dropping = number + 1, 0, False
        size += len(rest)
        dropping = dropping or size > max_line_bytes
        if dropping:
            waiting.clear()
        elif rest:
            waiting.append(rest)
    if dropping:
        yield number, Defect(f"line over {max_line_bytes} bytes")
    elif size:
        yield number, _joined(waiting, b"")


def _joined(waiting: list[bytes], last: bytes) -> bytes:
    """The whole line; its pieces are let go, so that nobody holds a large line twice."""
    if not waiting:
        return last
    line = b"".join((*waiting, last))
    waiting.clear()
    return line


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except UnicodeDecodeError as error:
        msg = f"not UTF-8 at byte {error.start} of the line"
        raise Defect(msg) from error
    except RecursionError as error:
        msg = "JSON nested too deeply"
        raise Defect(msg) from error
    except ValueError as error:
        msg = f"not JSON ({getattr(error, 'msg', 'number too long')} at character {getattr(error, 'pos', 0)})"
        raise Defect(msg) from error
    if not isinstance(value, dict):
        msg = f"a JSON {type(value).__name__}, not an object"
        raise Defect(msg)
    return value
