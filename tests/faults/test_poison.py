"""Records on which a stage fails: found by halving, dropped by name where the recipe allows, and named where it does not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.plan import Plan, make_plan
from pipeline.engine.poison import attempt, culprit, described, pieces, units
from pipeline.engine.run import StepFailed
from pipeline.recipe import RecipeError, load_recipe
from pipeline.schema import document_id
from pipeline.stage import Chain, Exchange, InputFile, Step
from tests.conftest import documents
from tests.faults.poison_stages import BreaksOff, Everything, Picky, PickyJoined, PickyWords
from tests.test_engine import chain, corpus, counts, plan_of, rows, run
from tests.toy_stages import CountRows, Fails, FirstWord, KillsItsWorkerOnce, Lines, MinLength, Upper

__all__ = ["corpus"]

BAD = "word1 text 2 1"


def drops(plan: Plan, folder: Path) -> list[dict[str, object]]:
    where = [folder / step.folder / "drops" for step in plan.steps]
    return [row for one in where for path in sorted(one.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def failed(plan: Plan, folder: Path) -> list[tuple[object, object, object]]:
    return [
        (row["stage"], row["origin"], row["reason"])
        for row in drops(plan, folder)
        if str(row["reason"]).startswith("failed: ")
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 3))
def test_halving_finds_exactly_the_rows_at_fault_and_keeps_all_others_in_order(bad: list[bool], group: int) -> None:
    texts = [f"{'bad' if one else 'good'} {n}" for n, one in enumerate(bad)]
    docs = documents(texts, key=[n // (group or 1) for n in range(len(texts))])

    def call(batch: pa.RecordBatch) -> pa.Array:
        if any(text.startswith("bad") for text in batch["text"].to_pylist()):
            raise ValueError
        return batch["text"]

    bounds = units(docs, "key" if group else None)
    first = attempt(call, docs)
    if not isinstance(first, BaseException):
        assert not any(bad)
        return
    found = list(pieces(call, docs, bounds, first))
    assert [text for piece, _ in found for text in piece["text"].to_pylist()] == texts
    lost = {text for piece, result in found if isinstance(result, BaseException) for text in piece["text"].to_pylist()}
    size = group or 1
    guilty = {n // size for n, one in enumerate(bad) if one}
    assert lost == {text for n, text in enumerate(texts) if n // size in guilty}
    piece, _ = culprit(call, docs, bounds, first)
    assert {int(text.split()[1]) // size for text in piece["text"].to_pylist()} == {min(guilty)}


def test_a_batch_that_fails_only_as_a_whole_names_no_record() -> None:
    docs = documents(["a", "b", "c"])

    def call(batch: pa.RecordBatch) -> pa.Array:
        if batch.num_rows == 3:
            raise ValueError
        return batch["text"]

    piece, _ = culprit(call, docs, units(docs, None), ValueError())
    assert piece.num_rows == 3


def test_an_error_is_told_on_one_bounded_printable_line() -> None:
    assert described(ValueError("first\x00line\nsecond")) == "ValueError: first line"
    assert described(ValueError()) == "ValueError"
    assert len(described(ValueError("x" * 5000))) < 250


@pytest.mark.parametrize("workers", [1, 2])
def test_the_record_at_fault_becomes_a_drop_that_names_error_step_and_record(
    corpus: Path, tmp_path: Path, workers: int
) -> None:
    plan = plan_of(chain(corpus, MinLength(), Step("fails", Fails(on=BAD), on_error="drop"), Upper()))
    done, _ = run(plan, tmp_path / "run", workers=workers)
    assert failed(plan, tmp_path / "run") == [("fails", "f2.txt#1", f"failed: ValueError: cannot digest '{BAD}'")]
    assert counts(done) == {
        "lines": (35, 30, 5), "min_length": (30, 25, 5), "fails": (25, 24, 1), "upper": (24, 24, 0),
    }  # fmt: skip
    clean = plan_of(chain(corpus, MinLength(), Upper()))
    run(clean, tmp_path / "clean")
    assert rows(plan, tmp_path / "run", "toy/upper") == [
        row for row in rows(clean, tmp_path / "clean", "toy/upper") if row["text"] != BAD.upper()
    ]


def test_only_the_first_line_of_a_message_becomes_the_reason_and_unreadable_errors_arrive(
    corpus: Path, tmp_path: Path
) -> None:
    plan = plan_of(chain(corpus, Step("picky", Picky(on=BAD), on_error="drop")))
    run(plan, tmp_path / "run", workers=2)
    assert failed(plan, tmp_path / "run") == [("picky", "f2.txt#1", "failed: ValueError: among 1")]
    stopping = plan_of(chain(corpus, Picky(on=BAD, how="unwritable")))
    with pytest.raises(StepFailed, match=r"part 2 \(f2.txt\) failed: Unwritable: this and that \(step 'picky'"):
        run(stopping, tmp_path / "stops", workers=2)


def test_by_default_the_run_stops_and_names_file_record_and_stage(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, Fails(on=BAD)))
    record = document_id("f2.txt", "1").hex()
    message = (
        rf"toy/fails, part 2 \(f2.txt\) failed: ValueError: cannot digest '{BAD}' "
        rf"\(step 'fails' of dataset 'toy', record {record}, f2.txt#1\)"
    )
    with pytest.raises(StepFailed, match=message):
        run(plan, tmp_path / "run")


def test_allowing_drops_after_a_stop_redoes_only_what_was_not_done_and_forbidding_them_again_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(StepFailed):
        run(plan_of(chain(corpus, Fails(on=BAD))), tmp_path / "run")
    allowed = plan_of(chain(corpus, Step("fails", Fails(on=BAD), on_error="drop")))
    _, quiet = run(allowed, tmp_path / "run")
    assert quiet.parts == [f"toy/fails#{n}" for n in (2, 3, 4)]
    with pytest.raises(
        StepFailed, match=r"step 'fails' of dataset 'toy' failed on 1 of 30 records, which became drops"
    ):
        run(plan_of(chain(corpus, Fails(on=BAD))), tmp_path / "run")


def test_a_group_goes_as_a_whole_when_the_stage_needs_whole_groups(corpus: Path, tmp_path: Path) -> None:
    class_ = Step("joined", PickyJoined(on="word1"), on_error="drop")
    plan = plan_of(chain(corpus, MinLength(), FirstWord(), class_))
    done, _ = run(plan, tmp_path / "run")
    assert counts(done)["joined"] == (25, 2, 10)
    assert len(rows(plan, tmp_path / "run", "toy/joined")) == 2
    assert {reason for _, _, reason in failed(plan, tmp_path / "run")} == {"failed: ValueError: cannot join"}


def test_stages_behind_an_exchange_of_whole_groups_lose_whole_groups(corpus: Path, tmp_path: Path) -> None:
    exchange = Exchange(by="first_word", partitions=2, max_group_bytes=1 << 20)
    plan = plan_of(chain(corpus, MinLength(), FirstWord(), exchange, Step("fails", Fails(on=BAD), on_error="drop")))
    done, _ = run(plan, tmp_path / "run")
    assert counts(done)["fails"] == (25, 15, 10)


def test_parents_of_a_failing_expand_are_drops(corpus: Path, tmp_path: Path) -> None:
    class_ = Step("words", PickyWords(on=BAD), on_error="drop")
    plan = plan_of(chain(corpus, MinLength(), class_))
    done, _ = run(plan, tmp_path / "run")
    assert counts(done)["words"] == (25, 96, 1)
    assert failed(plan, tmp_path / "run") == [("words", "f2.txt#1", "failed: ValueError: no words")]


def test_rows_outside_when_are_not_shown_to_the_filter(corpus: Path, tmp_path: Path) -> None:
    step = Step("picky", Picky(on=BAD), when="first_word == 'word2'")
    plan = plan_of(chain(corpus, FirstWord(), step))
    done, _ = run(plan, tmp_path / "run")
    assert counts(done)["picky"] == (30, 30, 0)


def test_a_fault_that_does_not_come_back_costs_no_record(corpus: Path, tmp_path: Path) -> None:
    memory = tmp_path / "once"
    plan = plan_of(chain(corpus, Step("picky", Picky(on=BAD, how="once", memory=str(memory)), on_error="drop")))
    done, _ = run(plan, tmp_path / "run")
    assert memory.exists()
    assert counts(done)["picky"] == (30, 30, 0)


def test_a_network_that_fails_is_no_records_fault() -> None:
    docs = documents(["a", BAD])
    with pytest.raises(ConnectionResetError):
        attempt(Picky(on=BAD, how="network").reasons, docs)


def test_a_stage_that_fails_on_everything_stops_the_run_whatever_on_error_says(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "f.txt").write_text("\n".join(f"line {n}" for n in range(300)))
    lines = Step("lines", Lines(folder=str(folder)))
    plan = plan_of(Chain("toy", (lines, Step("everything", Everything(), on_error="drop")), "everything"))
    with pytest.raises(StepFailed, match=r"fails on 256 of 256 records: on_error: drop is for single records"):
        run(plan, tmp_path / "run")
    for number in range(300):  # and when every part holds but one
        (folder / f"g{number:03d}.txt").write_text(f"line {number}")
    (folder / "f.txt").unlink()
    plan = plan_of(Chain("toy", (lines, Step("everything", Everything(), on_error="drop")), "everything"))
    with pytest.raises(StepFailed, match=r"step 'everything' of dataset 'toy' failed on 300 of 300 records"):
        run(plan, tmp_path / "run2")


def test_a_source_that_breaks_off_stops_the_run_and_names_its_part(tmp_path: Path) -> None:
    steps = (Step("breaks_off", BreaksOff()), Step("upper", Upper(), on_error="drop"))
    plan = plan_of(Chain("toy", steps, "upper"))
    with pytest.raises(StepFailed, match=r"toy/upper, part 0 \(broken.bin\) failed: ValueError: lost the thread"):
        run(plan, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("how", "name"), [("kill", r"SIGKILL \(out of memory\?\)"), ("segfault", "SIGSEGV")])
def test_a_record_that_takes_its_process_along_is_found_in_a_child_process(
    corpus: Path, tmp_path: Path, how: str, name: str
) -> None:
    plan = plan_of(chain(corpus, Step("picky", Picky(on=BAD, how=how), on_error="drop"), Upper()))
    done, _ = run(plan, tmp_path / "run", workers=2)
    assert counts(done)["picky"] == (30, 29, 1)
    ((step, origin, reason),) = failed(plan, tmp_path / "run")
    assert (step, origin) == ("picky", "f2.txt#1")
    assert pc.match_substring_regex(pa.array([reason]), rf"^failed: ProcessDied: killed by {name}$").to_pylist() == [
        True
    ]
    stopping = plan_of(chain(corpus, Picky(on=BAD, how=how)))
    with pytest.raises(StepFailed, match=rf"part 2 \(f2.txt\) failed: ProcessDied: killed by {name} .*f2.txt#1"):
        run(stopping, tmp_path / "stops", workers=2)


@pytest.mark.slow
def test_a_part_that_lost_its_worker_by_bad_luck_comes_out_whole(corpus: Path, tmp_path: Path) -> None:
    killer = KillsItsWorkerOnce(victim=BAD, memory=str(tmp_path / "killed"))
    plan = plan_of(chain(corpus, Step("killer", killer, on_error="drop"), CountRows()))
    done, _ = run(plan, tmp_path / "run", workers=2)
    assert counts(done)["killer"] == (30, 30, 0)


RECIPE = """
name: small
on_error: drop
datasets:
  a:
    from: {kind: jsonl, paths: "x/*.jsonl"}
    steps:
      - {kind: gopher_quality, on_error: stop}
      - {kind: exact_dedup}
"""


def test_a_recipe_says_on_error_for_all_steps_and_a_step_for_itself(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    (one,) = load_recipe(tmp_path / "r.yaml").chains()
    assert [(step.name, step.on_error) for step in one.steps[1:]] == [
        ("gopher_quality", "stop"),
        ("exact_dedup", "drop"),
    ]


def test_the_steps_of_a_compound_inherit_on_error_and_identity_does_not_know_it(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jsonl").write_text("{}\n")
    plans = []
    for line in ("on_error: drop", "on_error: stop"):
        text = RECIPE.replace("on_error: drop", line).replace("x/*.jsonl", f"{tmp_path}/x/*.jsonl")
        (tmp_path / "r.yaml").write_text(text)
        recipe = load_recipe(tmp_path / "r.yaml")
        plans.append(make_plan(recipe.chains(), 1, lambda path: InputFile(path, 0, "0"), lambda column: []))
    drop, stop = plans
    assert {n.on_error for n in drop.nodes.values() if n.name.startswith("exact_dedup")} == {"drop"}
    assert {n.on_error for n in stop.nodes.values()} == {"stop"}
    assert [s.fingerprint for s in drop.steps] == [s.fingerprint for s in stop.steps]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("on_error: drop", "on_error: skip", "r.yaml:3: on_error is stop or drop, not 'skip'"),
        ("on_error: stop", "on_error: 3", "r.yaml:8: on_error is stop or drop, not 3"),
        (
            'jsonl"}',
            'jsonl", on_error: drop}',
            "on_error belongs to a step: a source drops unreadable records by itself",
        ),
    ],
)
def test_other_words_for_on_error_are_refused_by_line(tmp_path: Path, before: str, after: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace(before, after))
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.yaml")
