"""Simulated agents: real tools with bounds, tasks judged by an independent truth, records that can be read and filtered."""

from __future__ import annotations

import ast
import gzip
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.schema import document_id
from pipeline.stage import Unreadable
from pipeline.synth import simulate as simulation
from pipeline.synth.calls import CALLS
from pipeline.synth.chat import as_string, render
from pipeline.synth.facts import facts_of
from pipeline.synth.procedural.wording import Voice
from pipeline.synth.sandbox import Sandbox
from pipeline.synth.simulate import TASKS, Episode, NoTask, SimulateAgents, simulate
from pipeline.synth.tools import SPECIFICATIONS, Library, Tools, read_library
from pipeline.synth.trajectories import SuccessfulTrajectories, Trajectories, read_record

STDLIB = sysconfig.get_path("stdlib")


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    with Sandbox() as sandbox:
        yield Tools(read_library(STDLIB), sandbox)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "one.py").write_text("X = 1\n\n\ndef first(a, b=7):\n    return a + b\n")
    (tmp_path / "two.py").write_text("class A:\n    pass\n\n\nclass B(A):\n    x = 'class C'\n" + "y = 1\n" * 200)
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "link.py").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text("X = 1\n")
    with Sandbox() as sandbox:
        yield Tools(read_library(str(tmp_path)), sandbox)


def test_library_holds_python_files_only_without_tests_links_and_other_encodings(small: Tools) -> None:
    assert small.library.paths == ("package/one.py", "two.py")


def test_search_shows_matching_lines_and_their_number(small: Tools) -> None:
    assert (
        small.search("class ")
        == "3 matches in 1 file\ntwo.py:1: class A:\ntwo.py:5: class B(A):\ntwo.py:6: x = 'class C'"
    )
    assert small.search("^class", "two.py").startswith("2 matches in 1 file")
    assert small.search("def first", "package") == "1 match in 1 file\npackage/one.py:4: def first(a, b=7):"
    assert small.search("def first", "two.py") == "no matches"
    assert small.search("^y") == "\n".join(
        ["200 matches in 1 file", *(f"two.py:{n}: y = 1" for n in range(7, 27)), "... and 180 more"]
    )


def test_open_file_shows_numbered_lines_within_bounds(small: Tools) -> None:
    assert small.open_file("package/one.py", 4, 5) == (
        "package/one.py, lines 4-5 of 6\n4\tdef first(a, b=7):\n5\t    return a + b"
    )
    assert small.open_file("./package/../two.py", -5, 1) == "two.py, lines 1-1 of 207\n1\tclass A:"
    assert len(small.open_file("two.py", 1, 10**9).splitlines()) == 81
    assert small.open_file("two.py", 300, 310) == "error: two.py has 207 lines; lines 300 to 310 were asked for"


@pytest.mark.parametrize("path", ["../x.py", "/etc/passwd", "package/../../x", "..", "a\0b", "..\\x", "package/../.."])
def test_paths_out_of_the_library_are_errors(small: Tools, path: str) -> None:
    assert small.open_file(path, 1, 2) == f"error: path '{path}' leaves the library"
    assert small.search("x", path) == f"error: path '{path}' leaves the library"


def test_what_goes_wrong_is_a_result(small: Tools) -> None:
    assert small.open_file("secret.txt", 1, 2) == "error: no such file: secret.txt"
    assert small.search("x", "nowhere") == "error: no such file or folder: nowhere"
    assert small.search("(").startswith("error: invalid pattern:")
    assert small.search("x" * 201) == "error: pattern longer than 200 characters"
    assert small.call("rm", {}) == "error: no tool 'rm'; there are open_file, run_python, search"
    assert "missing: ['code']" in small.call("run_python", {})
    assert "wrong type: ['first_line']" in small.call(
        "open_file", {"path": "two.py", "first_line": "1", "last_line": 2}
    )


def test_a_pattern_cannot_take_for_ever(small: Tools) -> None:
    assert small.search("(y*)*(y*)*(y*)*z$") == "no matches"


def test_run_python_shows_output_or_error(small: Tools) -> None:
    assert small.run_python("print(6 * 7)") == "42"
    assert small.run_python("x = 1") == "(no output)"
    assert small.run_python("print('a')\n1 / 0") == "a\n[exit code 1]\nline 2: ZeroDivisionError: division by zero"
    assert "refused in the sandbox" in small.run_python("open('/etc/passwd')")
    assert small.run_python("print('x' * 10000)").endswith("x\n... cut")


def test_facts_come_from_the_syntax_tree(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import os, re as r\nfrom a import b\nLIMIT = -1\nNAME = 'x'\n"
        "def f(a, b=1, *, c=2):\n    def g():\n        raise KeyError('k')\n    raise ValueError\n"
        "class C(A, B.D):\n    def m(self):\n        raise KeyError\n"
    )
    facts = facts_of(read_library(str(tmp_path)), "m.py")
    assert (facts.classes, facts.functions, facts.imports) == (1, 1, {"os", "re"})
    assert facts.defaults == (("f", (("b", "1"),)),)
    assert facts.bases == (("C", "A, B.D"),)
    assert facts.constants == (("NAME", "'x'"),)
    assert facts.raises == {"KeyError": ("g", "m"), "ValueError": ("f",)}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_each_kind_of_task_mostly_succeeds_and_ends_with_an_answer(task: Any, tools: Tools) -> None:
    outcomes = []
    for key in range(200):
        episode = Episode(tools, Voice(random.Random(key)))
        try:
            task(episode)
        except NoTask:
            assert episode.messages == [], "a task that does not exist was begun"
            continue
        assert episode.messages[0]["role"] == "user"
        assert episode.messages[-1]["role"] == "assistant"
        assert episode.messages[-1]["content"]
        outcomes.append(episode.success)
        if len(outcomes) == 4:
            break
    assert len(outcomes) == 4
    assert sum(outcomes) >= 2


def test_a_wrong_finding_is_a_failure(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_counted", lambda result: 999)
    episode = Episode(tools, Voice(random.Random(1)))
    while not episode.messages:
        try:
            simulation.count_classes(episode)
        except NoTask:
            continue
    assert not episode.success
    assert "999" in episode.messages[-1]["content"]


@pytest.fixture(scope="module")
def trajectories() -> pa.RecordBatch:
    source = SimulateAgents(count=24, parts_wanted=3).bound(seed=7)
    batches = [batch for part in source.parts() for batch in source.batches(part)]
    batch: pa.RecordBatch = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]  # type: ignore[arg-type]
    assert batch.schema.equals(source.schema())
    return batch


def test_rows_are_named_and_licensed(trajectories: pa.RecordBatch) -> None:
    assert trajectories["origin"].to_pylist() == [f"agents:stdlib#{n}" for n in range(24)]
    assert trajectories["id"][5].as_py() == document_id("agents", "stdlib", "5", "7")
    assert set(trajectories["licence"].to_pylist()) == {"PSF-2.0"}


def test_a_trajectory_depends_on_seed_and_number_alone(trajectories: pa.RecordBatch) -> None:
    again = SimulateAgents(count=9, parts_wanted=1).bound(seed=7)
    rows = [row for part in again.parts() for batch in again.batches(part) for row in batch.to_pylist()]  # type: ignore[union-attr]
    assert rows == trajectories.slice(0, 9).to_pylist()


def test_every_call_in_a_record_is_answered_as_the_tools_answer(trajectories: pa.RecordBatch, tools: Tools) -> None:
    for text in trajectories["trajectory"].to_pylist():
        calls = []
        for message in read_record(text).messages:
            if message.role == "assistant":
                calls = list(message.tool_calls)
            elif message.role == "tool":
                assert [tools.call(c.name, c.arguments) for c in calls] == list(message.tool_results)


def test_records_render_in_useful_lengths_and_name_no_place_of_this_machine(trajectories: pa.RecordBatch) -> None:
    lengths = []
    for text in trajectories["trajectory"].to_pylist():
        assert STDLIB not in text
        assert str(Path.home()) not in text
        lengths.append(len(as_string(*render(read_record(text), "all"))))
    assert 3_000 < sum(lengths) / len(lengths) < 12_000


def test_wrong_moves_are_masked_and_users_and_tools_too(tools: Tools) -> None:
    masked = 0
    for key in range(12):
        record = simulate(tools, key)
        assert len(record["loss_mask"]) == len(record["messages"])
        for message, learn in zip(record["messages"], record["loss_mask"], strict=True):
            if message["role"] != "assistant":
                assert not learn
            elif message["content"]:
                assert learn
            else:
                masked += not learn
    assert masked >= 2


def batch_of(records: list[str | None]) -> pa.RecordBatch:
    return pa.record_batch({"trajectory": pa.array(records, pa.large_string())})


def test_only_successful_trajectories_stay() -> None:
    def record(**changes: Any) -> str:
        return json.dumps({"messages": [{"role": "assistant", "content": "a"}], "outcome": "success"} | changes)

    texts = [
        record(),
        record(outcome="failure"),
        record(outcome=None),
        record(messages=[]),
        "{",
        None,
        record(outcome="?"),
    ]
    assert SuccessfulTrajectories().reasons(batch_of(texts)).to_pylist() == [
        None,
        "task_failed",
        "task_failed",
        "malformed_trajectory",
        "malformed_trajectory",
        "malformed_trajectory",
        "malformed_trajectory",
    ]
    assert SuccessfulTrajectories(max_chars=10).reasons(batch_of(texts)).to_pylist()[0] == "malformed_trajectory"


def test_records_are_read_from_jsonl_and_bad_lines_counted(tmp_path: Path) -> None:
    good = '{"messages": [{"role": "assistant", "content": "é"}], "licence": "MIT"}'
    long = '{"messages": [{"role": "assistant", "content": "' + "x" * 500 + '"}]}'
    lines = [good.encode(), b"", b"{}", b"\xff\xfe", long.encode(), good.encode()]
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(lines))
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(good.encode() + b"\n")
    source = Trajectories(paths=str(tmp_path / "*.jsonl*"), max_line_bytes=300)  # type: ignore[arg-type]
    parts = source.parts()
    assert [part.files[0].path.rpartition("/")[2] for part in parts] == ["a.jsonl.gz", "b.jsonl"]
    assert parts[1].files[0].size == (tmp_path / "b.jsonl").stat().st_size
    found = [list(source.batches(part)) for part in parts]
    assert isinstance(found[0][0], pa.RecordBatch)
    assert found[0][0]["trajectory"].to_pylist() == [good]
    drops = [x for x in found[1] if isinstance(x, Unreadable)]
    assert [(d.origin, d.reason) for d in drops] == [
        ("b.jsonl#2", "unreadable: not a trajectory record"),
        ("b.jsonl#3", "unreadable: not UTF-8"),
        ("b.jsonl#4", "unreadable: line too long"),
    ]
    rows = next(x for x in found[1] if isinstance(x, pa.RecordBatch))
    assert rows["origin"].to_pylist() == ["b.jsonl#0", "b.jsonl#5"]
    assert rows["licence"].to_pylist() == ["MIT", "MIT"]


def test_a_truncated_file_keeps_what_came_before(tmp_path: Path) -> None:
    good = b'{"messages": [{"role": "assistant", "content": "x"}]}\n'
    whole = gzip.compress(good * 2000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) - 20])
    source = Trajectories(paths=(str(tmp_path / "cut.jsonl.gz"),))
    found = list(source.batches(source.parts()[0]))
    assert [x.reason for x in found if isinstance(x, Unreadable)] == ["unreadable: EOFError"]
    assert sum(x.num_rows for x in found if isinstance(x, pa.RecordBatch)) > 1000


def test_specifications_are_those_of_the_methods() -> None:
    for specification in SPECIFICATIONS:
        function = specification["function"]
        method = getattr(Tools, function["name"])
        names = method.__code__.co_varnames[1 : method.__code__.co_argcount]
        assert list(function["parameters"]["properties"]) == list(names)


def test_library_digest_follows_its_texts() -> None:
    one = Library(("a.py",), pa.array(["x"], pa.large_string()))
    assert one.digest == Library(("a.py",), pa.array(["x"], pa.large_string())).digest
    assert one.digest != Library(("a.py",), pa.array(["y"], pa.large_string())).digest


def test_every_call_of_the_table_can_be_read_as_literals() -> None:
    for function in CALLS:
        for key in range(5):
            node = ast.parse(f"f({function.arguments(random.Random(key))})", mode="eval").body
            assert isinstance(node, ast.Call)
            for argument in [*node.args, *(k.value for k in node.keywords)]:
                simulation._plain(argument)
