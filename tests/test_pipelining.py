"""A straggler holds up nothing but its own successors; accounts, resume, bands and times stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import opened
from pipeline.engine.plan import PhysicalStep, Plan
from pipeline.engine.run import Driver, Manifest, UnexpectedDrop
from pipeline.engine.storage import Storage
from pipeline.stage import Chain, Exchange, Stage, Step
from tests.pipelining_stages import Sleeps, SlowCount, SlowTextFile, WaitsFor
from tests.test_engine import Quiet, chain, corpus, counts, plan_of, rows, run
from tests.toy_stages import CountRows, FirstWord, MinLength, Share, TextFile, Upper

__all__ = ["corpus"]

HELD = "word0 text 2 0"
"""A line of part 2."""


class Releases(Quiet):
    """Lets the straggler go once `enough` parts of a step are done; remembers everything in order."""

    def __init__(self, step: str, enough: int, path: Path) -> None:
        super().__init__()
        self.step, self.enough, self.path = step, enough, path
        self.events: list[str] = []

    def step_started(self, step: PhysicalStep, parts: int, parts_done: int) -> None:
        self.events.append(f"start {step.key}")

    def part_done(self, step: PhysicalStep, account: PartAccount) -> None:
        super().part_done(step, account)
        self.events.append(f"{step.key}#{account.part}")
        if sum(one.startswith(f"{self.step}#") for one in self.parts) >= self.enough:
            self.path.touch()

    def step_done(self, step: PhysicalStep, manifest: Manifest, reused: bool) -> None:
        super().step_done(step, manifest, reused)
        self.events.append(f"done {step.key}")


def held(tmp_path: Path, first_seconds: float = 2.0) -> Step:
    return Step("held", WaitsFor(text=HELD, path=str(tmp_path / "go"), first_seconds=first_seconds), checkpoint=True)


def released(plan: Plan, tmp_path: Path, step: str, *, enough: int = 4) -> tuple[dict[str, Manifest], Releases]:
    listener = Releases(step, enough, tmp_path / "go")
    storage = Storage(str(tmp_path / "run"))
    with opened("local", storage.address, workers=2, cluster=None) as executor:
        return Driver(plan, storage, executor, listener).run(), listener


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "step"),
    [
        ((Upper(),), "toy/upper"),
        ((FirstWord(), Exchange(by="first_word", partitions=2), Upper()), "toy/exchange"),
        ((CountRows(),), "toy/count_rows/summary"),
        ((TextFile(),), "toy/text_file"),
    ],
)
def test_other_parts_of_the_next_step_are_done_while_a_straggler_runs(
    corpus: Path, tmp_path: Path, stages: tuple[Stage, ...], step: str
) -> None:
    plan = plan_of(chain(corpus, MinLength(), held(tmp_path), *stages))
    done, listener = released(plan, tmp_path, step)
    straggler = listener.parts.index("toy/held#2")
    assert {f"{step}#{n}" for n in (0, 1, 3, 4)} <= set(listener.parts[:straggler])
    assert listener.parts.index(f"{step}#2") > straggler
    assert listener.events.index("done toy/held") < listener.events.index(f"done {step}")
    assert done[step].parts == 5
    assert counts(done)["min_length"] == (30, 25, 5)
    (tmp_path / "again").mkdir()
    run(plan, tmp_path / "again" / "run")
    assert rows(plan, tmp_path / "run", step) == rows(plan, tmp_path / "again" / "run", step)


@pytest.mark.slow
def test_parts_flow_through_several_steps_past_a_straggler(corpus: Path, tmp_path: Path) -> None:
    upper = Step("upper", Upper(), checkpoint=True)
    plan = plan_of(chain(corpus, held(tmp_path), upper, FirstWord()))
    _, listener = released(plan, tmp_path, "toy/first_word")
    assert set(listener.parts[: listener.parts.index("toy/held#2")]) == {
        f"toy/{step}#{part}" for step in ("held", "upper", "first_word") for part in (0, 1, 3, 4)
    }


@pytest.mark.slow
def test_parts_of_two_datasets_flow_into_their_union(corpus: Path, tmp_path: Path) -> None:
    base = chain(corpus, held(tmp_path, 4.0), name="base")
    other = chain(corpus, Upper(), name="other")
    both = Chain("both", (Step("again", MinLength(), after=("dataset:base", "dataset:other")),), "again")
    plan = plan_of(base, other, both)
    done, listener = released(plan, tmp_path, "both/again", enough=9)
    assert listener.parts[-2:] == ["base/held#2", "both/again#2"]
    assert done["both/again"].rows == 50


@pytest.mark.slow
def test_a_step_with_a_table_waits_for_the_whole_fold(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), held(tmp_path), Share()))
    done, listener = released(plan, tmp_path, "toy/share/totals/summary")
    assert listener.events.index("done toy/share/totals") < listener.events.index("start toy/share/share")
    assert sum(row["share"] for row in rows(plan, tmp_path / "run", "toy/share/share")) == pytest.approx(1.0)  # type: ignore[misc]
    assert done["toy/share/share"].rows == 25


def test_tasks_of_earlier_steps_go_first(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, Step("upper", Upper(), checkpoint=True), FirstWord()))
    _, quiet = run(plan, tmp_path / "run")
    assert quiet.parts == [f"toy/{step}#{part}" for step in ("upper", "first_word") for part in range(5)]


def test_resume_in_the_middle_of_two_steps_redoes_what_is_missing_and_nothing_else(
    corpus: Path, tmp_path: Path
) -> None:
    plan = plan_of(chain(corpus, Step("upper", Upper(), checkpoint=True), FirstWord()))
    run(plan, tmp_path / "run")
    upper, first_word = (tmp_path / "run" / step.folder for step in plan.steps)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("part-*.parquet")}
    for folder, parts in ((upper, (2,)), (first_word, (2, 3))):
        (folder / "manifest.json").unlink()
        for part in parts:
            (folder / "account" / f"part-{part:05d}.json").unlink()
    (upper / "part-00002.parquet").unlink()
    _, quiet = run(plan, tmp_path / "run")
    assert sorted(quiet.parts) == ["toy/first_word#2", "toy/first_word#3", "toy/upper#2"]
    assert quiet.parts.index("toy/upper#2") < quiet.parts.index("toy/first_word#2")
    assert {path: path.read_bytes() for path in before} == before


def test_a_band_is_still_checked_when_the_next_step_has_begun(corpus: Path, tmp_path: Path) -> None:
    step = Step("min_length", MinLength(), expect_drop=(0.2, 0.5), checkpoint=True, where="toy.yaml:7")
    plan = plan_of(chain(corpus, step, Upper()))
    with pytest.raises(UnexpectedDrop, match=r"dropped 16.67% of 30 rows"):
        run(plan, tmp_path / "run", workers=2)
    folder = tmp_path / "run" / plan.steps[1].folder
    assert not (folder / "manifest.json").exists()


def test_a_sinks_and_a_folds_seconds_are_their_own(corpus: Path, tmp_path: Path) -> None:
    slow = Sleeps(seconds=0.05)  # three batches in each of five parts
    done, _ = run(plan_of(chain(corpus, slow, SlowTextFile(seconds=0.04))), tmp_path / "sink")
    seconds = {
        c.step: sum(s.seconds for a in m.accounts for s in a.stages if s.step == c.step)
        for m in done.values()
        for c in m.accounts[0].stages
    }
    assert seconds["sleeps"] >= 0.45
    assert 0.2 <= seconds["slow_text_file"] < 0.45
    done, _ = run(plan_of(chain(corpus, slow, SlowCount(seconds=0.04))), tmp_path / "fold")
    (summaries,) = (m for m in done.values() if m.step.endswith("/summary"))
    assert 0.2 <= sum(s.seconds for a in summaries.accounts for s in a.stages if s.step == "slow_count") < 0.45
