"""Repositories as documents: imports found and resolved, dependency order, gathering, splitting."""

from __future__ import annotations

import random
import sysconfig
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.code.imports import Paths, dependencies
from pipeline.code.languages import languages_of
from pipeline.code.repository import RepositoryDocuments, connected, dependency_order
from pipeline.schema import CREATED, ID, LANGUAGE, LICENCE, ORIGIN, PATH, REPOSITORY, TEXT, child_id, document_id

SCHEMA = pa.schema([ID, ORIGIN, TEXT, LANGUAGE, LICENCE, CREATED, REPOSITORY, PATH])


def _batch(files: dict[tuple[str | None, str], str], licence: str | None = "MIT") -> pa.RecordBatch:
    paths = pa.array([path for _, path in files], pa.large_string())
    rows = [
        {
            "id": document_id(str(repository), path),
            "origin": f"{repository}@c0ffee:{path}",
            "text": text,
            "language": language,
            "licence": licence,
            "created": datetime(2024, 1, 1 + n % 28, tzinfo=UTC),
            "repository": repository,
            "path": path,
        }
        for n, (((repository, path), text), language) in enumerate(
            zip(files.items(), languages_of(paths).to_pylist(), strict=True)
        )
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _found(path: str, text: str, others: list[str], repository: str = "") -> list[str]:
    language = languages_of(pa.array([path], pa.large_string()))[0].as_py()
    return dependencies(path, text, language, Paths([path, *others], repository))


@pytest.mark.parametrize(
    ("path", "text", "others", "found"),
    [
        ("a.py", "import b, c.d as e\n", ["b.py", "c/d.py", "c/__init__.py"], ["b.py", "c/d.py"]),
        ("a.py", "  from b import x\nimport json\n", ["b/__init__.py"], ["b/__init__.py"]),
        ("p/a.py", "from . import b, missing\n", ["p/__init__.py", "p/b.py"], ["p/__init__.py", "p/b.py"]),
        ("p/q/a.py", "from ..r import (\n    x,\n    y as z,\n)\n", ["p/r/x.py", "p/r/__init__.py"], ["p/r/__init__.py", "p/r/x.py"]),
        ("p/q/a.py", "from ...... import x\n", ["x.py"], []),
        ("tests/t.py", "import pkg.core\n", ["src/pkg/core.py", "src/pkg/__init__.py"], ["src/pkg/core.py"]),
        ("p/a.py", "import json\n", ["p/__init__.py", "p/json.py"], []),
        ("p/c.pyx", "cimport d\nfrom e cimport f\n", ["p/d.pyx", "e.py"], ["e.py", "p/d.pyx"]),
        ("a.py", "x = 1  # import b\n", ["b.py"], []),
        ("a.py", "import a\n", ["b.py"], []),
        ("a.py", "from b import (  # c, d\n    e,  # f,\n    g)\n", ["b/c.py", "b/d.py", "b/e.py", "b/g.py"], ["b/e.py", "b/g.py"]),
        ("src/a.c", '#include "b.h"\n# include <stdio.h>\n#include <lib/c.h>\n', ["src/b.h", "include/lib/c.h"], ["include/lib/c.h", "src/b.h"]),
        ("src/a.cpp", '#include "../inc/b.hpp"\n#include "deep/d.h"', ["inc/b.hpp", "x/y/deep/d.h"], ["inc/b.hpp", "x/y/deep/d.h"]),
        ("a.c", '#include "../../../etc/passwd"\n', ["etc/passwd"], []),
        ("s/a.js", "import x from './b'\nconst c = require('../c')\nimport 'react'", ["s/b.jsx", "c/index.js"], ["c/index.js", "s/b.jsx"]),
        ("a.ts", "export { y } from './b.js'; await import('./c')", ["b.ts", "c.d.ts"], ["b.ts", "c.d.ts"]),
        ("cmd/a.go", 'import (\n  "fmt"\n  u "example.com/m/util"\n)\n', ["util/u.go", "util/u_test.go", "util/x.md"], ["util/u.go"]),
        ("src/A.java", "import static org.x.B.run;\nimport org.x.*;\nimport java.util.List;", ["src/org/x/B.java"], ["src/org/x/B.java"]),
        ("src/lib.rs", "mod a;\npub mod b;\nuse crate::c::d::E;", ["src/a.rs", "src/b/mod.rs", "src/c/d.rs"], ["src/a.rs", "src/b/mod.rs", "src/c/d.rs"]),
        ("src/a/b.rs", "use super::c::X;\n", ["src/a/c.rs", "src/lib.rs"], ["src/a/c.rs"]),
        ("a/b.rb", "require_relative '../c'\n", ["c.rb"], ["c.rb"]),
        ("a/b.php", "require_once __DIR__ . '/c.php';\n", ["a/c.php"], ["a/c.php"]),
        ("a.md", "import b\n", ["b.py"], []),
    ],
)  # fmt: skip
def test_imports_resolve_to_files_of_the_repository(path: str, text: str, others: list[str], found: list[str]) -> None:
    assert _found(path, text, others) == found


def test_a_repository_that_is_the_package_itself_finds_its_own_modules() -> None:
    assert _found("tool.py", "from json import decoder\n", ["decoder.py"], "json") == ["decoder.py"]
    assert _found("tool.py", "import json.decoder\n", ["decoder.py"], "lib/json.git") == ["decoder.py"]
    assert _found("tool.py", "import json.decoder\n", ["decoder.py"], "other") == []


def test_the_standard_library_of_this_python_yields_known_edges() -> None:
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(
        str(file.relative_to(folder)) for name in ("json", "email", "asyncio") for file in (folder / name).glob("*.py")
    )
    known = Paths(paths)
    text = (folder / "json/__init__.py").read_text()
    assert dependencies("json/__init__.py", text, "Python", known) == ["json/decoder.py", "json/encoder.py"]
    text = (folder / "json/tool.py").read_text()
    assert "json/__init__.py" in dependencies("json/tool.py", text, "Python", known)


def test_hostile_import_lines_take_linear_time() -> None:
    others = ["b.py", *(f"{i}/index.h" for i in range(3000))]
    started = time.perf_counter()
    for path, text in [
        ("a.py", "from " + "." * 1_000_000 + " x"),
        ("a.py", "from b import " + "x" * 1_000_000),
        ("a.py", ("from b import (" + "a" * 4000 + ".)\n") * 200),
        ("a.py", "import a" + " " * 1_000_000 + ",!"),
        ("a.py", "import " + "a, " * 300_000),
        ("d/" * 20_000 + "a.py", "import b\n" * 100),
        ("a.c", "".join(f'#include "{i}/x/index.h"\n' for i in range(2000))),
        ("a.js", "import " * 200_000),
        ("a.rs", "use crate" + "::a" * 300_000),
        ("a.php", "require" + " (" * 500_000),
    ]:
        _found(path, text, others)
    assert time.perf_counter() - started < 20  # seconds; quadratic would be hours


def _twin_order(group: list[int], edges: dict[int, list[int]]) -> list[int]:
    """Algorithm 1 as the paper writes it, quadratic."""
    count = {one: len(edges.get(one, [])) for one in group}
    order: list[int] = []
    while len(order) < len(group):
        one = min((x for x in group if x not in order), key=lambda x: (count[x], x))
        order.append(one)
        for other in group:
            if one in edges.get(other, []):
                count[other] -= 1
    return order


def test_order_agrees_with_the_papers_algorithm_on_random_graphs_with_cycles() -> None:
    rng = random.Random(2)
    for _ in range(200):
        size = rng.randrange(1, 12)
        edges = {a: sorted({b for b in range(size) if b != a and rng.random() < 0.2}) for a in range(size)}
        groups = connected(size, edges)
        assert sorted(one for group in groups for one in group) == list(range(size))
        for group in groups:
            assert dependency_order(group, edges) == _twin_order(group, edges)
            assert all(target in group for one in group for target in edges[one])


FILES = {
    ("r", "app.py"): "import util\nimport model\n",
    ("r", "model.py"): "import base\n",
    ("r", "util.py"): "import base",
    ("r", "base.py"): "X = 1\n",
    ("r", "x/one.c"): '#include "two.h"\n',
    ("r", "x/two.h"): "int two;\n",
    ("r", "README.md"): "Words.\n",
    ("r", "setup.cfg"): "[a]\n",
    ("q", "only.py"): "pass\n",
}


def test_each_subgraph_is_a_document_in_dependency_order_and_the_rest_is_gathered() -> None:
    rows = RepositoryDocuments().bound(name="repos").rows(_batch(FILES)).to_pylist()
    assert [row["text"] for row in rows] == [
        "# only.py\npass\n",
        "# base.py\nX = 1\n# model.py\nimport base\n# util.py\nimport base\n# app.py\nimport util\nimport model\n",
        '// x/two.h\nint two;\n// x/one.c\n#include "two.h"\n',
        "<!-- README.md -->\nWords.\n; setup.cfg\n[a]\n",
    ]
    assert [row["origin"] for row in rows] == [
        "q@c0ffee:only.py",
        "r@c0ffee:base.py (+3 files)",
        "r@c0ffee:x/two.h (+1 file)",
        "r@c0ffee:README.md (+1 file)",
    ]
    assert [row["language"] for row in rows] == ["Python", "Python", "C", "Markdown"]
    assert [row["repository"] for row in rows] == ["q", "r", "r", "r"]
    base = document_id("r", "base.py")
    assert rows[1]["parent_id"] == base
    assert rows[1]["parent_ids"] == [document_id("r", path) for path in ("base.py", "model.py", "util.py", "app.py")]
    assert rows[1]["id"] == child_id(base, "repos", 0)
    assert rows[1]["licence"] == "MIT"
    assert rows[1]["created"] == datetime(2024, 1, 4, tzinfo=UTC)


def test_every_file_is_in_exactly_one_document_whatever_the_order_of_rows() -> None:
    docs = _batch(FILES)
    whole = RepositoryDocuments().rows(docs)
    assert whole.schema == RepositoryDocuments().output(docs.schema)
    order = list(range(docs.num_rows))
    for seed in range(5):
        random.Random(seed).shuffle(order)
        assert RepositoryDocuments().rows(docs.take(pa.array(order))).equals(whole)
    parents = [one for row in whole["parent_ids"].to_pylist() for one in row]
    assert sorted(parents) == sorted(docs["id"].to_pylist())
    assert RepositoryDocuments().rows(docs.slice(0, 0)).num_rows == 0


def test_documents_are_split_between_files_and_a_large_file_stands_alone() -> None:
    files = {("r", f"f{i}.txt"): "x" * size for i, size in enumerate([30, 30, 200, 30, 30])}
    stage = RepositoryDocuments(max_chars=100, header=False)
    texts = stage.rows(_batch(files))["text"].to_pylist()
    assert [len(text) for text in texts] == [62, 201, 62]
    assert RepositoryDocuments(max_tokens=40, chars_per_token=2.5).char_limit() == 100
    with pytest.raises(ValueError, match="max_tokens or max_chars, not both"):
        RepositoryDocuments(max_tokens=1, max_chars=1)


def test_licence_and_language_need_agreement_and_rows_without_repository_stay_apart() -> None:
    mixed = pa.concat_batches([_batch({("r", "a.py"): "import b\n"}), _batch({("r", "b.py"): "b = 1\n"}, "Apache-2.0")])
    (row,) = RepositoryDocuments().rows(mixed).to_pylist()
    assert row["licence"] is None
    alone = _batch({(None, "a.py"): "import b\n"})
    rows = RepositoryDocuments().rows(pa.concat_batches([alone, _batch({(None, "b.py"): "b = 1\n"})])).to_pylist()
    assert sorted(row["text"] for row in rows) == ["# a.py\nimport b\n", "# b.py\nb = 1\n"]


def test_a_path_with_line_breaks_cannot_leave_its_comment() -> None:
    (row,) = RepositoryDocuments().rows(_batch({("r", "a\nimport os.py"): "pass\n"})).to_pylist()
    assert row["text"] == "# a import os.py\npass\n"


def test_null_text_and_path_are_files_like_others() -> None:
    docs = _batch({("r", "a.py"): "pass\n"})
    docs = docs.set_column(2, TEXT, pa.array([None], pa.large_string())).set_column(
        7, PATH, pa.nulls(1, pa.large_string())
    )
    (row,) = RepositoryDocuments().rows(docs).to_pylist()
    assert row["text"] == "\n"
