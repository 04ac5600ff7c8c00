"""What a run tells while it goes on and afterwards: counts, estimates, events, the tree, the state of a folder."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.engine.account import PartAccount
from pipeline.engine.executors import opened
from pipeline.engine.lock import holder_of, locked
from pipeline.engine.plan import Plan, status_of
from pipeline.engine.printed import plan_json
from pipeline.engine.progress import EventLog, Progress, StepProgress, duration, size_words, watching
from pipeline.engine.run import Driver, StepFailed
from pipeline.engine.run_state import run_state
from pipeline.engine.storage import Storage
from pipeline.engine.terminal import HEARTBEAT_SECONDS, Lines, PlainLines, roughly
from tests.test_engine import chain, corpus, plan_of
from tests.toy_stages import Fails, MinLength, SortedTexts, Upper, Words

__all__ = ["corpus"]


def watched(plan: Plan, folder: Path, workers: int = 1) -> str:
    """Runs `plan` as the command does, without a terminal; what it printed."""
    storage = Storage(str(folder))
    storage.write_json("plan.json", plan_json(plan))
    storage.write_json("run.json", {"executor": "local", "workers": workers, "finished": None})
    text = io.StringIO()
    with locked(storage), opened("local", storage.address, workers=workers, cluster=None) as executor:
        console = Console(file=text, width=200)
        with watching(storage, executor, console, title="toy", workers=workers, plain=False) as told:
            Driver(plan, storage, executor, told).run()
            storage.write_json("run.json", {"executor": "local", "workers": workers, "finished": time.time()})
    return text.getvalue()


def events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def many_steps(datasets: int, steps: int, running: int) -> Progress:
    """`running` steps of the first datasets at work, those before them done, the last dataset waiting."""
    progress = Progress("huge", "/runs/huge", workers=8)
    now = time.monotonic()
    progress.began = now - 100
    for d in range(datasets):
        for s in range(steps):
            one = StepProgress(f"d{d}/s{s}", f"d{d}", f"minhash_dedup/some_long_step_name_{s}", parts=1000)
            if d < running and s <= steps // 2:
                one.state, one.parts_done, one.began, one.last_part = "running", 400, now - 50, now - 1
                one.rows_in, one.dropped, one.reasons, one.bytes_in = 10**6, 999, Counter(too_short=999), 10**9
                if s < steps // 2:
                    one.state, one.parts_done, one.ended, one.order = "done", 1000, now - 10, s + 1
            progress.steps[one.key] = one
    return progress


def test_every_event_of_a_run_stands_in_order_in_its_log(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), SortedTexts()))
    watched(plan, tmp_path / "run")
    found = events(tmp_path / "run")
    assert len({event["run"] for event in found}) == 1
    assert [event["time"] for event in found] == sorted(event["time"] for event in found)  # type: ignore[type-var]
    first, last = found[0], found[-1]
    assert (first["event"], first["executor"], first["workers"]) == ("run_started", "local", 1)
    assert first["packages"]["pyarrow"]  # type: ignore[index]
    assert (last["event"], last["state"]) == ("run_ended", "done")
    parts = [(e["step"], e["part"]) for e in found if e["event"] == "part_done"]
    assert len(parts) == len(set(parts)) == 5 + 3
    sums = {e["step"]: (e["rows"], e["dropped"]) for e in found if e["event"] == "step_done"}
    assert sums == {"toy/by_first_word/exchange": (25, 10), "toy/by_first_word/exchange/rows": (25, 0)}
    assert sum(e["bytes_in"] for e in found if e["event"] == "part_done") == sum(  # type: ignore[misc]
        p.stat().st_size for p in corpus.iterdir()
    )


def test_a_log_that_ends_in_half_a_line_is_continued_on_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "par')
    EventLog(Storage(str(tmp_path)), "r2").write("plan", steps=1)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[0] == '{"event": "par'
    assert json.loads(lines[1])["event"] == "plan"


def test_events_that_cannot_be_written_wait_and_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    log = EventLog(Storage(str(tmp_path)), "r")
    log.write("plan", steps=1)
    (tmp_path / "events.jsonl").rmdir()
    log.write("plan", steps=2)
    assert [event["steps"] for event in events(tmp_path)] == [1, 2]


def test_an_error_is_an_event_and_a_failed_state_with_its_message(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, Fails(on="word1 text 2 1")))
    with pytest.raises(StepFailed):
        watched(plan, tmp_path / "run")
    error, ended = events(tmp_path / "run")[-2:]
    assert (error["event"], error["error"], ended["state"]) == ("error", "StepFailed", "failed")
    assert "cannot digest 'word1 text 2 1'" in str(error["message"])
    state = run_state(Storage(str(tmp_path / "run")))
    assert (state.state, state.exit_code) == ("failed", 1)
    assert "toy/fails, part 2" in state.sentence()


def test_the_state_of_a_folder_is_done_running_or_interrupted(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), Upper()))
    run = tmp_path / "run"
    watched(plan, run)
    storage = Storage(str(run))
    state = run_state(storage)
    step = state.progress.steps["toy/upper"]
    assert (state.state, state.exit_code, step.rows, step.dropped, step.parts) == ("done", 0, 25, 10, 5)
    with locked(storage):
        assert (run_state(storage).state, run_state(storage).exit_code) == ("running", 3)
    (run / plan.steps[0].folder / "manifest.json").unlink()
    (run / plan.steps[0].folder / "account" / "part-00004.json").unlink()
    state = run_state(storage)
    assert (state.state, state.exit_code) == ("interrupted", 3)
    assert (state.progress.steps["toy/upper"].parts_done, state.progress.steps["toy/upper"].parts) == (4, 5)


def test_looking_at_a_run_writes_nothing_and_needs_no_progress_file(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength()))
    watched(plan, tmp_path / "run")
    (tmp_path / "run" / "progress.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert run_state(Storage(str(tmp_path / "run"))).state == "done"
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_plain_lines_name_each_step_once_and_a_rerun_reuses(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength(), Words(least=3)))
    said = watched(plan, tmp_path / "run")
    assert re.search(r"^start  toy/words: 5 parts$", said, re.MULTILINE)
    assert re.search(r"^done   toy/words: 50 rows out, 10 dropped in [\d.]+s$", said, re.MULTILINE)
    assert "reuse  toy/words: 5 parts, 50 rows" in watched(plan, tmp_path / "run")


def test_a_heartbeat_tells_of_steps_that_take_long(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(chain(corpus, MinLength()))
    progress = Progress("toy", "x")
    text = io.StringIO()
    lines = PlainLines(Console(file=text, width=200), progress)
    progress.plan(plan, status_of(plan, Storage(str(tmp_path))))
    progress.step_started(plan.steps[0], 5, 0)
    progress.part_done(plan.steps[0], PartAccount(0, "p", 10, bytes_in=3_000_000, reasons={"x: too_short": 3}))
    lines.tick()
    assert text.getvalue() == ""
    step = progress.steps["toy/min_length"]
    step.began, step.last_part = time.monotonic() - 60, time.monotonic() - 30
    step.dropped, step.bytes_total = 3, 9_000_000
    lines._said -= HEARTBEAT_SECONDS
    lines.tick()
    assert re.fullmatch(
        r"\.\.\.    toy/min_length: 1 of 5 parts, 0\.1 MB/s, 3 dropped \(too_short 3\), 1m00s, 30\.\ds left\n"
        r"\.\.\.    0 of 1 steps, \d\.\ds, about 30s left\n",
        text.getvalue(),
    )


@pytest.mark.parametrize(
    ("parts_done", "began", "last", "seconds_left"),
    [(2, 20, 0, 20), (2, 20, 4, 12), (2, 25, 20, 4), (0, 10, None, None)],
)
def test_time_left_counts_down_between_parts_and_up_when_one_is_late(
    parts_done: int, began: float, last: float | None, seconds_left: float | None
) -> None:
    step = StepProgress("a/b", "a", "b", state="running", parts=4, parts_done=parts_done, began=1000.0 - began)
    step.last_part = None if last is None else 1000.0 - last
    assert step.left(1000.0) == (None if seconds_left is None else pytest.approx(seconds_left))


def test_time_left_of_a_source_goes_by_bytes() -> None:
    step = StepProgress("a/b", "a", "b", state="running", parts=2, parts_done=1, began=0.0, last_part=10.0)
    step.bytes_in, step.bytes_total = 100, 1000
    assert step.left(10.0) == pytest.approx(90.0)


def test_time_left_of_a_run_needs_finished_steps_and_spreads_over_workers() -> None:
    progress = Progress(workers=2)
    progress.began = 0.0
    for n in range(6):
        one = StepProgress(f"a/{n}", "a", str(n), "rows")
        if n < 3:
            one.state, one.seconds = "done", 10.0
        progress.steps[one.key] = one
    assert progress.left(15.0) == pytest.approx(15.0)  # 30 s of work to come, 2 at a time as so far
    progress.steps["a/2"].state = "waiting"
    assert progress.left(15.0) is None


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (60, 12), (200, 50)])
@pytest.mark.parametrize("running", [1, 5, 12])
def test_the_tree_fits_the_terminal_however_many_steps_there_are(width: int, height: int, running: int) -> None:
    lines = Lines(width).tree(many_steps(12, 8, running), time.monotonic(), height)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    text = "\n".join(line.plain for line in lines)
    assert "400/1,000" in text
    assert "long_step_name_4" in text


def test_the_tree_says_what_each_step_does_and_why_rows_go() -> None:
    text = "\n".join(line.plain for line in Lines(100).tree(many_steps(2, 4, 1), time.monotonic(), 27))
    assert re.search(r"▸ .*some_long_step_name_2 .*400/1,000 +20,408 +20 +999 +50\.0s +1m1\ds", text)
    assert "dropped: too_short 999" in text
    assert re.search(r"^d0  2 of 4 steps", text, re.MULTILINE)
    assert re.search(r"^d1  waiting, 4 steps", text, re.MULTILINE)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    lines = Lines(100, ascii_only=True)
    progress = many_steps(3, 4, 2)
    drawn = [*lines.head(progress, time.monotonic()), *lines.tree(progress, time.monotonic(), 27)]
    assert all(line.plain.isascii() for line in drawn)


def test_durations_and_sizes_are_short() -> None:
    assert [duration(s) for s in (7.26, 59.96, 245, 7800, 273600)] == ["7.3s", "1m00s", "4m05s", "2h10m", "3d04h"]
    assert [size_words(s) for s in (812, 4_310_000, 999_600, 1.2e12)] == ["812 B", "4.3 MB", "1.0 MB", "1.2 TB"]
    assert [roughly(s) for s in (2, 38, 57, 150, 6000)] == ["5s", "40s", "1m", "2m", "1h40m"]


def test_looking_at_a_folder_never_keeps_a_run_from_starting(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with locked(storage):
        pass
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            holder_of(storage)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            with locked(storage):
                pass
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_live_tree_redraws_and_goes_at_a_good_end_and_stays_at_a_bad_one(corpus: Path, tmp_path: Path) -> None:
    for number, (stage, state) in enumerate([(Upper(), "done"), (Fails(on="word1 text 2 1"), "failed")]):
        text = io.StringIO()
        console = Console(file=text, force_terminal=True, width=100, height=30, color_system=None)
        storage = Storage(str(tmp_path / str(number)))
        with contextlib.suppress(StepFailed), opened("local", storage.address, workers=1, cluster=None) as executor:
            with watching(storage, executor, console, title="toy", workers=1, plain=False) as told:
                Driver(plan_of(chain(corpus, MinLength(), stage)), storage, executor, told).run()
        last = text.getvalue().rsplit("\x1b[?25h", 1)[0]
        assert ("0 of 1 steps" in last) == (state == "failed")
        assert json.loads(storage.read("progress.json"))["state"] == state
        erased_at_the_end = text.getvalue().endswith(("\x1b[2K", "\x1b[2K\r"))
        assert erased_at_the_end == (state == "done")


def test_a_run_that_is_stopped_is_interrupted_and_not_failed(corpus: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), opened("local", storage.address, workers=1, cluster=None) as executor:
        with watching(storage, executor, Console(file=io.StringIO()), title="", workers=1, plain=True):
            raise KeyboardInterrupt
    assert events(tmp_path)[-1]["state"] == "interrupted"
    assert json.loads(storage.read("progress.json"))["error"] is None


@pytest.mark.slow
def test_a_runs_numbers_appear_at_rays_metrics_endpoint(corpus: Path, tmp_path: Path) -> None:
    """Ray serves metrics where it is installed as `ray[default]`."""
    for needed in ("prometheus_client", "opencensus", "opentelemetry.exporter.prometheus"):
        pytest.importorskip(needed)
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _metrics_export_port=port)
    try:
        plan, storage = plan_of(chain(corpus, MinLength())), Storage(str(tmp_path / "run"))
        with opened("ray", storage.address, workers=1, cluster=None) as executor:
            with watching(storage, executor, Console(file=io.StringIO()), title="", workers=1, plain=True) as told:
                Driver(plan, storage, executor, told).run()
                found = _scraped(port, "ray_tokenmill_rows_total")
        assert found == [25, 10, 5, 5]
    finally:
        ray.shutdown()


def _scraped(port: int, first: str) -> list[float]:
    """rows, rows_dropped, parts and parts_done of toy/min_length, once Ray has reported them (every 10 s)."""
    until = time.monotonic() + 60
    text = ""
    while first not in text and time.monotonic() < until:
        time.sleep(1)
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page,
        ):
            text = page.read().decode()
    values = []
    for name in ("rows_total", "rows_dropped_total", "parts", "parts_done"):
        lines = [line for line in text.splitlines() if line.startswith(f"ray_tokenmill_{name}{{")]
        assert len(lines) == 1, (name, lines)
        assert 'dataset="toy"' in lines[0]
        assert 'step="min_length"' in lines[0]
        values.append(float(lines[0].rsplit(" ", 1)[1]))
    return values
