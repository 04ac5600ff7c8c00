"""Plain text, one document per file: books, letters, notes.

A file that is not UTF-8 is dropped with the place of its first bad byte, not repaired: a guessed encoding gives text that
nobody wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from pipeline.ingest.paths import Defect, FileSource, read_whole, utf8
from pipeline.schema import document_id
from pipeline.stage import InputFile, Unreadable


class TextFiles(FileSource):
    """One document per text file, gzip or plain (`kind: text_files`).

    Memory: one batch plus twice `max_file_bytes`. The id is that of the path within the source. Format: UTF-8 without NUL.
    """

    kind = "text_files"

    max_file_bytes: int = Field(default=64 << 20, gt=0)
    """A file beyond this size is dropped."""
    language: str | None = None
    """BCP-47 of all files, where known."""
    licence: str | None = None
    """SPDX id of all files, or `public-domain`, where known."""

    def rows_of(self, file: InputFile, name: str) -> Iterator[Mapping[str, Any] | Unreadable]:
        """The one row of a file."""
        yield {
            "id": document_id(name),
            "origin": name,
            "text": clean_text(read_whole(file, self.max_file_bytes)),
            "language": self.language,
            "licence": self.licence,
        }


def clean_text(data: bytes) -> str:
    """UTF-8 text; raises Defect for what is none, or for a NUL byte, which no text has."""
    at = data.find(b"\0")
    if at >= 0:
        msg = f"NUL byte at {at}"
        raise Defect(msg)
    return utf8(data)
