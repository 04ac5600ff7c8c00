"""The quickstart in small, as a person runs it: the same bytes whoever runs it and however often it is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from pipeline.catalog import producers
from pipeline.engine.plan import make_plan
from pipeline.engine.printed import plan_lines
from pipeline.ingest.paths import input_file
from pipeline.recipe import load_recipe
from tests.mini_run import MINI, ROOT, digest, tokenmill

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", [("--workers", "2"), ("--executor", "ray", "--workers", "2")])
def test_every_executor_gives_the_same_shards(mini_digest: str, tmp_path: Path, how: tuple[str, ...]) -> None:
    tokenmill("run", MINI, "--out", tmp_path / "run", *how)
    assert digest(tmp_path / "run", "--no-megatron") == mini_digest


def test_a_run_killed_at_five_random_moments_ends_in_the_same_shards_and_redoes_nothing(
    mini: Path, mini_digest: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    undisturbed = json.loads((mini / "run.json").read_text())["seconds"]
    rng = random.Random(45)
    kills = 0
    command = [sys.executable, "-m", "pipeline.cli", "run", str(MINI), "--out", str(run), "--workers", "2"]
    for _ in range(5):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(rng.uniform(0.1, 0.4) * undisturbed)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 5
    time.sleep(1)  # workers notice within half a second that their driver is gone
    tokenmill("run", MINI, "--out", run, "--workers", "2")
    assert digest(run, "--no-megatron") == mini_digest
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    parts = [(event["step"], event["part"]) for event in events if event["event"] == "part_done"]
    assert len(parts) == len(set(parts))


def test_the_five_phases_are_delivered_in_proportion(mini: Path, mini_digest: str) -> None:
    with duckdb.connect(str(mini / "catalog.duckdb"), read_only=True) as con:
        rows = con.execute(
            "select phase, sum(tokens_planned)::bigint, sum(tokens_delivered)::bigint from ledger group by phase order by min(phase_index)"
        ).fetchall()
        shards = dict(
            con.execute(
                "select phase, sum(tokens * reads)::bigint from shards where format = 'arrow' group by phase"
            ).fetchall()
        )
        by = con.execute("select distinct delivered_by from ledger").fetchall()
    lengths = [256, 256, 1024, 1024, 2048]
    assert [planned for _, planned, _ in rows] == [1_500_000, 700_000, 50_000, 50_000, 10_000]
    for (phase, planned, delivered), length in zip(rows, lengths, strict=True):
        allowed = max(0.005 * planned, length)
        assert abs(delivered - planned) <= allowed, phase
        assert abs(shards[phase] - planned) <= allowed, phase
    assert by == [("megatron-core",)]


def test_the_account_balances_from_the_first_record_to_the_last_shard(mini: Path) -> None:
    with duckdb.connect(str(mini / "catalog.duckdb"), read_only=True) as con:
        off = con.execute(
            "select dataset, step from accounts where kind not in ('expand', 'fold') group by all "
            "having sum(rows_in) <> sum(rows_out) + sum(rows_dropped)"
        ).fetchall()
        drops, accounted = con.execute(
            "select (select count(*) from drops), (select sum(rows_dropped) from accounts)"
        ).fetchall()[0]
        unexplained = con.execute("select count(*) from drops where reason is null or reason = ''").fetchall()[0][0]
        kept = dict(con.execute("select dataset, count(*) from documents where kept group by 1").fetchall())
        written = dict(
            con.execute(
                "select dataset, sum(rows_out)::bigint from accounts where step = 'token_shards' group by 1"
            ).fetchall()
        )
    assert off == []
    assert drops == accounted > 0
    assert unexplained == 0
    assert {name: kept[name] for name in written} == written


def test_a_changed_late_setting_reruns_that_step_and_what_follows(mini: Path, mini_digest: str, tmp_path: Path) -> None:
    changed = tokenmill("plan", MINI, "--out", mini, "--set", "datasets.code.steps.fim.rate=0.25").stdout
    assert "code/fim: rate 0.5 -> 0.25" in changed
    recipe = load_recipe(MINI, ["datasets.code.steps.fim.rate=0.25"])
    plan = make_plan(recipe.chains(), recipe.seed, input_file, producers)
    lines = plan_lines(plan)
    assert lines
    from pipeline.engine.plan import status_of
    from pipeline.engine.storage import Storage

    statuses = status_of(plan, Storage(str(mini)))
    rerun = {key for key, status in statuses.items() if not status.done}
    assert "code/fim" in rerun
    assert not any(
        key.startswith(("web/warc", "code/exact_dedup", "code/minhash", "repositories/repository_documents"))
        for key in rerun
    )
    assert statuses["reasoning/exact_dedup/keep_first"].done


def test_trace_tells_of_a_kept_and_a_dropped_document_and_from_a_token_to_its_file(mini: Path) -> None:
    with duckdb.connect(str(mini / "catalog.duckdb"), read_only=True) as con:
        kept, origin = con.execute(
            "select id, origin from documents where dataset = 'code' and kept order by id limit 1"
        ).fetchall()[0]
        dropped = con.execute("select id from drops where dataset = 'web' and reason = 'same_text' limit 1").fetchall()[
            0
        ][0]
    story = tokenmill("trace", mini, kept).stdout
    for word in ("code_rules", "fim", "token_shards", kept):
        assert word in story
    story = tokenmill("trace", mini, dropped).stdout
    assert "same_text" in story
    assert "kept instead" in story
    assert kept in tokenmill("trace", mini, origin).stdout
    shard = sorted((mini / "megatron" / "repository_code").glob("*.bin"))[0]
    story = tokenmill("trace", mini, f"{shard}:100").stdout
    assert "repositories" in story
    assert "made from" in story or "origin" in story


def test_the_catalog_answers_from_any_working_directory(mini: Path, tmp_path: Path) -> None:
    code = f"import duckdb; print(duckdb.connect({str(mini / 'catalog.duckdb')!r}, read_only=True).execute('select count(*) from buckets').fetchall()[0][0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
    assert "web" in tokenmill("inspect", mini).stdout
    assert "count_star()" in tokenmill("inspect", mini, "--sql", "select count(*) from drops").stdout
    wrong = tokenmill("inspect", mini, "--sql", "select nothing", check=False)
    assert (wrong.returncode, "nothing" in wrong.stderr) == (1, True)


def test_verify_notices_a_changed_byte(mini: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(mini, copy)
    shard = sorted((copy / "megatron" / "general").glob("*.bin"))[0]
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    done = tokenmill("verify", copy, "--no-megatron", check=False)
    assert done.returncode == 1
    assert "its bytes changed since they were written" in done.stderr


def test_an_infeasible_budget_is_refused_with_the_missing_amount(mini: Path, tmp_path: Path) -> None:
    done = tokenmill("run", MINI, "--out", mini, "--set", "curriculum.scale=1e-5", check=False)
    assert done.returncode == 1
    assert re.search(r"dataset 'web' cannot fill phases .* tokens are missing", done.stderr.replace("\n", " "))
    tokenmill("run", MINI, "--out", mini)


@pytest.mark.parametrize("name", ["quickstart"])
def test_a_recipes_plan_is_its_golden_copy(name: str) -> None:
    """To accept a change of plan: python -m tests.golden quickstart."""
    from tests.golden import golden_lines, path_of

    assert golden_lines(ROOT / "recipes" / f"{name}.yaml") == path_of(name).read_text().splitlines()
