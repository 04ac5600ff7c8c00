"""Inputs made to break a pipeline: one document or line of a gigabyte, gzip bombs. Written in pieces, whatever their size."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.faults.corpora import prose_lines

PIECE = 1 << 20
MiB = 1 << 20

GOOD = " ".join(prose_lines()[:60])
"""A document that nothing is wrong with: it has to survive beside each hostile one."""


@dataclass(frozen=True)
class Hostile:
    """One input: how to write it, the source that reads it, what has to become of it, and what memory it may take.

    `reason` is that of its one drop, empty where there is nothing to drop. `allowed(size)` is bytes on top of a run without it.
    """

    name: str
    file: str
    write: Callable[[BinaryIO, int], None]
    source: str
    reason: str
    allowed: Callable[[int], int]
    steps: str = ""
    within: bool = False
    """It has to stay within the source's limit: 200 MB, whatever size is asked for."""
    filtered: bool = True
    """Through gopher_quality, too."""


def _pieces(size: int, piece: bytes) -> Iterator[bytes]:
    while size > 0:
        yield piece[:size]
        size -= len(piece)


def _words(size: int) -> Iterator[bytes]:
    """Prose without line ends."""
    piece = " ".join(prose_lines()).encode("ascii", "replace").replace(b'"', b"'").replace(b"\\", b"/")
    return _pieces(size, piece[:PIECE] + b" ")


def json_line(out: BinaryIO, size: int) -> None:
    """One line of JSON with one text of `size` bytes."""
    out.write(b'{"id": "big", "text": "')
    for piece in _words(size):
        out.write(piece)
    out.write(b'"}\n')
    out.write(good_line())


def brackets(out: BinaryIO, size: int) -> None:
    """A line of nothing but opening brackets."""
    for piece in _pieces(size, b"[" * PIECE):
        out.write(piece)
    out.write(b"\n" + good_line())


def text_file(out: BinaryIO, size: int) -> None:
    """One plain text of `size` bytes."""
    for piece in _words(size):
        out.write(piece)


def bomb(byte: bytes) -> Callable[[BinaryIO, int], None]:
    """A gzip file of one byte again and again: a thousandth of `size`. The good line follows as a member of its own."""

    def write(out: BinaryIO, size: int) -> None:
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as packed:
            for piece in _pieces(size, byte * PIECE):
                packed.write(piece)
            packed.write(b"\n")
        out.write(gzip.compress(good_line()))

    return write


def warc_bomb(out: BinaryIO, size: int) -> None:
    """A WARC file whose first record says and holds `size` zeros, gzipped; an honest record follows."""
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as packed:
        packed.write(_warc_head("http://bomb.localhost/", size))
        for piece in _pieces(size, b"\0" * PIECE):
            packed.write(piece)
        packed.write(b"\r\n\r\n")
    out.write(gzip.compress(_warc_record("http://good.localhost/", _page(), "")))


def http_bomb(out: BinaryIO, size: int) -> None:
    """An honest WARC record whose HTTP body inflates to `size` bytes."""
    import io

    body = io.BytesIO()
    with gzip.GzipFile(fileobj=body, mode="wb", compresslevel=9) as packed:
        for piece in _pieces(size, b" " * PIECE):
            packed.write(piece)
    out.write(gzip.compress(_warc_record("http://bomb.localhost/", body.getvalue(), "Content-Encoding: gzip\r\n")))
    out.write(gzip.compress(_warc_record("http://good.localhost/", _page(), "")))


def good_line() -> bytes:
    return json.dumps({"id": "good", "text": GOOD}).encode() + b"\n"


def _page() -> bytes:
    return f"<!doctype html><html><body><article><p>{GOOD}</p></article></body></html>".encode()


def _warc_record(url: str, body: bytes, header: str) -> bytes:
    block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{header}Content-Length: {len(body)}\r\n\r\n".encode() + body
    return _warc_head(url, len(block)) + block + b"\r\n\r\n"


def _warc_head(url: str, length: int) -> bytes:
    return (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        f"WARC-Target-URI: {url}\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


LINE = 256 * MiB  # the default of jsonl's max_line_bytes
RECORD = 16 * MiB  # of warc's max_record_bytes
FILE = 64 * MiB  # of text_files' max_file_bytes

HOSTILE = (
    Hostile("a line of JSON beyond the limit", "in.jsonl", json_line, "jsonl", f"unreadable: line over {LINE} bytes", lambda size: LINE * 5 // 4),
    Hostile("a line of JSON within the limit", "in.jsonl", json_line, "jsonl", "too_many_words", lambda size: 4 * size, within=True),
    Hostile("a document that is kept", "in.jsonl", json_line, "jsonl", "", lambda size: 5 * size, within=True, filtered=False),
    Hostile("a line of brackets beyond the limit", "in.jsonl", brackets, "jsonl", f"unreadable: line over {LINE} bytes", lambda size: LINE * 5 // 4),
    Hostile("a text file", "in.txt", text_file, "text_files", f"unreadable: over {FILE} bytes", lambda size: 2 * FILE),
    Hostile("a gzip bomb of zeros", "in.jsonl.gz", bomb(b"\0"), "jsonl", f"unreadable: line over {LINE} bytes", lambda size: LINE * 5 // 4),
    Hostile("a gzip bomb of line ends", "in.jsonl.gz", bomb(b"\n"), "jsonl", "", lambda size: 32 * MiB),
    Hostile("a WARC record of zeros", "in.warc.gz", warc_bomb, "warc", f"unreadable: record over {RECORD} bytes", lambda size: 4 * RECORD, "{kind: extract_html}"),
    Hostile("a WARC record with an HTTP bomb", "in.warc.gz", http_bomb, "warc", f"unreadable: page over {RECORD} bytes", lambda size: 4 * RECORD, "{kind: extract_html}"),
)  # fmt: skip


def size_of(case: Hostile, size: int) -> int:
    """`size`, or less where the case has to stay within a limit."""
    return min(size, 200 * MiB) if case.within else size


def write_case(case: Hostile, folder: Path, size: int) -> Path:
    """The input and its recipe in `folder`; returns the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / case.file, "wb") as out:
        case.write(out, size)
    paths = [str(folder / case.file)]
    if case.source == "text_files":
        (folder / "good.txt").write_text(GOOD)
        paths.append(str(folder / "good.txt"))
    columns = ", columns: {id: id, text: text}" if case.source == "jsonl" else ""
    first = f"      - {case.steps}\n" if case.steps else ""
    second = "      - {kind: gopher_quality}\n" if case.filtered else ""
    (folder / "hostile.yaml").write_text(
        f"name: hostile\ndatasets:\n  docs:\n    from: {{kind: {case.source}, paths: {json.dumps(paths)}{columns}}}\n    steps:\n"
        f"{first}{second}      - {{kind: exact_dedup, partitions: 2}}\n"
        "      - {kind: minhash_dedup, partitions: 2}\n"
    )
    return folder / "hostile.yaml"
