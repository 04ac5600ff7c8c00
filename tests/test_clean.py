"""Housekeeping removes what nobody needs, and nothing else: the run stays whole, a rerun redoes nothing."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.engine import housekeeping
from pipeline.engine.executors import opened
from pipeline.engine.housekeeping import (
    EXCHANGE,
    SUPERSEDED,
    TEMPORARIES,
    UNLISTED,
    UPLOADS,
    find_unneeded,
    remove_unneeded,
)
from pipeline.engine.lock import RunIsLocked, locked
from pipeline.engine.plan import Plan, status_of
from pipeline.engine.printed import plan_json
from pipeline.engine.progress import watching
from pipeline.engine.run import Driver
from pipeline.engine.run_state import run_state
from pipeline.engine.storage import Storage
from pipeline.stage import Chain
from tests.test_engine import Quiet, chain, corpus, plan_of, run
from tests.toy_stages import MinLength, ShuffleKey, SortedTexts, TextFile, Upper, Words

__all__ = ["corpus"]


def made(plan: Plan, folder: Path) -> Quiet:
    """Runs `plan`, with the plan.json that the command writes."""
    Storage(str(folder)).write_json("plan.json", plan_json(plan))
    return run(plan, folder)[1]


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "lock"
    }


def two_exchanges(corpus: Path, least: int = 3, words: int = 0) -> Plan:
    """Rows pass two exchanges, one directly behind the other, and end as words."""
    return plan_of(
        chain(corpus, MinLength(least=least), SortedTexts(), Words(least=words)),
        Chain(
            "again", (_step("upper", Upper(), "dataset:toy"), _step("by_first_word", SortedTexts())), "by_first_word"
        ),
    )


def _step(name: str, stage: object, *after: str) -> object:
    from pipeline.stage import Step

    return Step(name, stage, after=after)  # type: ignore[arg-type]


def test_a_dry_run_touches_nothing(corpus: Path, tmp_path: Path) -> None:
    made(two_exchanges(corpus), tmp_path / "run")
    before = files(tmp_path / "run")
    assert find_unneeded(Storage(str(tmp_path / "run"))).bytes > 0
    assert files(tmp_path / "run") == before
    assert not (tmp_path / "run" / "lock").exists()


def test_cleaned_exchanges_are_not_made_again_by_a_rerun(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plan = two_exchanges(corpus)
    made(plan, folder)
    before = files(folder)
    expected = find_unneeded(Storage(str(folder)))
    removed = remove_unneeded(Storage(str(folder)))
    assert removed.groups == expected.groups
    assert {why for why, _ in removed.groups} == {EXCHANGE}
    assert not list(folder.rglob("part-*.exchange*"))
    kept = {path: digest for path, digest in files(folder).items() if not path.endswith("manifest.json")}
    assert kept == {p: d for p, d in before.items() if p in kept}
    assert {p for p in before if "/drops/" in p or "/account/" in p} <= kept.keys()
    assert made(plan, folder).parts == []
    assert find_unneeded(Storage(str(folder))).groups == {}


def test_a_cleaned_exchange_is_made_again_when_a_changed_step_reads_it(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made(two_exchanges(corpus), folder)
    remove_unneeded(Storage(str(folder)))
    changed = two_exchanges(corpus, words=4)
    statuses = status_of(changed, Storage(str(folder)))
    why = statuses["toy/by_first_word/exchange"].why
    assert why == "its files were cleaned away, and toy/words reads them again"
    quiet = made(changed, folder)
    assert "toy/by_first_word/exchange#4" in quiet.parts
    made(changed, tmp_path / "fresh")
    ours = {p: d for p, d in files(folder).items() if p.endswith((".parquet", ".exchange"))}
    fresh = {p: d for p, d in files(tmp_path / "fresh").items() if p.endswith((".parquet", ".exchange"))}
    assert fresh == {p: d for p, d in ours.items() if p in fresh}


def test_a_kill_while_a_cleaned_step_is_reopened_leaves_it_to_be_made_again(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plan = plan_of(chain(corpus, MinLength(), SortedTexts()))
    made(plan, folder)
    remove_unneeded(Storage(str(folder)))
    exchange, rows = (folder / step.folder for step in plan.steps)
    (rows / "manifest.json").unlink()
    (exchange / "account" / "part-00000.json").unlink()  # as far as a reopening came before it was killed
    assert sorted(made(plan, folder).parts) == [f"toy/by_first_word/exchange#{n}" for n in range(5)]
    assert (exchange / "part-00004.exchange").exists()


def test_steps_of_earlier_settings_go_and_the_plan_in_force_stays(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    old, new = plan_of(chain(corpus, MinLength(least=3))), plan_of(chain(corpus, MinLength(least=4)))
    made(old, folder)
    made(new, folder)
    removed = remove_unneeded(Storage(str(folder)))
    assert [(why, place) for why, place in removed.groups] == [(SUPERSEDED, old.steps[0].folder)]
    assert not (folder / old.steps[0].folder).exists()
    assert made(new, folder).parts == []


def test_shards_that_no_sink_lists_go_once_the_plan_is_done(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "SHARD_FOLDERS", ("out",))
    monkeypatch.setattr(housekeeping, "_SHARD_NAME", housekeeping.re.compile(r".+\.txt"))
    folder = tmp_path / "run"
    plan = plan_of(chain(corpus, MinLength(), ShuffleKey(), TextFile()))
    made(plan, folder)
    (folder / "out" / "part-00099.txt").write_text("of an earlier plan")
    (folder / "out" / "notes.md").write_text("somebody's own")
    manifest = folder / plan.steps[-1].folder / "manifest.json"
    whole = manifest.read_bytes()
    manifest.unlink()
    unfinished = find_unneeded(Storage(str(folder)))
    assert unfinished.groups == {}
    assert any("stay until it is done" in note for note in unfinished.notes)
    manifest.write_bytes(whole)
    assert remove_unneeded(Storage(str(folder))).groups == {(UNLISTED, "out"): [1, 18]}
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["notes.md", *(f"part-0000{n}.txt" for n in range(5))]


def test_going_back_to_earlier_settings_writes_what_later_ones_wrote_over(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first, second = (plan_of(chain(corpus, MinLength(least=n), ShuffleKey(), TextFile())) for n in (3, 15))
    made(first, folder)
    before = {p.name: p.read_bytes() for p in (folder / "out").iterdir()}
    made(second, folder)
    assert {p.name: p.read_bytes() for p in (folder / "out").iterdir()} != before
    made(first, folder)
    assert {p.name: p.read_bytes() for p in (folder / "out").iterdir()} == before
    assert made(first, folder).parts == []


def test_half_written_files_go(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plan = plan_of(chain(corpus, MinLength()))
    made(plan, folder)
    for where in (folder / plan.steps[0].folder, folder / "tokens" / "web", folder):
        where.mkdir(parents=True, exist_ok=True)
        (where / ".tmp-123-0123abcd-part-00000.parquet").write_bytes(b"half")
    (folder / ".tmp-mine").write_bytes(b"somebody's own")
    removed = remove_unneeded(Storage(str(folder)))
    assert removed.groups == {
        (TEMPORARIES, plan.steps[0].folder): [1, 4], (TEMPORARIES, "tokens/web"): [1, 4], (TEMPORARIES, "."): [1, 4],
    }  # fmt: skip
    assert (folder / ".tmp-mine").exists()
    assert not (folder / "tokens" / "web").exists()


def test_symbolic_links_are_neither_followed_nor_removed(corpus: Path, tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    plan = plan_of(chain(corpus, MinLength()))
    made(plan, folder)
    (outside / "00-old-0123abcd").mkdir(parents=True)
    (outside / "00-old-0123abcd" / "part-00000.parquet").write_bytes(b"theirs")
    (folder / "datasets" / "linked").symlink_to(outside, target_is_directory=True)
    (folder / "datasets" / "toy" / "07-linked-0123abcd").symlink_to(
        outside / "00-old-0123abcd", target_is_directory=True
    )
    inner = folder / "datasets" / "toy" / "08-old-0123abcd"
    inner.mkdir()
    (inner / "deep").symlink_to(outside, target_is_directory=True)
    (inner / "part-00000.parquet").write_bytes(b"ours")
    (folder / "tokens").symlink_to(outside, target_is_directory=True)
    removed = remove_unneeded(Storage(str(folder)))
    assert removed.groups == {(SUPERSEDED, "datasets/toy/08-old-0123abcd"): [1, 4]}
    assert (outside / "00-old-0123abcd" / "part-00000.parquet").read_bytes() == b"theirs"
    assert (inner / "deep").is_symlink()
    assert sum("symbolic link" in note for note in removed.notes) == 4


def test_a_folder_swapped_for_a_link_after_it_was_found_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run" / "datasets").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "part-00000.parquet").write_bytes(b"theirs")
    (tmp_path / "run" / "datasets" / "toy").symlink_to(tmp_path / "outside", target_is_directory=True)
    remover = housekeeping._Remover(Storage(str(tmp_path / "run")))
    assert not remover.remove("datasets/toy/part-00000.parquet")
    assert (tmp_path / "outside" / "part-00000.parquet").exists()


def test_nothing_is_removed_while_a_run_works_there(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made(two_exchanges(corpus), folder)
    before = files(folder)
    with locked(Storage(str(folder))), pytest.raises(RunIsLocked):
        remove_unneeded(Storage(str(folder)))
    assert files(folder) == before


def test_a_folder_that_is_no_steps_is_left_alone_and_told(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made(plan_of(chain(corpus, MinLength())), folder)
    (folder / "datasets" / "toy" / "my notes").mkdir()
    (folder / "datasets" / "toy" / "my notes" / "a.txt").write_text("mine")
    assert remove_unneeded(Storage(str(folder))).notes == ["datasets/toy/my notes: no step's folder, left alone"]
    assert (folder / "datasets" / "toy" / "my notes" / "a.txt").exists()


@pytest.mark.slow
def test_a_run_on_s3_is_watched_told_and_cleaned_like_one_on_a_disk(corpus: Path) -> None:
    from tests.s3_server import moto

    with moto("runs"):
        storage = Storage("s3://runs/toy")
        plan = two_exchanges(corpus)
        storage.write_json("plan.json", {"name": "toy", **plan_json(plan)})
        storage.write("datasets/toy/09-old-0123abcd/part-00000.parquet", b"of earlier settings")
        text = io.StringIO()
        with opened("local", storage.address, workers=1, cluster=None) as executor:
            with watching(storage, executor, Console(file=text), title="toy", workers=1, plain=True) as told:
                Driver(plan, storage, executor, told).run()
        storage.write_json("run.json", {"finished": 1.0})
        events = [json.loads(one) for n in storage.names("events") for one in storage.read(f"events/{n}").splitlines()]
        assert (events[0]["event"], events[-1]["event"], events[-1]["state"]) == ("run_started", "run_ended", "done")
        assert sum(event["event"] == "part_done" for event in events) == sum(
            step["parts"] for step in storage.read_json("progress.json")["steps"].values()
        )
        state = run_state(storage)
        assert (state.state, state.holder, state.progress.steps["toy/words"].rows) == ("done", None, 100)
        storage.fs.call_s3("create_multipart_upload", Bucket="runs", Key="toy/tokens/x.arrow")
        storage.fs.call_s3("create_multipart_upload", Bucket="runs", Key="toy-neighbour/x.arrow")
        storage.fs.pipe_file("runs/toy-neighbour/part-00000.parquet", b"theirs")
        found = find_unneeded(storage)
        assert {why for why, _ in found.groups} == {EXCHANGE, SUPERSEDED, UPLOADS}
        assert remove_unneeded(storage).groups == found.groups
        assert find_unneeded(storage).groups == {}
        assert storage.fs.cat_file("runs/toy-neighbour/part-00000.parquet") == b"theirs"
        left = storage.fs.call_s3("list_multipart_uploads", Bucket="runs")["Uploads"]
        assert [upload["Key"] for upload in left] == ["toy-neighbour/x.arrow"]
        assert run(plan, storage.address)[1].parts == []
