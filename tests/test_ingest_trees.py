"""Folders of source code: repositories, paths, licences, and what is no source code."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ingest.licences import spdx_of_metadata, spdx_of_name
from pipeline.ingest.source_trees import CODE_SCHEMA, SourceTrees
from pipeline.schema import document_id
from pipeline.stage import Unreadable


def read(source: SourceTrees) -> tuple[list[dict], dict[str, str]]:
    rows: list[dict] = []
    drops: dict[str, str] = {}
    for part in source.parts():
        for batch in source.batches(part):
            if isinstance(batch, Unreadable):
                assert batch.origin not in drops
                drops[batch.origin] = batch.reason
            else:
                assert batch.schema == CODE_SCHEMA
                rows += batch.to_pylist()
    return rows, drops


@pytest.fixture
def mirrors(tmp_path: Path) -> Path:
    for name, data in {
        "one/pyproject.toml": b'[project]\nname = "one"\nlicense = "MIT"\n',
        "one/src/one.py": b"print(1)\n",
        "one/src/__pycache__/one.pyc": b"\0\1\2",
        "one/.git/HEAD": b"ref",
        "one/logo.png": b"\x89PNG\0\0",
        "one/old.c": b"/* caf\xe9 */",
        "one/big.py": b"x = 1\n" * 1000,
        "two/package.json": b'{"license": {"type": "x"}, "name": "two"}',
        "two/a/b/c/deep.js": "let ü = 1;\n".encode(),
        "README": b"not a repository",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "one" / "link.py").symlink_to("src/one.py")
    (tmp_path / "one" / "elsewhere").symlink_to("/")
    return tmp_path


def test_each_folder_is_a_repository_and_each_file_a_row_or_a_drop(mirrors: Path) -> None:
    rows, drops = read(SourceTrees(paths=f"{mirrors}/*", max_file_bytes=5000, licence="Apache-2.0"))
    assert [(row["repository"], row["path"], row["licence"]) for row in rows] == [
        ("one", "pyproject.toml", "MIT"),
        ("one", "src/one.py", "MIT"),
        ("two", "a/b/c/deep.js", "Apache-2.0"),
        ("two", "package.json", "Apache-2.0"),
    ]
    assert drops == {
        "one:.git": "version_control",
        "one:big.py": "too_large",
        "one:elsewhere": "symlink",
        "one:link.py": "symlink",
        "one:logo.png": "binary_file",
        "one:old.c": "unreadable: not UTF-8 at byte 6",
        "one:src/__pycache__": "compiled_files",
    }
    assert rows[1]["id"] == document_id("one", "src/one.py")
    assert rows[1]["text"] == "print(1)\n"
    assert rows[1]["language"] is None
    assert int(rows[1]["created"].timestamp()) == int((mirrors / "one/src/one.py").stat().st_mtime)


def test_version_stands_in_origins_and_ids_do_not_depend_on_it_or_on_parts(mirrors: Path) -> None:
    plain, _ = read(SourceTrees(paths=f"{mirrors}/*"))
    versioned, drops = read(SourceTrees(paths=f"{mirrors}/*", version="v2", max_part_bytes=1))
    assert [row["id"] for row in plain] == [row["id"] for row in versioned]
    assert versioned[0]["origin"] == "one@v2:big.py"
    assert "one@v2:link.py" in drops


def test_pattern_without_a_folder_is_an_error_that_names_it(mirrors: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"READ\*' matches no folder"):
        SourceTrees(paths=f"{mirrors}/READ*").parts()
    with pytest.raises(ValueError, match="not on a local disk"):
        SourceTrees(paths="s3://bucket/*").parts()


@pytest.mark.parametrize(
    ("expression", "name", "classifiers", "text", "spdx"),
    [
        ("BSD-3-Clause AND MIT", "", [], "", "BSD-3-Clause AND MIT"),
        (None, "Apache 2.0", [], "", "Apache-2.0"),
        (None, "MPL-2.0 AND MIT", [], "", "MPL-2.0 AND MIT"),
        (None, "BSD", ["License :: OSI Approved :: BSD License"], "", None),
        (None, "BSD", [], "Redistribution and use in source and binary forms ... Neither the name of", "BSD-3-Clause"),
        (None, "UNKNOWN", ["License :: OSI Approved :: ISC License (ISCL)"], "", "ISC"),
        (
            None,
            "Dual License",
            ["License :: OSI Approved :: BSD License", "License :: OSI Approved :: Apache Software License"],
            "",
            None,
        ),
        (None, "", ["Programming Language :: Python"], "", None),
    ],
)
def test_licence_of_metadata_is_its_clearest_statement(
    expression: str | None, name: str, classifiers: list[str], text: str, spdx: str | None
) -> None:
    assert spdx_of_metadata(expression, name, classifiers, text) == spdx


def test_short_licence_names_match_whole_words_only() -> None:
    assert spdx_of_name("MIT license") == "MIT"
    assert spdx_of_name("mitigated") is None
    assert spdx_of_name("3-Clause BSD License") == "BSD-3-Clause"
