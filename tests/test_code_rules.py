"""File rules for source code: the kernels against plain Python and `re`, and every rule on a file that breaks it."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.code.languages import LANGUAGES, CodeLanguage, commented, languages_of
from pipeline.code.rules import CodeRules
from pipeline.kernels import code_stats, spans

BASE64 = re.compile(r"[a-zA-Z0-9+/\n=]{64,}")
HEX = re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?: |\b\s*)){8,}", re.ASCII)
ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")


def _lines(text: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def _twin(text: str) -> list[int]:
    lines = _lines(text)
    encoded = [[len(match[0]) for match in pattern.finditer(text)] for pattern in (BASE64, HEX, ESCAPES)]
    return [
        len(text),
        len(lines),
        len(text) - text.count("\n") - text.count("\r"),
        max(map(len, lines), default=0),
        sum(char.isalpha() for char in text),
        sum(char.isalnum() for char in text),
        sum(byte > 32 for byte in text.encode()),
        max((length for one in encoded for length in one), default=0),
        max(map(sum, encoded)),
    ]


def _stats(column: pa.Array) -> list[list[int]]:
    return code_stats.file_stats(*spans.buffers(column), code_stats.letter_table()).tolist()


_pieces = st.sampled_from(
    [
        *("41 ", "0x42 ", "\\x43", "4a  ", "de\n", "ff", "  ", "\r\n", "\n", "\r", "g", "_", "\\", "x", "0", "-", "\t"),
        *("é", "٣", "中", "𝒳", "\0", "\ud7ff", "\x0b", "=", "+", "/"),
        *("QUJD" * 16, "a" * 63, "\\u00e9", "\\u0041" * 7, "\\u12"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(_pieces, max_size=40).map("".join), min_size=1, max_size=6))
def test_file_stats_agree_with_plain_python_on_generated_text_and_slices(texts: list[str]) -> None:
    column = pa.array(["junk é", None, *texts, "end"], pa.large_string()).slice(2, len(texts))
    assert _stats(column) == [_twin(text) for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_file_stats_agree_with_plain_python_on_any_unicode(texts: list[str]) -> None:
    assert _stats(pa.array(texts, pa.large_string())) == [_twin(text) for text in texts]


def test_hex_matches_agree_with_re_where_pairs_are_dense() -> None:
    random = np.random.default_rng(4)
    pieces = np.array(["41 ", "4f  ", "Aa\n", "\\x43", "0x42 ", "0xfg ", "42", " ", "\t\n", "41 " * 6, "\\xff" * 6])
    weights = np.array([8, 1, 2, 4, 2, 0.1, 0.3, 0.3, 0.3, 2, 2])
    texts = ["".join(random.choice(pieces, 60, p=weights / weights.sum())) for _ in range(400)]
    totals = [sum(len(match[0]) for match in HEX.finditer(text)) for text in texts]
    assert sum(total > 0 for total in totals) > 300
    for text, total in zip(texts, totals, strict=True):
        raw = np.frombuffer(text.encode(), np.uint8)
        longest = max((len(match[0]) for match in HEX.finditer(text)), default=0)
        assert code_stats.hex_matches(raw) == (longest, total), text


def test_file_stats_agree_with_plain_python_on_the_standard_library() -> None:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:25]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    assert len(texts) > 5
    assert _stats(pa.array(texts, pa.large_string())) == [_twin(text) for text in texts]


def test_hex_match_ends_at_a_double_space_once_it_is_long_enough_as_in_re() -> None:
    text = "41 " * 8 + " 42 43" + " 44" * 8
    assert [len(match[0]) for match in HEX.finditer(text)] == [24, 29]
    assert _stats(pa.array([text], pa.large_string()))[0][code_stats.ENCODED_TOTAL] == 24 + 29


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("aB\n\r.-é", max_size=60), min_size=1, max_size=4), st.integers(0, 6))
def test_ends_of_line_and_search_agree_with_plain_python(texts: list[str], number: int) -> None:
    data, offsets = spans.buffers(pa.array(texts, pa.large_string()))
    ends = code_stats.ends_of_line(data, offsets, number)
    needles = [b"ab", b"b\n-"]
    found = code_stats.holds_any(
        data,
        np.ascontiguousarray(offsets[:-1]),
        ends,
        np.frombuffer(b"".join(needles), np.uint8),
        np.array([0, 2, 5]),
        True,
    )
    for row, text in enumerate(texts):
        head = "".join(re.findall(r"[^\r\n]*(?:\r\n|\r|\n|$)", text)[:number])
        assert bytes(data[offsets[row] : ends[row]]).decode() == head
        assert bool(found[row]) == any(needle in head.lower().encode() for needle in needles)


def _batch(*files: tuple[str | None, str]) -> pa.RecordBatch:
    texts, paths = zip(*files, strict=True)
    path = pa.array(paths, pa.large_string())
    return pa.record_batch({"text": pa.array(texts, pa.large_string()), "path": path, "language": languages_of(path)})


GOOD = "def area(width, height):\n    return width * height\n\n\nprint(area(3, 4))\n"
LONG = "x" * 60 + " = " + "word " * 100


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (GOOD, "a/area.py", None),
        (None, "a.py", "empty_file"),
        ("", "a.py", "empty_file"),
        (" \n\t\r\n", "a.py", "empty_file"),
        ("word " * 201, "a.py", "line_too_long"),
        ("word " * 200 + "\nx\n" * 20, "a.py", None),
        (("some words " * 10).strip() + "\n", "a.py", "average_line_too_long"),
        (("some words " * 10).strip() + "\n", "a.md", None),
        ("word " * 20_001, "a.html", "line_too_long"),
        ("word " * 2_001, "a.html", None),
        ("1, 2, 3, 4\n" * 20, "a.py", "too_few_alphabetic"),
        ("12 ; 34\n" * 20, "a.s", None),
        ("# Auto-Generated by tool\n" + GOOD, "a.py", "autogenerated"),
        ("\n" * 5 + "# auto-generated by tool\n" + GOOD, "a.py", None),
        ("x = '''\n" + "QUJDabcd" * 12 + "\n" + ("QUJDabcd" * 12 + "\n") * 20 + "'''\n", "a.py", "encoded_data"),
        ("word\n" * 100_001, "a.py", "too_many_lines"),
        ("word one\n" * 513, "a.json", "data_file_too_many_lines"),
        ("word one\n" * 513, "a.py", None),
        ("some words\n", "doc/essay.txt", "text_not_documentation"),
        ("some words\n", "doc/README.txt", None),
        ("some words\n", "requirements-dev.txt", None),
        (GOOD, "d/" * 65 + "a.py", "path_too_deep"),
        ("words\n" * 1_700_000, "a.py", "too_many_bytes"),
    ],
)
def test_stack_v2_names_the_defect(text: str | None, path: str, reason: str | None) -> None:
    assert CodeRules(preset="stack_v2").reasons(_batch((GOOD, "first.py"), (text, path))).to_pylist() == [None, reason]


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (GOOD, "a.py", None),
        ("# automatically generated\n" + GOOD, "a.py", None),
        ("some words " * 10, "a.md", "average_line_too_long"),
        ('<?xml version="1.0"?>\n<a>words</a>\n' * 3, "a.xml", "xml_file"),
        ('<?xml version="1.0"?>\n<a>words</a>\n' * 3, "a.xslt", None),
        ("<p>" + "visible words\n" * 10 + "</p>", "a.html", None),
        ("<p>few</p>\n<script>\n" + "var hidden = 1;\n" * 30 + "</script>\n", "a.html", "too_little_visible_text"),
        ('{"a": "some letters"}', "a.json", "data_file_too_small"),
        ('{"a": "some letters"}\n' * 300, "a.json", "data_file_too_large"),
        ('{"a": "some letters"}\n' * 30, "a.yaml", None),
    ],
)
def test_starcoder_names_the_defect(text: str, path: str, reason: str | None) -> None:
    assert CodeRules(preset="starcoder").reasons(_batch((text, path))).to_pylist() == [reason]


def test_given_limits_replace_those_of_the_preset_and_zero_is_a_value() -> None:
    docs = _batch(("1, 2, 3, 4\n" * 20, "a.py"), (GOOD, "b.py"))
    assert CodeRules(min_alphabetic_fraction=0.0).reasons(docs).to_pylist() == [None, None]
    assert CodeRules(max_line_chars=20).reasons(docs).to_pylist() == ["too_few_alphabetic", "line_too_long"]


def test_reasons_are_the_same_however_the_batch_is_cut() -> None:
    files = [(GOOD * i, f"f{i}.py") for i in range(4)] + [(LONG * i, f"g{i}.md") for i in range(30)]
    docs = _batch(*files)
    whole = CodeRules().reasons(docs).to_pylist()
    cut = [reason for i in range(0, docs.num_rows, 7) for reason in CodeRules().reasons(docs.slice(i, 7)).to_pylist()]
    assert whole == cut
    assert CodeRules().reasons(docs.slice(0, 0)).to_pylist() == []


def test_html_text_counts_what_stands_outside_tags_comments_scripts_and_styles() -> None:
    pages = [
        "<p>ab é</p>",
        "<!-- no > no -->x",
        "<script>if (a<b) {}</SCRIPT >y",
        "<style>p{}</style> z  z",
        "<",
        "<!--",
        "",
    ]
    data, offsets = spans.buffers(pa.array(pages, pa.large_string()))
    starts, stops = np.ascontiguousarray(offsets[:-1]), np.ascontiguousarray(offsets[1:])
    assert code_stats.html_text_chars(data, starts, stops).tolist() == [4, 1, 1, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("pkg/mod.py", "Python"),
        ("MOD.PY", "Python"),
        ("src/a.h", "C"),
        ("a.tar.cpp", "C++"),
        ("Makefile", "Makefile"),
        ("sub/Dockerfile", "Dockerfile"),
        ("go.mod", "Go Module"),
        ("cmake/CMakeLists.txt", "CMake"),
        ("notes.txt", "Text"),
        ("py", None),
        ("a.unknown", None),
        ("dir.py/file", None),
        ("", None),
        (None, None),
    ],
)
def test_language_comes_from_the_file_name_then_the_extension(path: str | None, language: str | None) -> None:
    docs = pa.record_batch({"path": pa.array(["x.py", path], pa.large_string())})
    found = CodeLanguage().columns(docs)["language"]
    assert found.type == pa.string()
    assert found.to_pylist() == ["Python", language]


def test_no_extension_or_file_name_belongs_to_two_languages() -> None:
    extensions = [ext for one in LANGUAGES.values() for ext in one.extensions.split()]
    names = [name for one in LANGUAGES.values() for name in one.file_names.split()]
    assert len(extensions) == len({*extensions})
    assert len(names) == len({*names})
    assert all(name == name.lower() for name in extensions + names)


def test_comments_look_as_their_language_has_them() -> None:
    assert commented("a/b.py", "Python") == "# a/b.py"
    assert commented("a/b.css", "CSS") == "/* a/b.css */"
    assert commented("a", None) == commented("a", "Klingon") == "# a"
