"""From a captured page to its main text: decode, look whether it is HTML at all, extract with resiliparse.

resiliparse's main-content rules read 20 MB of HTML per second and core; trafilatura finds better text on articles
(word F1 .87 against .80 over 510 pages) at a tenth of the speed. Image descriptions are left out: on 180
reviewed pages F1 rises from .769 to .776.

No clock bounds an extraction, since a clock would drop other rows on another machine: pages are bounded in bytes, and in
an effort that is computed beforehand (kernels/html_effort.py).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import Field
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, detect_mime, map_encoding_to_html5

from pipeline.kernels.html_effort import effort
from pipeline.schema import CONTENT_TYPE, HTML, TEXT, field
from pipeline.stage import Annotate, Compound, Filter, Step

FAILURE = field("extraction_failure", pa.string(), "why no text could be extracted; private to `extract_html`")

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
VAGUE_TYPES = frozenset(
    {"", "text/plain", "text/xml", "application/xml", "application/octet-stream", "unknown/unknown"}
)
"""Media types that servers also give to HTML: the bytes decide."""
TEXTUAL = frozenset({"text/plain", "text/html", "application/xml", "application/xhtml+xml", "application/octet-stream"})
"""What `detect_mime` says of text in any encoding. Everything else has a magic number: PDF, images, archives."""

# Python's name of the larger encoding that pages in the named one are really written in (WHATWG Encoding Standard, 4.2).
LARGER_ENCODINGS = {
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
}
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]{1,40})", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)
_TAG = re.compile(
    r"<(?:!doctype\s+html|html|head|body|title|meta|p|div|span|a|table|h[1-6]|br|ul|ol|article|main)[\s/>]", re.I
)
_SNIFFED = 65_536  # bytes or characters in which a charset, a tag or a magic number must show

MAX_REPLACED = (
    0.01  # share of characters that may be U+FFFD or control characters: our choice, a garbled page has > 0.1
)
_CONTROLS = {code: None for code in range(32) if code not in (9, 10, 11, 12, 13, 27)}


def encoding_named(name: str | None) -> str | None:
    """The Python codec for a charset that a page names; null for names that no browser knows (`utf-7`, `rot13`)."""
    known = map_encoding_to_html5(name, fallback_utf8=False) if name else None
    return LARGER_ENCODINGS.get(known, known) if known else None


def decoded(page: bytes, content_type: str) -> str | None:
    """The page's characters; null when no encoding makes sense of them.

    A byte order mark decides; otherwise bytes that are valid UTF-8 are UTF-8, whatever the page says (servers are often
    wrong, and other text is hardly ever valid UTF-8); then the charsets of the header and the page, then the one that its
    bytes look like. A few broken bytes are replaced.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if page.startswith(mark):
            return _readable(page[len(mark) :].decode(encoding, "replace"))
    in_header, in_page = _CHARSET.search(content_type), _META_CHARSET.search(page[:_SNIFFED])
    named = [
        encoding_named(in_header.group(1) if in_header else None),
        encoding_named(in_page.group(1).decode("ascii") if in_page else None),
    ]
    if named[1] in ("utf-16-le", "utf-16-be"):
        named[1] = "utf-8"  # as the HTML standard has it: ASCII letters that could be read say that it is not UTF-16
    first = next((name for name in named if name), None)
    if first in ("utf-16-le", "utf-16-be", "iso2022_jp"):  # whose bytes can be valid UTF-8 that means something else
        return _readable(page.decode(first, "replace"))

    utf8 = page.decode("utf-8", "replace")
    broken = utf8.count("\ufffd")
    if broken == 0 or broken * 10 <= len(page) - page_ascii(page) - broken:
        return _readable(utf8)
    for name in (*named, encoding_named(detect_encoding(page, from_html_meta=False))):
        if name is None or name == "utf-8":
            continue
        try:
            return _readable(page.decode(name))
        except UnicodeDecodeError:  # the next candidate; there is a last one below
            continue
    return _readable(page.decode(first or "utf-8", "replace"))


def page_ascii(page: bytes) -> int:
    """How many of the bytes are ASCII."""
    return len(page.decode("ascii", "ignore"))


def _readable(text: str) -> str | None:
    """The text without control characters; null when they or U+FFFD make up more than MAX_REPLACED of it."""
    clean = text.translate(_CONTROLS) if any(chr(code) in text for code in _CONTROLS) else text
    bad = clean.count("\ufffd") + len(text) - len(clean)
    return clean if bad <= MAX_REPLACED * len(text) else None


def main_text(page: bytes | None, content_type: str | None, max_html_bytes: int, max_effort: int) -> str:
    """The page's main text, never empty; raises NoText with the reason where there is none."""
    page, content_type = page or b"", content_type or ""
    if len(page) > max_html_bytes:
        raise NoText("html_too_large")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in HTML_TYPES | VAGUE_TYPES or detect_mime(page[:_SNIFFED]) not in TEXTUAL:
        raise NoText("not_html")
    html = decoded(page, content_type)
    if html is None:
        raise NoText("undecodable_html")
    if media_type not in HTML_TYPES and html.strip() and not _TAG.search(html[:_SNIFFED]):
        raise NoText("not_html")
    if effort(html.encode()) > max_effort:
        raise NoText("html_too_nested")
    text = str(extract_plain_text(html, main_content=True, alt_texts=False)).strip()
    if not text:
        raise NoText("no_main_text")
    return text


class NoText(Exception):
    """A page gives no text; the message is the reason for its drop."""


class ExtractHtmlText(Annotate):
    """Turns `html` into the `text` of its main content; where that fails `text` is null and a private column says why.

    Memory: the batch, its texts, and some 10 times `max_html_bytes` while one page is parsed. Source: resiliparse 2.0.
    """

    kind: ClassVar[str] = "extract_html_text"

    engine: Literal["fast"] = "fast"
    """`fast` is resiliparse's main-content extraction."""
    max_html_bytes: Annotated[int, Field(ge=1)] = 8 << 20
    """Larger pages are dropped: Common Crawl cuts at 5 MiB (1 MiB before 2025)."""
    max_effort: Annotated[int, Field(ge=1)] = 10_000_000
    """Units of kernels/html_effort.py, 30 times what real pages need: 2 s of extraction at worst."""
    min_chars: Annotated[int, Field(ge=1)] = 1
    """Shorter texts are dropped as well."""

    def packages(self) -> tuple[str, ...]:
        return ("resiliparse",)

    def needs(self) -> tuple[pa.Field, ...]:
        return (HTML, CONTENT_TYPE)

    def adds(self) -> tuple[pa.Field, ...]:
        return (TEXT, FAILURE)

    def removes(self) -> tuple[str, ...]:
        return (HTML.name, CONTENT_TYPE.name)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        texts: list[str | None] = []
        failures: list[str | None] = []
        # Page by page, as the parser works: a page costs 1,000 times what the loop does.
        for page, content_type in zip(docs.column(HTML.name), docs.column(CONTENT_TYPE.name), strict=True):
            try:
                text = main_text(page.as_py(), content_type.as_py(), self.max_html_bytes, self.max_effort)
                if len(text) < self.min_chars:
                    raise NoText("too_little_main_text")
            except NoText as reason:
                texts.append(None)
                failures.append(str(reason))
            else:
                texts.append(text)
                failures.append(None)
        return {TEXT.name: pa.array(texts, TEXT.type), FAILURE.name: pa.array(failures, FAILURE.type)}


class UsablePages(Filter):
    """Drops the pages that `extract_html_text` could make nothing of, each for its own reason.

    Memory: the batch. Source: ours.
    """

    kind: ClassVar[str] = "usable_pages"

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT, FAILURE)

    def removes(self) -> tuple[str, ...]:
        return (FAILURE.name,)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        return docs.column(FAILURE.name)


class ExtractHtml(Compound):
    """The main text of captured pages: `html` and `content_type` give way to `text`; pages without any are dropped.

    Reasons: html_too_large, not_html, undecodable_html, html_too_nested, no_main_text, too_little_main_text.
    """

    kind: ClassVar[str] = "extract_html"

    engine: Literal["fast"] = "fast"
    """`fast` is resiliparse's main-content extraction."""
    max_html_bytes: Annotated[int, Field(ge=1)] = 8 << 20
    """Larger pages are dropped."""
    max_effort: Annotated[int, Field(ge=1)] = 10_000_000
    """Bound on the time that nesting may cost; 30 times what real pages need."""
    min_chars: Annotated[int, Field(ge=1)] = 1
    """Pages with a shorter text are dropped."""

    def needs(self) -> tuple[pa.Field, ...]:
        return (HTML, CONTENT_TYPE)

    def adds(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def removes(self) -> tuple[str, ...]:
        return (HTML.name, CONTENT_TYPE.name)

    def steps(self) -> list[Step]:
        return [Step("text", ExtractHtmlText(**self.model_dump())), Step("usable", UsablePages())]
