"""WARC, ARC and WET: every record met is a row or a drop with a reason, and damage stays where it is."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.ingest.paths import FileSource
from pipeline.ingest.warc import WARC_SCHEMA, Warc
from pipeline.ingest.warc_records import Record, records
from pipeline.ingest.wet import Wet
from pipeline.schema import document_id
from pipeline.stage import Unreadable

SHARED = Path(__file__).parents[2] / "shared" / "data" / "warc"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="real WARC samples are not beside the repository")
DATE = "2024-05-18T01:58:10Z"


def read(source: FileSource) -> tuple[list[dict], list[Unreadable]]:
    rows: list[dict] = []
    drops: list[Unreadable] = []
    for part in source.parts():
        for batch in source.batches(part):
            if isinstance(batch, Unreadable):
                drops.append(batch)
            else:
                assert batch.schema == source.schema()
                rows += batch.to_pylist()
    return rows, drops


def record(
    url: str, body: bytes, *, status: str = "200 OK", kind: str = "response", headers: tuple = (), date: str = DATE
) -> bytes:
    out = io.BytesIO()
    fields = [("Content-Type", "text/html; charset=utf-8"), *headers]
    http = (
        StatusAndHeaders(status, fields, protocol="HTTP/1.1")
        if kind == "response"
        else StatusAndHeaders("GET / HTTP/1.1", [], is_http_request=True)
    )
    writer = WARCWriter(out, gzip=True)
    writer.write_record(
        writer.create_warc_record(
            url, kind, io.BytesIO(body), len(body), warc_headers_dict={"WARC-Date": date}, http_headers=http
        )
    )
    return out.getvalue()


def plain(member: bytes) -> bytes:
    return gzip.decompress(member)


def pages(count: int) -> list[bytes]:
    rng = random.Random(7)
    return [
        record(f"http://site.example/{at}", b"<html><p>" + rng.randbytes(300).hex().encode() + b"</p></html>")
        for at in range(count)
    ]


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_html_responses_become_rows_and_every_other_record_a_drop_with_its_reason(tmp_path: Path) -> None:
    image = plain(record("http://a.example/x.png", b"\x89PNG")).replace(
        b"text/html; charset=utf-8", b"image/png; a=bcdefghijkl"
    )
    data = (
        record("http://a.example/", b"<html>page</html>")
        + record("http://a.example/", b"", kind="request")
        + record("http://a.example/gone", b"<html>gone</html>", status="404 Not Found")
        + gzip.compress(image)
    )
    source = Warc(paths=write(tmp_path / "crawl.warc.gz", data))
    rows, drops = read(source)
    assert source.schema() == WARC_SCHEMA
    assert rows == [
        {
            "id": document_id("http://a.example/", DATE),
            "origin": "http://a.example/",
            "html": b"<html>page</html>",
            "content_type": "text/html; charset=utf-8",
            "created": datetime(2024, 5, 18, 1, 58, 10, tzinfo=UTC),
        }
    ]
    assert [drop.reason for drop in drops] == ["not_a_response", "http_status_not_ok", "not_html"]
    assert drops[1].origin.startswith("crawl.warc.gz#")
    assert drops[1].origin.endswith(" http://a.example/gone")


def test_same_records_give_the_same_ids_as_gzip_per_record_as_a_whole_and_plain(tmp_path: Path) -> None:
    members = pages(5)
    text = b"".join(map(plain, members))
    forms = {"a.warc.gz": b"".join(members), "b.warc.gz": gzip.compress(text), "c.warc": text}
    ids = {
        name: [row["id"] for row in read(Warc(paths=write(tmp_path / name, data)))[0]] for name, data in forms.items()
    }
    assert ids["a.warc.gz"] == ids["b.warc.gz"] == ids["c.warc"]
    assert len(set(ids["c.warc"])) == 5


@pytest.mark.parametrize("inflated", [False, True])
def test_places_of_records_are_unique_offsets(tmp_path: Path, inflated: bool) -> None:
    data = b"".join(map(plain, pages(4)))
    found = list(records(io.BytesIO(gzip.compress(data) if inflated else data), 1 << 20))
    assert found[0].place == "0"
    assert len({one.place for one in found}) == 4


def test_transfer_and_content_encodings_are_undone(tmp_path: Path) -> None:
    page = b"<html>" + b"word " * 200 + b"</html>"
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
    data = (
        record("http://a.example/1", chunked, headers=(("Transfer-Encoding", "chunked"),))
        + record("http://a.example/2", gzip.compress(page), headers=(("Content-Encoding", "gzip"),))
        + record("http://a.example/3", zlib.compress(page), headers=(("Content-Encoding", "deflate"),))
        + record("http://a.example/4", gzip.compress(page), headers=(("Content-Encoding", "x-gzip"),))
        + record(
            "http://a.example/5", page, headers=(("Content-Encoding", "br"),)
        )  # decoded by the crawler, header kept
        + record("http://a.example/6", page, headers=(("Transfer-Encoding", "chunked"),))
        + record("http://a.example/7", b"\x00\x01\x02", headers=(("Content-Encoding", "br"),))
    )
    rows, drops = read(Warc(paths=write(tmp_path / "x.warc.gz", data)))
    assert [row["html"] for row in rows] == [page] * 6
    assert [drop.reason for drop in drops] == ["unreadable: broken HTTP encoding"]


def test_truncated_gzip_member_is_one_drop_and_the_records_before_it_stay(tmp_path: Path) -> None:
    members = pages(4)
    rows, drops = read(Warc(paths=write(tmp_path / "x.warc.gz", b"".join(members)[:-40])))
    assert len(rows) == 3
    place = sum(map(len, members[:3]))
    assert drops == [Unreadable(f"x.warc.gz#{place}", "unreadable: truncated gzip member")]


def test_one_flipped_byte_costs_at_most_one_record(tmp_path: Path) -> None:
    members = pages(6)
    data = b"".join(members)
    whole = {one.uri for one in records(io.BytesIO(data), 1 << 20) if isinstance(one, Record)}
    rng = random.Random(11)
    lost = Counter()
    for _ in range(300):
        at = rng.randrange(len(data))
        damaged = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        found = list(records(io.BytesIO(damaged), 1 << 20))
        good = {one.uri for one in found if isinstance(one, Record)} & whole
        lost[len(whole) - len(good)] += 1
        if len(good) < len(whole):
            assert len(found) >= len(whole)
    assert set(lost) <= {0, 1}
    assert lost[1] > 200


def test_any_damage_ends_without_an_exception() -> None:
    rng = random.Random(5)
    text = b"".join(map(plain, pages(4)))
    for data in (text, gzip.compress(text), b"".join(pages(4))):
        for _ in range(80):
            broken = bytearray(data)
            for _ in range(rng.randrange(1, 30)):
                at = rng.randrange(len(broken))
                broken[at : at + rng.randrange(20)] = rng.randbytes(rng.randrange(20))
            found = list(records(io.BytesIO(bytes(broken[: rng.randrange(1, len(broken))])), 4096))
            assert found


@pytest.mark.parametrize("error", [-7, 9, 400])
@pytest.mark.parametrize("compressed", [False, True])
def test_wrong_content_length_costs_its_own_record_only(tmp_path: Path, error: int, compressed: bool) -> None:
    texts = [plain(one) for one in pages(4)]
    length = int(texts[1].split(b"Content-Length: ")[1].split(b"\r\n")[0])
    texts[1] = texts[1].replace(b"Content-Length: %d\r\n" % length, b"Content-Length: %d\r\n" % (length + error), 1)
    data = b"".join(gzip.compress(one) if compressed else one for one in texts)
    rows, drops = read(Warc(paths=write(tmp_path / "x.warc", data)))
    assert [row["origin"] for row in rows] == [f"http://site.example/{at}" for at in (0, 2, 3)]
    assert len(drops) == 1
    assert drops[0].reason in ("unreadable: wrong Content-Length", "unreadable: record shorter than its Content-Length")


@pytest.mark.parametrize("compressed", [False, True])
def test_record_over_the_limit_is_dropped_and_the_next_is_read(tmp_path: Path, compressed: bool) -> None:
    members = [*pages(1), record("http://big.example/", b"<html>" + b"x" * 9000), *pages(2)[1:]]
    data = b"".join(members) if compressed else b"".join(map(plain, members))
    rows, drops = read(Warc(paths=write(tmp_path / "x.warc", data), max_record_bytes=4096))
    assert [row["origin"] for row in rows] == ["http://site.example/0", "http://site.example/1"]
    assert [drop.reason for drop in drops] == ["unreadable: record over 4096 bytes"]


def test_gzip_bombs_are_dropped_and_reading_goes_on(tmp_path: Path) -> None:
    zeros = b"\0" * (24 << 20)
    header = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://bomb.example/\r\nContent-Length: %d\r\n\r\n"
    claimed, silent = gzip.compress(header % len(zeros) + zeros), gzip.compress(header % 10 + zeros)
    inner = record("http://bomb.example/inner", gzip.compress(zeros), headers=(("Content-Encoding", "gzip"),))
    data = claimed + silent + inner + pages(1)[0]
    rows, drops = read(Warc(paths=write(tmp_path / "x.warc.gz", data), max_record_bytes=1 << 20))
    assert [row["origin"] for row in rows] == ["http://site.example/0"]
    assert [drop.reason for drop in drops] == [
        "unreadable: record over 1048576 bytes",
        "unreadable: wrong Content-Length",
        "unreadable: page over 1048576 bytes",
    ]


def test_garbage_and_padding_between_gzip_members(tmp_path: Path) -> None:
    one, two, three = pages(3)
    rows, drops = read(
        Warc(paths=write(tmp_path / "x.warc.gz", one + b"\0" * 512 + two + b"<<garbage>>" + three + b"\0" * 99))
    )
    assert len(rows) == 3
    assert [drop.reason for drop in drops] == ["unreadable: bytes that are no gzip member"]


def test_headers_without_end_without_length_and_empty_files(tmp_path: Path) -> None:
    good = plain(pages(1)[0])
    data = b"WARC/1.0\r\nWARC-Type: response\r\n\r\n" + good + b"WARC/1.0\r\nX: " + b"a" * 100_000
    rows, drops = read(Warc(paths=write(tmp_path / "x.warc", data)))
    assert len(rows) == 1
    assert [drop.reason for drop in drops] == [
        "unreadable: record without a Content-Length",
        "unreadable: record header without an end",
    ]
    assert read(Warc(paths=write(tmp_path / "empty.warc.gz", b"")))[1] == [
        Unreadable("empty.warc.gz#0", "unreadable: empty file")
    ]


def test_response_without_url_or_with_a_broken_http_header(tmp_path: Path) -> None:
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\n"
    nameless = head + b"Content-Length: 19\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\r\n\r\n"
    broken = head + b"WARC-Target-URI: http://a.example/\r\nContent-Length: 7\r\n\r\ngarbage\r\n\r\n"
    _, drops = read(Warc(paths=write(tmp_path / "x.warc", nameless + broken)))
    assert [drop.reason for drop in drops] == ["unreadable: no WARC-Target-URI", "unreadable: bad HTTP header"]


def test_arc_versions_one_and_two() -> None:
    http = b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n<html>x</html>"
    one = b"http://a.example/a b 10.0.0.1 20140216050221 text/html %d\n%s\n" % (len(http), http)
    two = b"http://a.example/2 10.0.0.1 20140216050222 text/html 200 SUM - 123 file.arc %d\n%s\n" % (len(http), http)
    start = b"filedesc://x.arc 0.0.0.0 20140216050221 text/plain 3\n1 0\n"
    found = list(records(io.BytesIO(start + one + two), 1 << 20))
    assert [(one.type, one.uri, one.date) for one in found if isinstance(one, Record)] == [
        ("other", "filedesc://x.arc", "2014-02-16T05:02:21Z"),
        ("response", "http://a.example/a b", "2014-02-16T05:02:21Z"),
        ("response", "http://a.example/2", "2014-02-16T05:02:22Z"),
    ]


def test_wet_conversion_records_become_text(tmp_path: Path) -> None:
    head = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a.example/\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
    good = head + b"Content-Length: 6\r\n\r\nna\xc3\xafve\r\n\r\n"
    bad = head + b"Content-Length: 3\r\n\r\na\xffb\r\n\r\n"
    info = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 1\r\n\r\nx\r\n\r\n"
    rows, drops = read(Wet(paths=write(tmp_path / "x.wet", info + good + bad)))
    assert [(row["origin"], row["text"], row["id"]) for row in rows] == [
        ("http://a.example/", "naïve", document_id("http://a.example/", DATE))
    ]
    assert [drop.reason for drop in drops] == ["not_a_conversion", "unreadable: not UTF-8 at byte 1"]


@needs_shared
def test_every_real_file_ends_and_accounts_for_its_records() -> None:
    rows, reasons = {}, {}
    for file in sorted(SHARED.glob("*/*")):
        if file.name != "LICENSE":
            got, drops = read(Warc(paths=str(file)))
            name = file.name.removeprefix("test__data__")
            rows[name], reasons[name] = len(got), Counter(drop.reason for drop in drops)
    assert rows["sample-0000.warc.gz"] == 22
    assert rows["whirlwind.warc"] == rows["whirlwind.warc.gz"] == 1
    assert rows["example.arc"] == rows["example.arc.gz"] == rows["example.warc"] == rows["example.warc.gz"] == 1
    assert rows["example-iana.org-chunked.warc"] == 1
    assert rows["example-wrong-chunks.warc.gz"] == 1  # one record across two gzip members
    assert rows["example-wget-bad-target-uri.warc.gz"] == 1
    assert reasons["example-trunc.warc"] == {"not_a_response": 3, "unreadable: wrong Content-Length": 1}
    assert reasons["bad.arc"] == {"unreadable: bad record header": 1, "unreadable: wrong Content-Length": 1}
    assert reasons["post-test.warc.gz"] == {"not_html": 3, "not_a_response": 3}


@needs_shared
def test_real_crawl_pages_are_byte_for_byte_what_was_captured() -> None:
    pages_by_url = {}
    index = (SHARED / "wcxb-dev-sample-index.tsv").read_text(encoding="utf-8").splitlines()
    rows, drops = read(Warc(paths=str(SHARED / "wcxb-dev-sample-00000.warc.gz")))
    assert (len(rows), [drop.reason for drop in drops]) == (180, ["not_a_response"])
    pages_by_url = {row["origin"]: row["html"] for row in rows}
    web = SHARED.parent / "web" / "wcxb-dev-sample" / "html"
    checked = 0
    for line in index:
        url = next((cell for cell in line.split("\t") if cell in pages_by_url), None)
        name = next((cell.split("/")[-1] for cell in line.split("\t") if cell.endswith((".html", ".html.gz"))), None)
        if url and name and (web / name.removesuffix(".gz")).with_suffix(".html.gz").exists():
            page = gzip.decompress((web / name.removesuffix(".gz")).with_suffix(".html.gz").read_bytes())
            assert pages_by_url[url] == page
            checked += 1
    assert checked >= 150


@needs_shared
def test_real_wet_file() -> None:
    folder = SHARED / "commoncrawl+whirlwind-python"
    texts = {name: read(Wet(paths=str(folder / name)))[0] for name in ("whirlwind.warc.wet", "whirlwind.warc.wet.gz")}
    (first,), (second,) = texts.values()
    assert first == second
    assert first["origin"] == "https://an.wikipedia.org/wiki/Escopete"
    assert len(first["text"].encode()) == 4456


def test_batches_keep_the_declared_columns_when_nothing_is_readable(tmp_path: Path) -> None:
    rows, drops = read(Warc(paths=write(tmp_path / "x.warc", b"no warc at all")))
    assert rows == []
    assert drops == [Unreadable("x.warc#0", "unreadable: bad record header")]
    assert isinstance(Warc(paths="x").schema(), pa.Schema)
