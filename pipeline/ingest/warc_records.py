"""Records of WARC and ARC files, one at a time, through any damage.

fastwarc's own iterator ends at the first error, and a record whose Content-Length is too long swallows its neighbour.
Here each gzip member is inflated on its own, so that damage stays within its member, and reading goes on at the next
place where a record starts. The price: 210 MB/s of gzip on one core where fastwarc has 460, before an extraction that has 25-60.

Memory: three times `max_record_bytes`. CPU: one gzip member inflates to 16 times that at most before the rest is left unread.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_HEADER_BYTES = 64 << 10
MAX_BLANK_BYTES = 64 << 10
SKIP_FACTOR = 16

_CHUNK = 64 << 10  # bytes read at once; most of it is copied once more per gzip member, so larger is slower
_STEP = 256 << 10  # bytes inflated at once
_LOOK = 8 << 10  # bytes in which a record's first line must end

_GZIP = b"\x1f\x8b\x08"
_WARC = re.compile(rb"WARC/\d")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\r?\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
# Version 1: URL, address, date, type, length. Version 2: result code, checksum, location, offset and file before the length.
_ARC = re.compile(
    rb"([a-z][a-z0-9+.-]*:[^\r\n]*?) (\S+) (\d{8,20}) (\S+)(?: \S+ \S+ \S+ \S+ \S+)? (\d{1,18})\r?\n", re.IGNORECASE
)
_NEXT = re.compile(
    rb"\n(?:WARC/\d\.\d{1,2}\r?\n|[a-z][a-z0-9+.-]{1,20}://\S{1,4096} \S{1,64} \d{14} \S{1,256}(?: \S{1,512}){0,5} \d{1,18}\r?\n)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Record:
    """One record. `place` is the offset of its gzip member, `+` its offset within that; in a plain file its offset."""

    place: str
    type: str
    uri: str
    date: str
    content_type: str
    header: bytes
    block: bytes


@dataclass(frozen=True)
class Broken:
    """A record that could not be read, and why."""

    place: str
    what: str


class _Damage(Exception):
    """Compressed data that cannot be inflated further."""


def records(file: BinaryIO, max_record_bytes: int) -> Iterator[Record | Broken]:
    """All records of a seekable file: gzip per record, gzip as a whole, or plain."""
    raw = _Raw(file)
    start = raw.peek(_LOOK)
    if not start:
        yield Broken("0", "empty file")
    elif start.startswith(_GZIP):
        yield from _compressed(raw, max_record_bytes)
    elif _starts_record(start.lstrip(b"\r\n")) or not _find_member(raw):
        raw.seek(0)
        yield from _records_of(_Stretch(raw, None), max_record_bytes)
    else:
        yield Broken("0", "bytes that are no gzip member")
        yield from _compressed(raw, max_record_bytes)


def _compressed(raw: _Raw, max_record_bytes: int) -> Iterator[Record | Broken]:
    while raw.skip_zeros():
        start = raw.at
        if raw.peek(3) != _GZIP:
            yield Broken(str(start), "bytes that are no gzip member")
            if not _find_member(raw):
                return
            continue
        stretch = _Stretch(raw, SKIP_FACTOR * max_record_bytes)
        try:
            yield from _records_of(stretch, max_record_bytes)
        except _Damage as damage:
            yield Broken(stretch.place, str(damage))
            raw.seek(start + 1)
            if not _find_member(raw):
                return
        if not stretch.ended and not _find_member(raw):
            return


# ---------------------------------------------------------------------------------------------------- bytes


class _Raw:
    """The file's bytes with a position, and room to give back what was read too far."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.pending = b""
        self.at = 0

    def seek(self, offset: int) -> None:
        self.file.seek(offset)
        self.pending, self.at = b"", offset

    def read(self) -> bytes:
        """The next chunk; empty at the end."""
        chunk = self.pending or self.file.read(_CHUNK)
        self.pending = b""
        self.at += len(chunk)
        return chunk

    def unread(self, data: bytes) -> None:
        self.pending = data + self.pending
        self.at -= len(data)

    def peek(self, size: int) -> bytes:
        while len(self.pending) < size and (more := self.file.read(max(size, _CHUNK))):
            self.pending += more
        return self.pending[:size]

    def skip_zeros(self) -> bool:
        """Move over padding, as tapes and some mirrors leave it; False at the end."""
        while chunk := self.read():
            if chunk[0] or chunk.strip(b"\0"):
                self.unread(chunk.lstrip(b"\0"))
                return True
        return False


class _Stretch:
    """The bytes of one gzip member (when `max_skip` is given), or of a plain file, as a window that moves forward."""

    def __init__(self, raw: _Raw, max_skip: int | None) -> None:
        self.raw = raw
        self.start = raw.at
        self.max_skip = max_skip
        self.inflate = zlib.decompressobj(31) if max_skip is not None else None
        self.window = bytearray()
        self.at = 0  # within the window
        self.before = 0  # bytes of the stretch that have left the window
        self.record_at = 0
        self.ended = False

    @property
    def position(self) -> int:
        return self.before + self.at

    @property
    def place(self) -> str:
        """Where the current record starts."""
        if self.inflate is None:
            return str(self.start + self.record_at)
        return f"{self.start}+{self.record_at}" if self.record_at else str(self.start)

    def fill(self, size: int) -> int:
        """Bytes at hand after trying for `size`."""
        if self.at > _STEP:
            del self.window[: self.at]
            self.before += self.at
            self.at = 0
        while len(self.window) - self.at < size and not self.ended:
            self.window += self._more()
        return len(self.window) - self.at

    def has(self, size: int) -> bool:
        """Whether the record goes on for `size` bytes, into further gzip members where a writer has cut it so."""
        while self.fill(size) < size:
            following = self.raw.peek(_LOOK) if self.inflate is not None else b""
            if not following.startswith(_GZIP) or _inflates_to_record(following):
                return False
            self.inflate, self.ended = zlib.decompressobj(31), False
        return True

    def look(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes, `offset` bytes ahead."""
        self.fill(offset + size)
        return bytes(memoryview(self.window)[self.at + offset : self.at + offset + size])

    def skip(self, size: int) -> bool:
        """Go on by `size` bytes; False when the stretch ends before."""
        while size > 0 and (have := min(size, self.fill(min(size, _STEP)))):
            self.at += have
            size -= have
        return size == 0

    def rewind(self, position: int) -> None:
        """Back to a position of a plain file."""
        self.raw.seek(self.start + position)
        self.window.clear()
        self.at, self.before, self.ended = 0, position, False

    def _more(self) -> bytes:
        chunk = self.raw.read()
        if self.inflate is None:
            self.ended = not chunk
            return chunk
        if not chunk:
            msg = "truncated gzip member"
            raise _Damage(msg)
        try:
            data = self.inflate.decompress(chunk, _STEP)
        except zlib.error as error:
            msg = "broken gzip data"
            raise _Damage(msg) from error
        self.ended = self.inflate.eof
        self.raw.unread(self.inflate.unused_data if self.ended else self.inflate.unconsumed_tail)
        return data


def _find_member(raw: _Raw) -> bool:
    """Move to the next gzip member that starts with a record. The magic alone comes up by chance every 16 MB."""
    while window := raw.peek(_STEP + _LOOK):
        at = window.find(_GZIP)
        while 0 <= at < _STEP:
            if _inflates_to_record(window[at : at + _LOOK]):
                raw.seek(raw.at + at)
                return True
            at = window.find(_GZIP, at + 1)
        raw.seek(raw.at + min(_STEP, len(window)))
    return False


def _inflates_to_record(compressed: bytes) -> bool:
    try:
        return _starts_record(zlib.decompressobj(31).decompress(compressed, _LOOK).lstrip(b"\r\n"))
    except zlib.error:
        return False


def _starts_record(text: bytes) -> bool:
    return bool(_WARC.match(text) or _ARC.match(text))


# ---------------------------------------------------------------------------------------------------- records


def _records_of(stretch: _Stretch, max_record_bytes: int) -> Iterator[Record | Broken]:
    while _skip_blank(stretch):
        stretch.record_at = stretch.position
        record = _record(stretch, max_record_bytes)
        yield record
        if isinstance(record, Broken) and not _next_record(stretch):
            return


def _skip_blank(stretch: _Stretch) -> bool:
    """Move over line ends to the next byte of a record; False at the end of the stretch."""
    for _ in range(MAX_BLANK_BYTES):
        if not stretch.fill(1):
            return False
        if stretch.window[stretch.at] not in b"\r\n":
            return True
        stretch.at += 1
    return True


def _record(stretch: _Stretch, max_record_bytes: int) -> Record | Broken:
    """The record that starts here, with the window behind it; behind its header when it is broken."""
    first = stretch.look(0, _LOOK)
    arc = None if _WARC.match(first) else _ARC.match(first)
    if arc is not None:
        header, length = arc[0], int(arc[5])
    else:
        header = _header(stretch)
        found = _LENGTH.search(header)
        if not found:
            stretch.at += min(4, stretch.fill(4))
            return Broken(stretch.place, _header_defect(header, first))
        length = int(found[1])
    stretch.at += len(header)
    if length > max_record_bytes:
        _leave_out(stretch, length)
        return Broken(stretch.place, f"record over {max_record_bytes} bytes")
    if not stretch.has(length):
        return Broken(stretch.place, "record shorter than its Content-Length")
    if not _ends_at(stretch, length):
        return Broken(stretch.place, "wrong Content-Length")
    block = stretch.look(0, length)
    stretch.at += length
    return _arc_record(stretch.place, arc, block) if arc else _warc_record(stretch.place, header, block)


def _header(stretch: _Stretch) -> bytes:
    """From `WARC/` to the empty line; nothing when there is neither."""
    size = _LOOK
    while (window := stretch.look(0, size)).startswith(b"WARC/"):
        if end := _HEADER_END.search(window):
            return window[: end.end()]
        if len(window) < size or size >= MAX_HEADER_BYTES:
            return b""
        size *= 2
    return b""


def _header_defect(header: bytes, first: bytes) -> str:
    if header:
        return "record without a Content-Length"
    return "record header without an end" if first.startswith(b"WARC/") else "bad record header"


def _ends_at(stretch: _Stretch, length: int) -> bool:
    """Whether a record ends here: two line ends, or nothing but line ends before the next record or the end."""
    rest = stretch.look(length, _LOOK)
    text = rest.lstrip(b"\r\n")
    return not text or rest.startswith(b"\r\n\r\n") or _starts_record(text)


def _leave_out(stretch: _Stretch, length: int) -> None:
    """Move behind a block that is too long: by its length where that can be, else only as far as the search will."""
    if stretch.max_skip is None:
        body = stretch.position
        if not stretch.skip(length):
            stretch.rewind(body)
    elif length <= stretch.max_skip:
        stretch.skip(length)
    # Beyond: a length that absurd is not worth inflating for; `_next_record` searches within `max_skip`.


def _next_record(stretch: _Stretch) -> bool:
    """Move to the next line that starts a record; False at the end of the stretch, or when enough was searched."""
    searched = 0
    while have := stretch.fill(_STEP + _LOOK):
        found = _NEXT.search(stretch.window, max(stretch.at - 1, 0))
        if found:
            stretch.at = found.start() + 1
            return True
        step = have if stretch.ended else have - _LOOK
        stretch.at += step
        searched += step
        if stretch.max_skip is not None and searched > stretch.max_skip:
            return False
    return False


def _warc_record(place: str, header: bytes, block: bytes) -> Record:
    fields = header_fields(header)
    return Record(
        place,
        fields.get("warc-type", "").lower(),
        fields.get("warc-target-uri", "").removeprefix("<").removesuffix(">"),
        fields.get("warc-date", ""),
        fields.get("content-type", "").lower(),
        header,
        block,
    )


def _arc_record(place: str, line: re.Match[bytes], block: bytes) -> Record:
    url, date, kind = (line[group].decode("utf-8", "replace") for group in (1, 3, 4))
    if len(date) == 14:
        date = f"{date[:4]}-{date[4:6]}-{date[6:8]}T{date[8:10]}:{date[10:12]}:{date[12:]}Z"
    if url.lower().startswith(("http:", "https:")):
        return Record(place, "response", url, date, "application/http", line[0], block)
    return Record(place, "other", url, date, kind.lower(), line[0], block)


def header_fields(header: bytes) -> dict[str, str]:
    """Header fields by lower-case name, folded lines joined; the first of each name counts."""
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError:
        text = header.decode("latin-1")
    fields: dict[str, str] = {}
    for line in re.sub(r"\r?\n[ \t]+", " ", text).split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields
