"""Sources over files: globs, ids, mapping of fields, and input that cannot be read."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.ingest.html_files import HtmlFiles
from pipeline.ingest.jsonl import Jsonl
from pipeline.ingest.parquet import Parquet
from pipeline.ingest.paths import FileSource, find, input_file
from pipeline.ingest.text_files import TextFiles
from pipeline.schema import document_id
from pipeline.stage import Unreadable

ROOT = Path(__file__).parents[1]


def read(source: FileSource) -> tuple[list[dict], list[Unreadable]]:
    rows: list[dict] = []
    drops: list[Unreadable] = []
    for part in source.parts():
        json.dumps(dict(part.settings))  # parts travel as JSON
        for batch in source.batches(part):
            if isinstance(batch, Unreadable):
                drops.append(batch)
            else:
                assert batch.schema == source.schema()
                rows += batch.to_pylist()
    return rows, drops


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


# ---------------------------------------------------------------------------------------------------- paths


def test_globs_give_sorted_names_below_their_fixed_root(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a/1.txt", "a/deep/er/3.txt", "a/.hidden.txt", "a/other.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [name for _, name in find(f"{tmp_path}/**/*.txt")] == ["a/1.txt", "a/deep/er/3.txt", "b/2.txt"]
    assert [name for _, name in find(f"{tmp_path}/a/*.txt")] == ["1.txt"]
    assert [name for _, name in find([f"{tmp_path}/a/*.txt", f"{tmp_path}/b/*.txt"])] == ["a/1.txt", "b/2.txt"]
    assert [name for _, name in find([f"{tmp_path}/a/1.txt", f"{tmp_path}/a/*.txt"])] == ["1.txt"]
    assert [name for _, name in find(f"{tmp_path}/a/*")] == ["1.txt", "other.md"]
    ((file, _),) = find(f"{tmp_path}/b/2.txt")
    assert (file.size, file.version) == (7, str((tmp_path / "b/2.txt").stat().st_mtime_ns))


@pytest.mark.parametrize("pattern", ["*.jsonl", "nowhere/*.txt", "missing.txt"])
def test_glob_that_matches_nothing_is_an_error_that_names_it(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"matches no file") as error:
        TextFiles(paths=[f"{tmp_path}/a.txt", f"{tmp_path}/{pattern}"]).parts()
    assert f"{tmp_path}/{pattern}" in str(error.value)


def test_empty_paths_are_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(ValidationError, match="at least one file or glob"):
        TextFiles(paths="")


def test_files_that_cannot_be_opened_are_counted_drops_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "below.txt").symlink_to(tmp_path / "good.txt" / "file")
    os.mkfifo(tmp_path / "pipe.txt")
    rows, drops = read(TextFiles(paths=f"{tmp_path}/*.txt"))
    assert [row["origin"] for row in rows] == ["good.txt"]
    assert {drop.origin: drop.reason for drop in drops} == {
        "below.txt": "unreadable: not a directory",
        "folder.txt": "unreadable: is a directory",
        "gone.txt": "unreadable: no such file or directory",
        "loop.txt": "unreadable: too many levels of symbolic links",
        "pipe.txt": "unreadable: not a regular file",
    }


def test_file_that_vanishes_between_plan_and_run_is_a_counted_drop(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    source = TextFiles(paths=f"{tmp_path}/*.txt")
    (part,) = source.parts()
    (tmp_path / "a.txt").unlink()
    assert list(source.batches(part)) == [Unreadable("a.txt", "unreadable: no such file or directory")]


WITHOUT_RIGHTS = """
import os, sys
from pipeline.ingest.text_files import TextFiles
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
source = TextFiles(paths=sys.argv[1] + "/file/*.txt")
print([drop.reason for part in source.parts() for drop in source.batches(part)])
try:
    TextFiles(paths=sys.argv[1] + "/*/*.txt").parts()
except PermissionError as error:
    print(error.strerror)
"""


def test_forbidden_file_is_a_drop_and_forbidden_folder_stops_the_plan(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    for name, mode in (("file", 0o755), ("folder", 0o000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("secret")
        (tmp_path / name / "a.txt").chmod(0o000)
        (tmp_path / name).chmod(mode)
    program = "import sys; sys.path.insert(0, sys.argv.pop()); import pipeline.ingest.text_files\n" + WITHOUT_RIGHTS
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(ROOT)], capture_output=True, text=True, check=False
    )
    (tmp_path / "folder").chmod(0o755)
    assert done.stdout.splitlines() == [
        "['unreadable: permission denied']",
        f"paths: cannot list folder '{tmp_path}/folder': permission denied",
    ], done.stderr


def test_small_files_share_a_part_and_rows_do_not_depend_on_it(tmp_path: Path) -> None:
    for at in range(10):
        (tmp_path / f"{at}.jsonl").write_bytes(lines({"text": f"a{at}"}, {"text": f"b{at}"}))
    together, apart = Jsonl(paths=f"{tmp_path}/*"), Jsonl(paths=f"{tmp_path}/*", max_part_bytes=1)
    assert (len(together.parts()), len(apart.parts())) == (1, 10)
    assert read(together) == read(apart)


def test_ids_do_not_depend_on_where_the_source_stands(tmp_path: Path) -> None:
    for folder in ("here", "there/and/deeper"):
        (tmp_path / folder / "x").mkdir(parents=True)
        (tmp_path / folder / "x" / "a.jsonl").write_bytes(lines({"text": "one"}))
    first, second = (read(Jsonl(paths=f"{tmp_path}/{folder}/**/*.jsonl")) for folder in ("here", "there/and/deeper"))
    assert first == second
    assert first[0][0]["origin"] == "x/a.jsonl#1"


def test_name_that_is_not_utf8_is_spelled_out(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt"), "wb") as file:
        file.write(b"x")
    rows, _ = read(TextFiles(paths=f"{tmp_path}/*.txt"))
    assert rows[0]["origin"] == "caf\\xe9.txt"


def test_input_file_names_version_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"12345")
    assert input_file(str(tmp_path / "model.bin")).size == 5
    with pytest.raises(FileNotFoundError):
        input_file(str(tmp_path / "none.bin"))


@pytest.mark.slow
def test_globs_and_files_on_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        import s3fs

        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.mkdir("crawl")
        store.pipe("crawl/2024/a.jsonl", lines({"text": "one"}))
        store.pipe("crawl/2024/b.jsonl.gz", gzip.compress(lines({"text": "two"})))
        source = Jsonl(paths="s3://crawl/2024/*")
        (part,) = source.parts()
        assert [file.path for file in part.files] == ["s3://crawl/2024/a.jsonl", "s3://crawl/2024/b.jsonl.gz"]
        assert all(len(file.version) == 32 and file.size for file in part.files)  # an etag
        rows, drops = read(source)
        assert [(row["origin"], row["text"]) for row in rows] == [("a.jsonl#1", "one"), ("b.jsonl.gz#1", "two")]
        assert drops == []
        store.rm("crawl/2024/a.jsonl")
        assert Unreadable("a.jsonl", "unreadable: no such file or directory") in list(source.batches(part))
        with pytest.raises(FileNotFoundError, match="matches no file"):
            Jsonl(paths="s3://crawl/2025/*").parts()
    finally:
        server.stop()


# ---------------------------------------------------------------------------------------------------- jsonl and parquet

RECORDS = [
    {"content": "one", "meta": {"url": "http://a.example/1"}, "time": "2024-01-02T03:04:05Z", "lang": "en", "n": 7},
    {
        "content": "zwei",
        "meta": {"url": "http://a.example/2"},
        "time": "2024-01-02T03:04:05+01:00",
        "lang": None,
        "n": 8,
    },
]
MAPPING = {"text": "content", "origin": "meta.url", "created": "time", "language": "lang"}


def mapped_rows() -> list[dict]:
    times = [datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2024, 1, 2, 2, 4, 5, tzinfo=UTC)]
    return [
        {
            "id": document_id(record["meta"]["url"], record["time"]),
            "origin": record["meta"]["url"],
            "text": record["content"],
            "language": record["lang"],
            "licence": "MIT",
            "created": time,
            "n": str(record["n"]),
        }
        for record, time in zip(RECORDS, times, strict=True)
    ]


@pytest.mark.parametrize("form", ["plain", "gz", "zst"])
def test_jsonl_fields_are_mapped_in_any_compression(tmp_path: Path, form: str) -> None:
    data = lines(*RECORDS)
    if form == "gz":
        data = gzip.compress(data[:50]) + gzip.compress(data[50:])
    elif form == "zst":
        data = pa.compress(data, "zstd", asbytes=True)
    (tmp_path / "a.jsonl").write_bytes(data)
    assert read(Jsonl(paths=f"{tmp_path}/*", columns=MAPPING, extra=["n"], licence="MIT")) == (mapped_rows(), [])


def test_parquet_fields_are_mapped_and_only_they_are_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(RECORDS).append_column("blob", pa.array([b"x" * 100] * 2))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    source = Parquet(paths=f"{tmp_path}/*", columns=MAPPING, extra=["n"], licence="MIT")
    assert read(source) == (mapped_rows(), [])


def test_id_is_mapped_id_else_url_else_file_and_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "x", "key": 5, "url": "http://a.example/", "source": "wiki"}))
    ids = {
        name: read(Jsonl(paths=f"{tmp_path}/*", columns=columns))[0][0]["id"]
        for name, columns in {
            "id": {"id": "key"},
            "url": {"origin": "url"},
            "file": {},
            "source": {"origin": "source"},
        }.items()
    }
    assert ids["id"] == document_id("id", "5")
    assert ids["url"] == document_id("http://a.example/")
    assert ids["file"] == ids["source"] == document_id("a.jsonl", "1")


def test_broken_lines_are_drops_that_name_file_line_and_defect(tmp_path: Path) -> None:
    deep = b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    data = b"\n".join(
        [
            b'{"text": "good"}',
            b'{"text": "cut',
            b'["text"]',
            b'{"text": 5}',
            b'{"content": "no text"}',
            b'{"text": "\xff"}',
            b'{"text": "\\ud800"}',
            deep,
            b"",
            b'{"text": "' + b"x" * 300_000 + b'"}',
            b'{"n": ' + b"1" * 5000 + b"}",
            b'{"text": "last"}',
        ]
    )
    (tmp_path / "a.jsonl").write_bytes(data)
    rows, drops = read(Jsonl(paths=f"{tmp_path}/a.jsonl", max_line_bytes=250_000))
    assert [(row["text"], row["origin"]) for row in rows] == [("good", "a.jsonl#1"), ("last", "a.jsonl#12")]
    assert [(drop.origin, drop.reason.split(" (")[0]) for drop in drops] == [
        ("a.jsonl#2", "unreadable: not JSON"),
        ("a.jsonl#3", "unreadable: a JSON list, not an object"),
        ("a.jsonl#4", "unreadable: field 'text' is a int, not a string"),
        ("a.jsonl#5", "unreadable: no field 'text'"),
        ("a.jsonl#6", "unreadable: not UTF-8 at byte 10 of the line"),
        ("a.jsonl#7", "unreadable: lone surrogate in field 'text'"),
        ("a.jsonl#8", "unreadable: JSON nested too deeply"),
        ("a.jsonl#10", "unreadable: line over 250000 bytes"),
        ("a.jsonl#11", "unreadable: not JSON"),
    ]


@pytest.mark.parametrize("form", ["gz", "zst"])
def test_cut_compressed_file_keeps_its_lines_so_far_and_ends_in_a_drop(tmp_path: Path, form: str) -> None:
    text = lines(*({"text": os.urandom(2000).hex()} for _ in range(600)))
    data = gzip.compress(text) if form == "gz" else pa.compress(text, "zstd", asbytes=True)
    (tmp_path / "a.jsonl").write_bytes(data[: len(data) * 3 // 4])
    rows, drops = read(Jsonl(paths=f"{tmp_path}/*"))
    assert 0 < len(rows) < 600
    assert [(drop.origin, drop.reason) for drop in drops] == [
        (f"a.jsonl#{len(rows) + 1}", "unreadable: truncated compressed data")
    ]


def test_a_gigabyte_on_one_line_is_never_held(tmp_path: Path) -> None:
    program = (
        "import sys, resource; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.ingest.jsonl import Jsonl\n"
        "source = Jsonl(paths=sys.argv[2], max_line_bytes=1 << 20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print([d.reason if hasattr(d, 'reason') else d.num_rows for p in source.parts() for d in source.batches(p)])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * (200 << 20) + b'"}\n{"text": "next"}\n')
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), str(path)], capture_output=True, text=True, check=True
    )
    reasons, grown = done.stdout.splitlines()
    assert reasons == "['unreadable: line over 1048576 bytes', 1]"
    assert int(grown) < 50  # MiB


def test_mapping_of_an_unknown_column_names_the_legal_ones() -> None:
    with pytest.raises(ValidationError, match="cannot be mapped; the columns are id, text, origin"):
        Jsonl(paths="x", columns={"tekst": "content"})
    with pytest.raises(ValidationError, match="not both"):
        Jsonl(paths="x", columns={"text": "a", "html": "b"})
    with pytest.raises(ValidationError, match="already"):
        Jsonl(paths="x", extra=["origin"])


def test_mapped_html_takes_the_place_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"page": "<p>ü</p>"}))
    rows, _ = read(Jsonl(paths=f"{tmp_path}/*", columns={"html": "page"}))
    assert rows[0]["html"] == "<p>ü</p>".encode()
    assert "text" not in rows[0]


def test_damaged_parquet_is_a_drop_and_its_other_row_groups_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": [f"{at} " + os.urandom(3000).hex() for at in range(6)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, compression="snappy", use_dictionary=False)
    offset = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0).data_page_offset
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[offset : offset + 40] = b"\xff" * 40
    (tmp_path / "a.parquet").write_bytes(data)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 is not enough")
    rows, drops = read(Parquet(paths=f"{tmp_path}/*"))
    assert [row["text"].split()[0] for row in rows] == ["0", "1", "4", "5"]
    assert [(drop.origin, drop.reason) for drop in drops] == [
        ("a.parquet#2", "unreadable: damaged row group 1, 2 rows"),
        ("b.parquet", "unreadable: not a Parquet file"),
    ]


def test_parquet_without_the_mapped_column_names_what_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    assert read(Parquet(paths=f"{tmp_path}/*"))[1] == [
        Unreadable("a.parquet", "unreadable: no column 'text' (columns are body)")
    ]


# ---------------------------------------------------------------------------------------------------- text and html


def test_text_files_are_one_document_each_and_broken_ones_say_where(tmp_path: Path) -> None:
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfwith mark")
    (tmp_path / "good.txt").write_bytes("naïve ☃".encode())
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    (tmp_path / "nul.txt").write_bytes(b"a\0b")
    (tmp_path / "packed.txt").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "bomb.txt").write_bytes(gzip.compress(b"\n" * 5_000_000))
    (tmp_path / "cut.txt").write_bytes(gzip.compress(b"packed")[:-6])
    rows, drops = read(TextFiles(paths=f"{tmp_path}/*.txt", max_file_bytes=1_000_000, language="en"))
    assert {row["origin"]: row["text"] for row in rows} == {
        "bom.txt": "with mark",
        "good.txt": "naïve ☃",
        "packed.txt": "packed",
    }
    assert {row["language"] for row in rows} == {"en"}
    assert rows[0]["id"] == document_id("bom.txt")
    assert {drop.origin: drop.reason for drop in drops} == {
        "bomb.txt": "unreadable: over 1000000 bytes",
        "cut.txt": "unreadable: truncated gzip",
        "latin.txt": "unreadable: not UTF-8 at byte 2",
        "nul.txt": "unreadable: NUL byte at 1",
    }


def test_html_files_keep_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<p>\xff\xfe raw</p>")
    (tmp_path / "b.html.gz").write_bytes(gzip.compress(b"<p>packed</p>"))
    rows, drops = read(HtmlFiles(paths=f"{tmp_path}/*", base_url="https://site.example/"))
    assert [(row["origin"], row["html"]) for row in rows] == [
        ("https://site.example/a.html", b"<p>\xff\xfe raw</p>"),
        ("https://site.example/b.html.gz", b"<p>packed</p>"),
    ]
    assert drops == []
