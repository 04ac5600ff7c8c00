"""Records with fields of any name to our columns: what `jsonl` and `parquet` share.

`columns: {text: content, origin: url}` says where each of our columns comes from; a dot reaches into nested records
(`origin: metadata.url`). Fields are never guessed: only `text` is looked for under its own name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pipeline.ingest.paths import Defect, FileSource
from pipeline.schema import (
    CONTENT_TYPE,
    CREATED,
    HTML,
    ID,
    LANGUAGE,
    LICENCE,
    ORIGIN,
    PATH,
    REPOSITORY,
    TEXT,
    document_id,
    field,
    schema_of,
)
from pipeline.stage import SOURCE_COLUMNS

_STRINGS = {one.name: one for one in (TEXT, ORIGIN, LANGUAGE, LICENCE, REPOSITORY, PATH, CONTENT_TYPE)}
_MAPPABLE = ("id", *_STRINGS, "html", "created")


class MappedSource(FileSource):
    """Settings of sources whose records have named fields."""

    columns: dict[str, str] = Field(default_factory=lambda: {"text": "text"})
    """Our column: the field it comes from. `id` takes any value that is unique in the dataset."""
    extra: tuple[str, ...] = ()
    """Fields kept under their own names as text; what is not text is written as JSON."""
    language: str | None = None
    """BCP-47 of records that do not say."""
    licence: str | None = None
    """SPDX id, or `public-domain`, of records that do not say."""

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(columns) - set(_MAPPABLE))
        if unknown:
            msg = f"columns: {', '.join(unknown)} cannot be mapped; the columns are {', '.join(_MAPPABLE)}; others go into `extra`"
            raise ValueError(msg)
        if "html" in columns and "text" in columns:
            msg = "columns: map `text` or `html`, not both"
            raise ValueError(msg)
        return columns if "html" in columns or "text" in columns else {"text": "text", **columns}

    @model_validator(mode="after")
    def _extra_is_new(self) -> MappedSource:
        taken = sorted(set(self.extra) & set(self.schema().names[: -len(self.extra) or None]))
        if taken or len(set(self.extra)) < len(self.extra):
            msg = f"extra: {', '.join(taken) or 'a field'} is there already; map it in `columns`"
            raise ValueError(msg)
        return self

    def schema(self) -> pa.Schema:  # type: ignore[override]
        """The source columns (html and content_type in place of text where html is mapped), those mapped, and `extra`."""
        base = (
            (ID, ORIGIN, HTML, CONTENT_TYPE, LANGUAGE, LICENCE, CREATED) if "html" in self.columns else SOURCE_COLUMNS
        )
        mapped = [_STRINGS[name] for name in self.columns if name in _STRINGS]
        extra = [field(name, pa.large_string(), "field of the input, as text") for name in self.extra]
        return schema_of((*base, *(one for one in mapped if one not in base), *extra))

    def row(self, record: Mapping[str, Any], place: tuple[str, str]) -> Mapping[str, Any]:
        """The row of a record found at (file, record number). Raises Defect when a field is not what its column needs."""
        row: dict[str, Any] = {"language": self.language, "licence": self.licence}
        for column, source in self.columns.items():
            if column in _STRINGS and (value := _string(record, source)) is not None:
                row[column] = value
        if "html" in self.columns:
            row["html"] = _bytes(record, self.columns["html"])
        elif "text" not in row:
            msg = f"no field '{self.columns['text']}'"
            raise Defect(msg)
        created = _value(record, self.columns["created"]) if "created" in self.columns else None
        row["created"] = moment(created)
        row["id"] = self._id(record, row, created, place)
        row.setdefault("origin", "#".join(place))
        for name in self.extra:
            row[name] = _as_text(record.get(name), name)
        return row

    def _id(self, record: Mapping[str, Any], row: Mapping[str, Any], created: Any, place: tuple[str, str]) -> bytes:
        """Of the mapped `id`; else of a mapped URL and its time; else of file and record number."""
        if "id" in self.columns:
            value = _value(record, self.columns["id"])
            if value is None or isinstance(value, (dict, list)):
                msg = f"no id in field '{self.columns['id']}'"
                raise Defect(msg)
            return document_id("id", str(value))
        origin = str(row.get("origin", ""))
        if "://" in origin:
            return document_id(origin, *([str(created)] if created is not None else []))
        return document_id(*place)


def _value(record: Mapping[str, Any], name: str) -> Any:
    if name in record:
        return record[name]
    value: Any = record
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _string(record: Mapping[str, Any], name: str) -> str | None:
    value = _value(record, name)
    if value is None or isinstance(value, str):
        return _encodable(value, name)
    msg = f"field '{name}' is a {type(value).__name__}, not a string"
    raise Defect(msg)


def _bytes(record: Mapping[str, Any], name: str) -> bytes:
    value = _value(record, name)
    if isinstance(value, bytes):
        return value
    text = _string(record, name)
    if text is None:
        msg = f"no field '{name}'"
        raise Defect(msg)
    return text.encode("utf-8")


def _encodable(value: str | None, name: str) -> str | None:
    """JSON can spell half a surrogate pair, which is no character and cannot be stored as UTF-8."""
    try:
        if value is not None and not value.isascii():
            value.encode("utf-8")
    except UnicodeEncodeError as error:
        msg = f"lone surrogate in field '{name}'"
        raise Defect(msg) from error
    return value


def _as_text(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return _encodable(value, name)
    return json.dumps(value, ensure_ascii=True, sort_keys=True, default=str)


def moment(value: Any) -> datetime | None:
    """A time in UTC from ISO 8601 text, epoch seconds, or a date; null when it is none of them."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        elif isinstance(value, bool):
            return None
        elif isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC) if math.isfinite(value) else None
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
