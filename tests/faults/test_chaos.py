"""Kills of everything that can be killed, in short: the same bytes, no row lost, none doubled. Long form: benchmarks/chaos.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.engine.storage import Storage
from tests.faults.chaos import (
    LOCAL_KINDS,
    RAY_KINDS,
    Kill,
    Round,
    Undisturbed,
    disturbed,
    lost_and_doubled,
    planned,
    table,
    undisturbed,
)
from tests.faults.ray_nodes import ray_nodes

MINI = Path(__file__).parents[1] / "recipes" / "mini.yaml"


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The run that nobody disturbed."""
    return undisturbed(MINI, tmp_path_factory.mktemp("chaos"))


def assert_right(done: Round, kills: int, log: Path) -> None:
    assert len(done.kills) == kills, log.read_text()[-3000:]
    assert done.errors == []
    assert (done.ended, done.same_digest, done.lost, done.doubled, done.redone) == (True, True, 0, 0, 0)


@pytest.mark.slow
def test_killed_workers_and_drivers_lose_and_double_no_row(peace: Undisturbed, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    plan = planned(7, LOCAL_KINDS, 5, peace.parts)
    assert_right(disturbed(MINI, str(tmp_path / "run"), plan, peace, log=log), 5, log)


@pytest.mark.slow
def test_a_killed_ray_node_worker_and_driver_lose_and_double_no_row(peace: Undisturbed, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    plan = planned(8, RAY_KINDS, 3, peace.parts)
    with ray_nodes() as nodes:
        assert_right(disturbed(MINI, str(tmp_path / "run"), plan, peace, nodes, log=log), 3, log)


@pytest.mark.slow
def test_the_comparison_sees_one_row_that_is_missing_and_one_that_is_there_twice(
    peace: Undisturbed, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(peace.address, copy)
    assert lost_and_doubled(peace.rows, str(copy)) == (0, 0)
    steps = Storage(str(copy)).read_json("plan.json")["steps"]
    folder = next(step["folder"] for step in steps if step["keep"] and step["dataset"] == "web")
    part = next(p for p in sorted((copy / folder).glob("part-*.parquet")) if pq.read_metadata(p).num_rows > 1)
    rows = pq.read_table(part)
    pq.write_table(rows.slice(1), part)
    assert lost_and_doubled(peace.rows, str(copy)) == (1, 0)
    pq.write_table(rows, part)
    pq.write_table(rows.slice(0, 2), part.with_name("part-99999.parquet"))
    assert lost_and_doubled(peace.rows, str(copy)) == (0, 2)


def test_a_plan_of_kills_follows_its_seed_and_takes_the_kinds_in_turn() -> None:
    plan = planned(3, LOCAL_KINDS, 5, 250)
    assert plan == planned(3, LOCAL_KINDS, 5, 250) != planned(4, LOCAL_KINDS, 5, 250)
    assert [kill.kind for kill in plan] == ["pool worker", "driver", "pool worker", "driver", "pool worker"]
    moments = [kill.after_parts for kill in plan]
    assert moments == sorted(moments)
    assert all(1 <= moment <= 226 for moment in moments)


def test_the_table_counts_a_kill_as_right_only_where_its_run_ended_right() -> None:
    kills = [Kill("driver", 1, 0.0, 0.0), Kill("pool worker", 2, 0.0, 0.0)]
    right = Round(kills, starts=2, ended=True, same_digest=True, lost=0, doubled=0)
    wrong = Round(kills[:1], starts=1, ended=True, same_digest=True, lost=3, doubled=0)
    lines = [line.split() for line in table([right, wrong]).splitlines()]
    assert lines[1:4] == [["driver", "2", "1"], ["pool", "worker", "1", "1"], ["all", "3", "2"]]
    assert "rows lost 3, doubled 0" in table([right, wrong])
