"""The quickstart's real input: the running Python installation as code, web pages and books."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from resiliparse.extract.html2text import extract_plain_text
from warcio.archiveiterator import ArchiveIterator

from pipeline.ingest.paths import Defect
from pipeline.ingest.quickstart.books import QuickstartBooks, prose_share, topics
from pipeline.ingest.quickstart.capture import Page, capture, served
from pipeline.ingest.quickstart.code import QuickstartCode
from pipeline.ingest.quickstart.docstrings import rendered
from pipeline.ingest.quickstart.installation import InstallationSource, cut_evenly, installed
from pipeline.ingest.quickstart.manuals import manual
from pipeline.ingest.quickstart.web import QuickstartWeb
from pipeline.ingest.source_trees import CODE_SCHEMA
from pipeline.ingest.warc import WARC_SCHEMA
from pipeline.schema import document_id
from pipeline.stage import Unreadable

ROOT = Path(__file__).parents[1]
LIBRARY = ("python", "pydantic", "markdown-it-py", "docutils")


def read(source: InstallationSource, parts: int | None = None) -> tuple[list[dict], list[Unreadable]]:
    rows: list[dict] = []
    drops: list[Unreadable] = []
    for part in source.parts()[:parts]:
        json.dumps(dict(part.settings))
        for batch in source.batches(part):
            if isinstance(batch, Unreadable):
                drops.append(batch)
            else:
                assert batch.schema == source.schema()
                rows += batch.to_pylist()
    return rows, drops


# ---------------------------------------------------------------------------------------------------- installation


def test_core_is_the_standard_library_and_our_requirements_without_development_tools() -> None:
    names = {package.name for package in installed("core")}
    assert {"python", "numpy", "pyarrow", "pydantic", "pydantic-core", "docutils"} <= names
    assert not names & {"tokenmill", "pytest", "mypy", "ruff", "hypothesis", "moto", "torch", "megatron-core"}
    assert names < {package.name for package in installed("all")}


def test_licences_come_from_metadata() -> None:
    licences = {package.name: package.licence for package in installed("core")}
    assert licences["python"] == "PSF-2.0"
    assert licences["pydantic"] == "MIT"
    assert licences["pyarrow"] == "Apache-2.0"
    assert licences["warcio"] == "Apache-2.0"


def test_unknown_and_missing_packages_are_refused_with_their_names() -> None:
    with pytest.raises(ValueError, match="not installed: no-such-package"):
        QuickstartCode(distributions=("python", "no_such_package")).parts()
    with pytest.raises(ValidationError, match="'core', 'all' or a list"):
        QuickstartCode(distributions=())


def test_core_without_tokenmill_installed_says_what_to_do() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from importlib import metadata\n"
        "real = metadata.distributions\n"
        "metadata.distributions = lambda: [one for one in real() if one.name != 'tokenmill']\n"
        "from pipeline.ingest.quickstart.code import QuickstartCode\n"
        "try: QuickstartCode().parts()\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(ROOT)], capture_output=True, text=True, check=True)
    assert "pip install -e ." in done.stdout


def test_nothing_of_the_installation_is_imported_to_read_it() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.ingest.quickstart.web import QuickstartWeb\n"
        "from pipeline.ingest.quickstart.code import QuickstartCode\n"
        "from pipeline.ingest.quickstart.books import QuickstartBooks\n"
        "before = set(sys.modules)\n"
        "for source in (QuickstartCode(distributions=('python',), max_megabytes=1), QuickstartBooks(distributions=('python',)),\n"
        "               QuickstartWeb(distributions=('python',), max_megabytes=1)):\n"
        "    for part in source.parts():\n"
        "        for batch in source.batches(part): pass\n"
        "print(sorted(name for name in set(sys.modules) - before if name.split('.')[0] in\n"
        "      ('antigravity', 'this', 'idlelib', 'tkinter', 'turtle', 'test', 'pydoc_data', 'pydoc', 'lib2to3', 'distutils')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_caps_bound_megabytes_and_smaller_choices_are_part_of_larger_ones() -> None:
    def chosen(megabytes: float) -> set[tuple[str, str]]:
        source = QuickstartCode(distributions=LIBRARY, max_megabytes=megabytes)
        parts = source.parts()
        assert sum(file.size for part in parts for file in part.files) <= megabytes * 1e6
        return {(name[0], name[1]) for part in parts for name in part.settings["names"]}

    small, large = chosen(1.0), chosen(4.0)
    assert len(small) > 10
    assert len(small & large) / len(small) > 0.95


@pytest.mark.parametrize(("sizes", "number"), [([5] * 20, 4), ([100, 1, 1, 1], 4), ([1], 8), ([], 3), ([0, 0, 7], 2)])
def test_cutting_evenly_keeps_every_item_once_and_in_order(sizes: list[int], number: int) -> None:
    groups = cut_evenly(sizes, number)
    assert [at for group in groups for at in group] == list(range(len(sizes)))
    assert len(groups) <= number
    if sizes == [5] * 20:
        assert [len(group) for group in groups] == [5, 5, 5, 5]


# ---------------------------------------------------------------------------------------------------- code


def test_code_is_repositories_of_readable_files_with_unique_ids() -> None:
    source = QuickstartCode(distributions=LIBRARY, max_megabytes=6)
    rows, drops = read(source)
    assert source.schema() == CODE_SCHEMA
    repositories = {row["repository"] for row in rows}
    assert {"python/lib", "python/asyncio", "pydantic", "markdown_it", "docutils"} <= repositories
    assert len({row["id"] for row in rows}) == len(rows) > 300
    assert len(rows) + len(drops) == sum(len(part.files) for part in source.parts())
    one = next(row for row in rows if row["repository"] == "markdown_it")
    assert one["id"] == document_id("markdown_it", one["path"])
    assert re.fullmatch(r"markdown_it@[\d.]+:markdown_it/.+", one["origin"])
    assert one["licence"] == "MIT"
    assert not any("__pycache__" in row["path"] or "site-packages" in row["path"] for row in rows)
    assert 8 <= len(source.parts()) <= 12


# ---------------------------------------------------------------------------------------------------- capture and web


def test_captured_pages_are_real_warc_records_and_the_file_is_the_same_every_time() -> None:
    pages = {
        f"/{at}.html": Page(f"<html>{at} ü</html>".encode(), datetime(2024, 1, at + 1, tzinfo=UTC)) for at in range(3)
    }

    def captured() -> bytes:
        out = io.BytesIO()
        with served(pages.get) as port:
            assert capture(port, "docs.localhost", [*pages, "/missing.html"], out) == 4
        return out.getvalue()

    data = captured()
    assert data == captured()
    found = []
    for record in ArchiveIterator(io.BytesIO(data)):
        status = record.http_headers.get_statuscode() if record.rec_type == "response" else None
        body = record.content_stream().read()
        found.append(
            (record.rec_type, record.rec_headers["WARC-Target-URI"], record.rec_headers["WARC-Date"], status, len(body))
        )
    assert found[:2] == [
        ("request", "http://docs.localhost/0.html", "2024-01-01T00:00:00Z", None, 0),
        ("response", "http://docs.localhost/0.html", "2024-01-01T00:00:00Z", "200", 17),
    ]
    assert found[7][3] == "404"


def test_server_is_closed_afterwards() -> None:
    with served(lambda path: None) as port:
        pass
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=2).request("GET", "/")


@pytest.fixture(scope="module")
def site() -> tuple[list[dict], list[Unreadable]]:
    return read(QuickstartWeb(distributions=("python", "pydantic", "docutils"), max_megabytes=8, parts_number=3))


def test_web_pages_come_out_of_a_capture_with_a_drop_per_request(site: tuple[list[dict], list[Unreadable]]) -> None:
    rows, drops = site
    assert len(rows) > 100
    assert len({row["id"] for row in rows}) == len(rows)
    assert {drop.reason for drop in drops} == {"not_a_response"}
    assert len(drops) == len(rows)
    assert all(row["origin"].startswith("http://docs.localhost/") and row["created"] for row in rows)
    assert {row["content_type"] for row in rows} == {"text/html; charset=utf-8"}


def test_main_text_of_a_page_is_its_documentation_without_the_furniture(
    site: tuple[list[dict], list[Unreadable]],
) -> None:
    page = max((row for row in site[0] if "/python/3/" in row["origin"]), key=lambda row: len(row["html"]))
    html = page["html"].decode()
    text = extract_plain_text(html, main_content=True)
    assert "Report a bug" in html
    assert "Report a bug" not in text
    assert "Search the documentation" not in text
    assert len(text) > 0.3 * len(html)
    module = page["origin"].rsplit("/", 1)[1].removesuffix(".html")
    assert text.lstrip().startswith(module)


def test_some_modules_stand_under_a_second_address_with_their_own_id(site: tuple[list[dict], list[Unreadable]]) -> None:
    versioned = f"/python/{sys.version_info[0]}.{sys.version_info[1]}/"
    by_origin = {row["origin"]: row for row in site[0]}
    pairs = [(origin, origin.replace(versioned, "/python/3/")) for origin in by_origin if versioned in origin]
    assert pairs
    for second, first in pairs:
        assert by_origin[first]["html"] == by_origin[second]["html"]
        assert by_origin[first]["id"] != by_origin[second]["id"]


def test_pages_are_the_same_whatever_the_number_of_parts(site: tuple[list[dict], list[Unreadable]]) -> None:
    again, _ = read(QuickstartWeb(distributions=("python", "pydantic", "docutils"), max_megabytes=8, parts_number=7))
    key = lambda row: row["id"]  # noqa: E731
    assert sorted(again, key=key) == sorted(site[0], key=key)


def test_captures_are_kept_where_asked_and_read_back_by_the_warc_source(tmp_path: Path) -> None:
    from pipeline.ingest.warc import Warc

    source = QuickstartWeb(distributions=("markdown-it-py",), keep_warc=str(tmp_path / "warc"), parts_number=2)
    rows, _ = read(source)
    files = sorted((tmp_path / "warc").iterdir())
    assert [file.name for file in files] == ["quickstart_web-00000.warc.gz", "quickstart_web-00001.warc.gz"][
        : len(files)
    ]
    warc = Warc(paths=f"{tmp_path}/warc/*.warc.gz")
    assert warc.schema() == WARC_SCHEMA == source.schema()
    (part,) = warc.parts()
    again = [row for batch in warc.batches(part) if not isinstance(batch, Unreadable) for row in batch.to_pylist()]
    assert again == rows


def test_docstring_styles_become_structure() -> None:
    numpydoc = "Sum *it* with ``fast`` <b>.\n\nParameters\n----------\nx : int\n    The first.\ny : str, optional\n    The second.\n\nExamples\n--------\n>>> f(1) < 2\nTrue\n"
    html = rendered(numpydoc)
    assert "<p>Sum *it* with <code>fast</code> &lt;b&gt;.</p>" in html
    assert "<h4>Parameters</h4>" in html
    assert "<dt>x : int</dt><dd>The first.</dd>" in html
    assert "<dt>y : str, optional</dt><dd>The second.</dd>" in html
    assert "<pre>&gt;&gt;&gt; f(1) &lt; 2\nTrue</pre>" in html
    google = rendered(
        "Do it.\n\n    Args:\n        x: The first,\n            on two lines.\n        y (int): The second.\n"
    )
    assert "<h4>Args</h4>" in google
    assert "<dt>x</dt><dd>The first, on two lines.</dd>" in google
    assert "<dt>y (int)</dt><dd>The second.</dd>" in google
    sphinx = rendered("Do it::\n\n    code <here>\n\nThen:\n\n- one\n- two\n  lines\n\n:param x: the first\n")
    assert "<pre>code &lt;here&gt;</pre>" in sphinx
    assert "<li>two lines</li>" in sphinx
    assert "<li>x – the first</li>" in sphinx


@pytest.mark.parametrize(
    "text", ["", "\n", ">>>", "::", ".. note::", "- ", "Args:", "a\n--", "`" * 50, "x : \n  \t", "\0<script>\f"]
)
def test_odd_docstrings_are_rendered_and_never_become_markup(text: str) -> None:
    assert "<script>" not in rendered(text)


# ---------------------------------------------------------------------------------------------------- books


def test_books_hold_the_language_reference_and_long_prose() -> None:
    rows, drops = read(QuickstartBooks(distributions=("python", "botocore", "docutils"), manuals=3))
    by_origin = {row["origin"]: row for row in rows}
    chapter = by_origin["python:pydoc_data/topics.py#compound"]
    assert chapter["text"].startswith("Compound statements\n")
    assert chapter["licence"] == "PSF-2.0"
    assert chapter["id"] == document_id("python", "pydoc_data/topics.py", "compound")
    manuals = [row for row in rows if row["origin"].endswith("service-2.json.gz")]
    assert len(manuals) == 3
    assert all("Operations" in row["text"] and "<p>" not in row["text"] for row in manuals)
    assert all(len(row["text"]) >= 2000 for row in rows)
    assert {drop.reason for drop in drops} <= {"too_short", "not_prose"}
    assert len({row["id"] for row in rows}) == len(rows)


def test_topics_are_read_as_a_literal_and_never_executed(tmp_path: Path) -> None:
    assert topics("# comment\ntopics = {'a': 'A', 'b': 'B'}\n") == {"a": "A", "b": "B"}
    marker = tmp_path / "executed"
    with pytest.raises(Defect):
        topics(f"topics = {{'a': open({str(marker)!r}, 'w')}}")
    assert not marker.exists()
    with pytest.raises(Defect):
        topics("not python")


def test_prose_share_tells_sentences_from_tables() -> None:
    assert prose_share("This is a sentence of several plain words.\n" * 5) == pytest.approx(1.0, abs=0.03)
    assert prose_share("a;b;c;d;e;f;g 12 13 14 15 16 17\n" * 5) == 0.0
    assert prose_share("") == 0.0


def test_manual_of_something_else_is_a_defect() -> None:
    for data in (b"{}", b"[1]", b"not json", gzip.compress(b"{}")):
        with pytest.raises(Defect):
            manual(data)
