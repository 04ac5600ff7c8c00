"""The engine on a tiny real corpus: fusion, exchange, folds, sinks, accounts, resume, on all executors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import opened
from pipeline.engine.graph import PlanError
from pipeline.engine.lock import RunIsLocked, locked
from pipeline.engine.plan import PhysicalStep, Plan, Status, make_plan, status_of
from pipeline.engine.run import Driver, Manifest, StepFailed, UnexpectedDrop
from pipeline.engine.storage import Storage
from pipeline.stage import Chain, Exchange, InputFile, Stage, Step
from tests.toy_stages import (
    Fails,
    FirstWord,
    Joined,
    KillsItsWorkerOnce,
    Lines,
    MinLength,
    Share,
    ShuffleKey,
    SortedTexts,
    TextFile,
    Upper,
    Words,
)


class Quiet:
    """A listener that remembers which parts ran."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.reused: list[str] = []

    def plan(self, plan: Plan, statuses: Mapping[str, Status]) -> None: ...

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None: ...

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        self.parts.append(f"{step.key}#{account.part}")

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        if reused:
            self.reused.append(step.key)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Five files of seven lines, one of them unreadable."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(5):
        lines = [f"word{line % 3} text {number} {line}" for line in range(5)]
        (folder / f"f{number}.txt").write_text("\n".join([*lines, "ab", "!bad"]))
    return folder


def chain(corpus: Path, *stages: Stage | Step, name: str = "toy") -> Chain:
    steps = [
        one if isinstance(one, Step) else Step(one.kind, one, where="toy.yaml:1")
        for one in (Lines(folder=str(corpus)), *stages)
    ]
    return Chain(name, tuple(steps), steps[-1].name)


def versions(path: str) -> InputFile:
    return InputFile(path, 0, "0")


def plan_of(*chains: Chain, seed: int = 1) -> Plan:
    return make_plan(chains, seed, versions, lambda column: [])


def run(plan: Plan, folder: Path | str, kind: str = "local", workers: int = 1) -> tuple[dict[str, Manifest], Quiet]:
    quiet = Quiet()
    storage = Storage(str(folder))
    with opened(kind, storage.address, workers=workers, cluster=None) as executor:
        return Driver(plan, storage, executor, quiet).run(), quiet


def rows(plan: Plan, folder: Path, key: str) -> list[dict[str, object]]:
    where = folder / plan.step(key).folder
    return [row for path in sorted(where.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def counts(done: Mapping[str, Manifest]) -> dict[str, tuple[int, int, int]]:
    total: dict[str, list[int]] = {}
    for manifest in done.values():
        for account in manifest.accounts:
            for c in account.stages:
                one = total.setdefault(c.step, [0, 0, 0])
                for n, value in enumerate((c.rows_in, c.rows_out, c.rows_dropped)):
                    one[n] += value
    return {step: (a, b, c) for step, (a, b, c) in total.items()}


def test_neighbouring_row_local_stages_fuse_into_one_step(corpus: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), Upper(), FirstWord()))
    assert [(s.key, s.kind, len(s.nodes)) for s in plan.steps] == [("toy/first_word", "rows", 4)]


def test_every_row_is_a_row_out_or_a_drop_with_a_reason(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), Upper()))
    done, _ = run(plan, tmp_path / "run")
    assert counts(done) == {"lines": (35, 30, 5), "min_length": (30, 25, 5), "upper": (25, 25, 0)}
    folder = tmp_path / "run" / plan.steps[0].folder
    drops = [row for p in sorted((folder / "drops").glob("*.parquet")) for row in pq.read_table(p).to_pylist()]
    assert Counter((d["stage"], d["reason"]) for d in drops) == {
        ("lines", "unreadable: bad line"): 5,
        ("min_length", "too_short"): 5,
    }
    assert {row["text"] for row in rows(plan, tmp_path / "run", "toy/upper")} >= {"WORD0 TEXT 0 0", "WORD1 TEXT 4 4"}


def test_childless_parents_of_an_expand_are_drops(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, Words(least=3)))
    done, _ = run(plan, tmp_path / "run")
    assert counts(done)["words"] == (30, 50, 5)


@pytest.mark.parametrize(
    ("kind", "workers"), [("local", 1), ("local", 2), pytest.param("ray", 2, marks=pytest.mark.slow)]
)
def test_exchange_brings_equal_keys_together_in_id_order_on_every_executor(
    corpus: Path, tmp_path: Path, kind: str, workers: int
) -> None:
    plan = plan_of(chain(corpus, MinLength(), SortedTexts()))
    done, _ = run(plan, tmp_path / "run", kind, workers)
    assert done["toy/by_first_word/exchange"].rows == 25
    found = [
        (p.name, row)
        for p in sorted((tmp_path / "run" / plan.steps[-1].folder).glob("part-*.parquet"))
        for row in pq.read_table(p).to_pylist()
    ]
    homes: dict[str, set[str]] = {}
    for name, row in found:
        homes.setdefault(row["first_word"], set()).add(name)
    assert {word: len(parts) for word, parts in homes.items()} == {"word0": 1, "word1": 1, "word2": 1}
    for word in homes:
        ids = [row["id"] for _, row in found if row["first_word"] == word]
        assert ids == sorted(ids)
        assert {(row["group_first"], row["group_size"]) for _, row in found if row["first_word"] == word} == {
            (ids[0], len(ids))
        }


def test_a_stage_that_needs_whole_groups_gets_them(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), FirstWord(), Joined()))
    assert [s.key for s in plan.steps] == ["toy/joined/exchange", "toy/joined"]
    done, _ = run(plan, tmp_path / "run")
    joined = rows(plan, tmp_path / "run", "toy/joined")
    assert sorted(len(row["parent_ids"]) for row in joined) == [5, 10, 10]  # type: ignore[arg-type]
    assert counts(done)["joined"] == (25, 3, 0)


def test_a_folds_table_reaches_the_stage_that_asks_for_it(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), Share()))
    run(plan, tmp_path / "run")
    shares = [row["share"] for row in rows(plan, tmp_path / "run", "toy/share/share")]
    assert sum(shares) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_range_placement_keeps_keys_in_order_over_partitions_and_a_sink_writes_them(
    corpus: Path, tmp_path: Path
) -> None:
    exchange = Exchange(by="shuffle_key", partitions=4, placement="range")
    plan = plan_of(chain(corpus, MinLength(), ShuffleKey(), exchange, TextFile()))
    done, _ = run(plan, tmp_path / "run")
    assert done["toy/text_file"].parts == 4
    texts = "".join(p.read_text() for p in sorted((tmp_path / "run" / "out").glob("*.txt"))).splitlines()
    assert len(texts) == 25
    again = plan_of(
        chain(
            corpus, MinLength(), ShuffleKey(), Exchange(by="shuffle_key", partitions=9, placement="range"), TextFile()
        )
    )
    run(again, tmp_path / "again")
    assert "".join(p.read_text() for p in sorted((tmp_path / "again" / "out").glob("*.txt"))).splitlines() == texts


def test_a_second_run_reuses_everything_and_a_changed_setting_reruns_what_follows(corpus: Path, tmp_path: Path) -> None:
    first = plan_of(chain(corpus, MinLength(), Step("upper", Upper(), checkpoint=True), Words(least=3)))
    run(first, tmp_path / "run")
    _, quiet = run(first, tmp_path / "run")
    assert quiet.parts == []
    changed = plan_of(chain(corpus, MinLength(), Step("upper", Upper(), checkpoint=True), Words(least=1)))
    statuses = status_of(changed, Storage(str(tmp_path / "run")))
    assert statuses["toy/upper"].done
    assert statuses["toy/words"].why == "toy/words: least 3 -> 1"
    _, quiet = run(changed, tmp_path / "run")
    assert quiet.reused == ["toy/upper"]
    assert sorted(quiet.parts) == [f"toy/words#{n}" for n in range(5)]


def test_an_interrupted_step_redoes_only_the_parts_without_an_account(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), Upper()))
    run(plan, tmp_path / "run")
    folder = tmp_path / "run" / plan.steps[0].folder
    before = [p.read_bytes() for p in sorted(folder.glob("part-*.parquet"))]
    (folder / "manifest.json").unlink()
    (folder / "account" / "part-00003.json").unlink()
    (folder / ".tmp-123-abcd-part-00003.parquet").write_bytes(b"half")
    _, quiet = run(plan, tmp_path / "run")
    assert quiet.parts == ["toy/upper#3"]
    assert [p.read_bytes() for p in sorted(folder.glob("part-*.parquet"))] == before
    assert not list(folder.glob(".tmp-*"))


def test_a_killed_worker_costs_its_part_and_no_row(corpus: Path, tmp_path: Path) -> None:
    killer = KillsItsWorkerOnce(victim="word1 text 2 1", memory=str(tmp_path / "killed"))
    plan = plan_of(chain(corpus, killer, MinLength()))
    done, _ = run(plan, tmp_path / "run", workers=2)
    assert (tmp_path / "killed").exists()
    assert counts(done)["min_length"] == (30, 25, 5)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_stage_names_step_part_and_cause(corpus: Path, tmp_path: Path, workers: int) -> None:
    plan = plan_of(chain(corpus, Fails(on="word1 text 2 1")))
    with pytest.raises(
        StepFailed, match=r"toy/fails, part 2 \(f2.txt\) failed: ValueError: cannot digest 'word1 text 2 1'"
    ):
        run(plan, tmp_path / "run", workers=workers)


def test_a_share_of_drops_outside_the_band_stops_the_run_with_both_numbers(corpus: Path, tmp_path: Path) -> None:
    step = Step("min_length", MinLength(), expect_drop=(0.2, 0.5), where="toy.yaml:7")
    plan = plan_of(chain(corpus, step))
    with pytest.raises(
        UnexpectedDrop,
        match=r"toy.yaml:7: step 'min_length' .* dropped 16.67% of 30 rows, outside expect_drop \[0.2, 0.5\] \(too_short 5\)",
    ):
        run(plan, tmp_path / "run")


def test_when_limits_a_filter_to_the_rows_it_names(corpus: Path, tmp_path: Path) -> None:
    step = Step("min_length", MinLength(least=100), when="first_word == 'word0'")
    plan = plan_of(chain(corpus, FirstWord(), step))
    done, _ = run(plan, tmp_path / "run")
    assert counts(done)["min_length"] == (30, 20, 10)


def test_a_missing_column_is_an_error_before_anything_runs(corpus: Path) -> None:
    step = Step("by", Exchange(by="first_word"), where="toy.yaml:9")
    with pytest.raises(
        PlanError,
        match=r"toy.yaml:9: step 'by' of dataset 'toy' needs column 'first_word'; 'first_word' adds it, and runs at step 3: move it before 'by'",
    ):
        plan_of(chain(corpus, step, FirstWord()))


def test_datasets_branch_from_a_named_step_and_unite(corpus: Path, tmp_path: Path) -> None:
    base = chain(corpus, MinLength(), Upper(), name="base")
    branch = Chain("branch", (Step("words", Words(), after=("dataset:base@min_length",)),), "words")
    both = Chain("both", (Step("again", MinLength(least=1), after=("dataset:base", "dataset:branch")),), "again")
    plan = plan_of(base, branch, both)
    done, _ = run(plan, tmp_path / "run")
    assert done["branch/words"].rows == 100
    assert done["both/again"].rows == 125


def test_datasets_that_read_each_other_in_a_circle_are_an_error() -> None:
    a = Chain("a", (Step("min_length", MinLength(), after=("dataset:b",)),), "min_length")
    b = Chain("b", (Step("min_length", MinLength(), after=("dataset:a",)),), "min_length")
    with pytest.raises(PlanError, match="in a circle"):
        plan_of(a, b)


def test_a_second_run_into_the_same_folder_is_refused_by_name(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    with locked(storage):
        with pytest.raises(RunIsLocked, match=r"another run works in .*run \(process \d+ on"), locked(storage):
            pass
    with locked(storage):
        pass


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a/../../b", "."])
def test_no_path_leaves_the_run_folder(tmp_path: Path, path: str) -> None:
    with Storage(str(tmp_path)).transaction() as files, pytest.raises(ValueError, match="must be relative"):
        files.create(path)


def test_the_account_says_what_was_written(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength()))
    run(plan, tmp_path / "run")
    folder = tmp_path / "run" / plan.steps[0].folder
    account = json.loads((folder / "account" / "part-00000.json").read_text())
    for file in account["files"]:
        assert (tmp_path / "run" / file["path"]).stat().st_size == file["bytes"]
