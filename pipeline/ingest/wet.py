"""WET files: text that a crawl has already extracted, one conversion record per page.

The text is Common Crawl's plain extraction (menus and all): quicker than `warc`, and worse. Everything else is as in
`warc.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from pipeline.ingest.paths import Defect, FileSource, open_file, utf8
from pipeline.ingest.warc import capture_time
from pipeline.ingest.warc_records import Broken, Record, records
from pipeline.schema import document_id
from pipeline.stage import InputFile, Unreadable


class Wet(FileSource):
    """Plain text of WET files, gzip or plain (`kind: wet`).

    Memory: one batch plus four times `max_record_bytes`. Ids are those of (URL, capture time), as in `warc`. Format:
    ISO 28500, conversion records.
    """

    kind = "wet"

    max_record_bytes: int = Field(default=16 << 20, ge=1 << 10)
    """Records longer than this are dropped unread."""

    def rows_of(self, file: InputFile, name: str) -> Iterator[Mapping[str, Any] | Unreadable]:
        """One row per conversion record; one `Unreadable` per other record."""
        with open_file(file) as stream:
            for record in records(stream, self.max_record_bytes):
                place = f"{name}#{record.place}"
                if isinstance(record, Broken):
                    yield Unreadable(place, f"unreadable: {record.what}")
                else:
                    yield _row(record, place)


def _row(record: Record, place: str) -> Mapping[str, Any] | Unreadable:
    if record.type != "conversion":
        return Unreadable(f"{place} {record.uri}".rstrip(), "not_a_conversion", len(record.block))
    if not record.uri:
        return Unreadable(place, "unreadable: no WARC-Target-URI", len(record.block))
    try:
        text = utf8(record.block)
    except Defect as defect:
        return Unreadable(f"{place} {record.uri}", f"unreadable: {defect}", len(record.block))
    return {
        "id": document_id(record.uri, record.date or place),
        "origin": record.uri,
        "text": text,
        "created": capture_time(record.date),
    }
