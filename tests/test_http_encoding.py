"""HTTP content encodings undone within a bound, whatever the header says."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pyarrow as pa
import pytest

from pipeline.ingest.http_encoding import decoded
from pipeline.ingest.paths import Defect

PAGE = b"<html><body>" + b"hello world " * 300 + b"</body></html>"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def packed(codec: str, data: bytes) -> bytes:
    return bytes(pa.compress(data, codec=codec, asbytes=True))


@pytest.mark.parametrize(
    ("body", "encodings"),
    [
        (PAGE, ""),
        (PAGE, "identity"),
        (gzip.compress(PAGE), "gzip"),
        (gzip.compress(PAGE), "X-GZip"),
        (gzip.compress(PAGE[:100]) + gzip.compress(PAGE[100:]), "gzip"),
        (gzip.compress(PAGE) + b"junk behind", "gzip"),
        (zlib.compress(PAGE), "deflate"),
        (raw_deflate(PAGE), "deflate"),
        (packed("brotli", PAGE), "br"),
        (packed("zstd", PAGE), "zstd"),
        (packed("brotli", gzip.compress(PAGE)), "gzip, br"),
    ],
)
def test_a_body_loses_its_encodings_last_applied_first(body: bytes, encodings: str) -> None:
    assert decoded(body, encodings, len(PAGE)) == PAGE


@pytest.mark.parametrize(
    ("body", "encodings"),
    [(PAGE, "gzip"), (PAGE, "deflate"), (PAGE, "br"), (PAGE, "zstd"), (PAGE, "utf-8"), (PAGE, "gzip," * 9)],
)
def test_a_body_that_is_not_so_encoded_is_an_error(body: bytes, encodings: str) -> None:
    with pytest.raises(OSError, match=r"."):
        decoded(body, encodings, 1 << 20)


def test_a_gzip_body_that_was_cut_gives_its_beginning() -> None:
    part = decoded(gzip.compress(PAGE)[:-30], "gzip", 1 << 20)
    assert PAGE.startswith(part)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_never_unfolds_beyond_the_bound(encoding: str) -> None:
    zeros = bytes(64 << 20)
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding)
    body = bomb(zeros) if bomb else packed("brotli" if encoding == "br" else encoding, zeros)
    del zeros
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(Defect, match="page over 1048576 bytes"):
        decoded(body, encoding, 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert pa.total_allocated_bytes() == before
