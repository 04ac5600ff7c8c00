"""HTML pages on a disk, one document per file, gzip or plain: what `wget -r` or a site generator leaves.

The pages stay bytes, as in `warc`. No server named a content type and no crawler a time, so both columns are null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipeline.ingest.paths import FileSource, read_whole
from pipeline.ingest.warc import WARC_SCHEMA
from pipeline.schema import document_id
from pipeline.stage import InputFile, Unreadable


class HtmlFiles(FileSource):
    """One page per file (`kind: html_files`).

    Memory: one batch plus twice `max_file_bytes`. The id is that of the path within the source. Format: any HTML; extraction
    finds out its encoding.
    """

    kind = "html_files"

    max_file_bytes: int = Field(default=16 << 20, gt=0)
    """A page beyond this size, before or after gunzipping, is dropped."""
    base_url: str = ""
    """Put before each file's path to make its origin, for example `https://example.org/`."""

    def schema(self) -> pa.Schema:  # type: ignore[override]
        """id, origin, html, content_type, created: those of `warc`."""
        return WARC_SCHEMA

    def rows_of(self, file: InputFile, name: str) -> Iterator[Mapping[str, Any] | Unreadable]:
        """The one row of a file."""
        yield {"id": document_id(name), "origin": self.base_url + name, "html": read_whole(file, self.max_file_bytes)}
