"""The solver: exact about targets, pins, caps and order; optimal; and plain about what cannot be met."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from pipeline.curriculum.exposure import REPETITION_DECAY, Exposure, Problem, check, repeated_value, solve, water_fill
from pipeline.curriculum.shortfall import InfeasibleCurriculum
from pipeline.curriculum.solver import SOLUTION, SolveCurriculum, ladder, problem_of, solution, supplies, whole_parts
from pipeline.curriculum.spec import Curriculum

WEB = ["low", "medium_low", "medium", "medium_high", "high"]


def curriculum(epochs: dict[str, Any] | None = None, scale: float = 1.0, **phases: Any) -> Curriculum:
    """phases: name = (tokens, mix)"""
    return Curriculum.model_validate(
        {
            "scale": scale,
            "epochs": epochs or {},
            "phases": [
                {"name": name, "tokens": tokens, "sequence_length": 1024, "packing": "concatenate", "mix": mix}
                for name, (tokens, mix) in phases.items()
            ],
        }
    )


def weights(table: pa.Table, phase: str, dataset: str) -> dict[str, float]:
    return {r["bucket"]: r["epoch_weight"] for r in table.to_pylist() if (r["phase"], r["dataset"]) == (phase, dataset)}


def worth(problem: Problem, epochs: np.ndarray) -> float:
    """The objective, written out plainly."""
    value = 0.0
    for v, u, e in zip(problem.values, problem.supply, epochs, strict=True):
        repeats = REPETITION_DECAY * (1 - math.exp(-(e - 1) / REPETITION_DECAY)) if e > 1 else 0
        value += v * u * (min(e, 1) + repeats)
    return value


# ------------------------------------------------------------------------------------------------ facts and closed forms


@pytest.mark.parametrize(
    ("epochs", "value"),
    [(0.5, 1.0), (1, 1.0), (2, 0.984), (3.2, 0.953), (4, 0.931), (6, 0.878), (8, 0.828), (10, 0.781)],
)
def test_repeated_tokens_lose_worth_as_the_data_constrained_law_says(epochs: float, value: float) -> None:
    assert float(repeated_value(np.array([epochs]))[0]) == pytest.approx(value, abs=5e-4)


def test_the_top_bucket_is_read_3_2_times_when_its_tokens_are_worth_1_154_of_the_marginal_bucket() -> None:
    """v_top / level = exp(2.2 / 15.39) = 1.154, the marginal bucket being read in part."""
    supply = np.array([1000.0, 100.0])
    values = np.array([1.0, math.exp(2.2 / REPETITION_DECAY)])
    assert values[1] == pytest.approx(1.154, abs=5e-4)
    found = water_fill(supply, values, np.zeros(2), np.full(2, 4.0), 320.0 + 500.0)
    assert found == pytest.approx([0.5, 3.2], rel=1e-12)


def test_water_filling_meets_its_closed_form_where_every_bucket_is_repeated() -> None:
    """w_i = clip(1 + R ln(v_i / level), 0, cap) for some level."""
    supply, values = np.array([300.0, 200.0, 100.0]), np.array([1.0, 1.05, 1.3])
    found = water_fill(supply, values, np.zeros(3), np.full(3, 4.0), 1500.0)
    assert found @ supply == pytest.approx(1500, rel=1e-15)
    level = math.exp(math.log(values[0]) - (found[0] - 1) / REPETITION_DECAY)
    assert found == pytest.approx(np.clip(1 + REPETITION_DECAY * np.log(values / level), 0, 4), rel=1e-12)
    assert found[2] == 4


def test_buckets_worth_the_same_are_read_equally_often() -> None:
    assert water_fill(np.array([10.0, 30.0]), np.ones(2), np.zeros(2), np.full(2, 4.0), 20.0) == pytest.approx(
        [0.5, 0.5]
    )
    assert water_fill(np.array([10.0, 30.0]), np.ones(2), np.zeros(2), np.full(2, 4.0), 100.0) == pytest.approx(
        [2.5, 2.5]
    )


def test_nemotron_buckets_with_low_dropped_and_top_at_3_2() -> None:
    """Shares 9.18, 20.43, 46.24, 11.52, 12.63 % and a target of the whole supply: pins exact, the middle filled from above."""
    supply = dict(zip(WEB, (9180, 20430, 46240, 11520, 12630), strict=True))
    spec = curriculum({"web": {"pin": {"high": 3.2, "low": 0}}}, general=("100K", {"web": 1}))
    w = weights(solution(spec, {"web": supply}, {"web": WEB}), "general", "web")
    assert w["low"] == 0
    assert w["high"] == pytest.approx(3.2, rel=1e-12)
    assert w["low"] <= w["medium_low"] <= w["medium"] <= w["medium_high"] <= w["high"]
    assert sum(w[b] * supply[b] for b in WEB) == pytest.approx(100_000, rel=1e-12)
    rest = 100_000 - 3.2 * 12630
    level_of_medium_high = 1 + REPETITION_DECAY * math.log(1.15 / 1.1)  # medium is the marginal bucket, read below once
    assert w["medium_high"] == pytest.approx(level_of_medium_high, rel=1e-12)
    assert w["medium"] == pytest.approx((rest - level_of_medium_high * 11520) / 46240, rel=1e-9)


def test_the_default_ladder_rises_evenly_from_1_to_1_2() -> None:
    assert ladder(5) == pytest.approx([1, 1.05, 1.1, 1.15, 1.2])
    assert ladder(1) == [1]


# ------------------------------------------------------------------------------------------------ every promise, on generated problems


@st.composite
def feasible(draw: st.DrawFn) -> Problem:
    n = draw(st.integers(1, 6))
    supply = np.array(draw(st.lists(st.integers(1, 10**6), min_size=n, max_size=n)), np.float64)
    steps = draw(st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.3]), min_size=n, max_size=n))
    cap = draw(st.sampled_from([0.7, 1.0, 2.5, 4.0, 16.0]))
    pinned = sorted(draw(st.sets(st.integers(0, n - 1), max_size=n - 1)))
    pins = sorted(
        draw(st.lists(st.integers(0, 1000).map(lambda p: p / 1000), min_size=len(pinned), max_size=len(pinned)))
    )
    problem = Problem(
        tuple(f"b{i}" for i in range(n)),
        supply,
        1 + np.cumsum(steps),
        {f"b{i}": cap * p for i, p in zip(pinned, pins, strict=True)},
        cap,
        0,
        0,
    )
    least, most, most_in_all = problem.limits()
    first = least + draw(st.floats(0, 1)) * (most - least)
    first = max(first, 1e-3 * most_in_all) if most > 1e-3 * most_in_all else first
    second = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) * (most_in_all - first)
    return replace(problem, pinned_target=min(first, most), other_target=second)


@settings(max_examples=300, deadline=None)
@given(feasible())
def test_targets_pins_caps_and_order_hold_to_a_billionth(problem: Problem) -> None:
    assert problem.is_feasible()
    found = solve(problem)  # verifies itself; here once more, from the statement and not from the code
    pinned, total = found.pinned, found.total
    assert pinned @ problem.supply == pytest.approx(problem.pinned_target, rel=1e-9, abs=1e-9)
    assert total @ problem.supply == pytest.approx(problem.pinned_target + problem.other_target, rel=1e-9, abs=1e-9)
    for at, bucket in enumerate(problem.buckets):
        if bucket in problem.pins:
            assert pinned[at] == pytest.approx(problem.pins[bucket], rel=1e-9)
    assert np.all(total <= problem.cap * (1 + 1e-9))
    assert np.all(pinned >= 0)
    assert np.all(total >= pinned * (1 - 1e-9))
    assert np.all(np.diff(pinned) >= -1e-9)
    assert np.all(np.diff(total) >= -1e-9)


def best_by_linear_program(problem: Problem, segments: int = 160) -> np.ndarray:
    """Total epochs by a general solver: the concave law as chords, every constraint as it is stated."""
    n = len(problem.buckets)
    knots = np.unique(np.concatenate([np.linspace(0, problem.cap, segments + 1), [min(1.0, problem.cap)]]))
    widths = np.diff(knots)
    law = np.minimum(knots, 1) + REPETITION_DECAY * (1 - np.exp(-(np.maximum(knots, 1) - 1) / REPETITION_DECAY))
    slopes = np.diff(law) / widths
    m = len(widths)
    size = problem.supply / problem.supply.sum()
    cost = np.concatenate([-(problem.values[i] * size[i]) * slopes for i in range(n)] + [np.zeros(n)])
    total = np.zeros((n, n * m + n))
    pinned = np.zeros((n, n * m + n))
    for i in range(n):
        total[i, i * m : (i + 1) * m] = 1
        pinned[i, n * m + i] = 1
    equal = [size @ total, size @ pinned]
    targets = [
        (problem.pinned_target + problem.other_target) / problem.supply.sum(),
        problem.pinned_target / problem.supply.sum(),
    ]
    for i, bucket in enumerate(problem.buckets):
        if bucket in problem.pins:
            equal.append(pinned[i])
            targets.append(problem.pins[bucket])
    upper = [*(pinned - total), *(total[:-1] - total[1:]), *(pinned[:-1] - pinned[1:])]
    bounds = [(0, width) for width in np.tile(widths, n)] + [(0, None)] * n
    found = linprog(
        cost,
        A_ub=np.array(upper),
        b_ub=np.zeros(len(upper)),
        A_eq=np.array(equal),
        b_eq=targets,
        bounds=bounds,
        method="highs",
    )
    assert found.status == 0, found.message
    return np.asarray(total @ found.x)


@settings(max_examples=60, deadline=None)
@given(feasible())
def test_no_other_weights_are_worth_more_by_a_general_solver(problem: Problem) -> None:
    found, other = solve(problem), best_by_linear_program(problem)
    assert worth(problem, found.total) >= worth(problem, other) - 1e-6 * problem.supply.sum()


def test_room_below_and_above_pins_is_filled_separately_when_they_pull_apart() -> None:
    """The pinned phases may give the middle bucket at most 1 epoch; without them all would go to the best."""
    problem = Problem(
        ("low", "middle", "high"),
        np.array([100.0, 100.0, 100.0]),
        np.array([1.0, 1.1, 3.0]),
        {"high": 1.0},
        10.0,
        250.0,
        100.0,
    )
    found = solve(problem)
    assert found.pinned == pytest.approx([0.5, 1, 1])
    assert found.total == pytest.approx([0.5, 1, 2])


def test_a_broken_promise_is_caught_before_it_is_returned() -> None:
    problem = Problem(("low", "high"), np.array([100.0, 100.0]), np.array([1.0, 1.2]), {}, 4.0, 200.0, 0.0)
    with pytest.raises(RuntimeError, match="never less of a better bucket"):
        check(problem, Exposure(np.array([1.5, 0.5]), np.array([1.5, 0.5])))
    with pytest.raises(RuntimeError, match="the pinned phases' target"):
        check(problem, Exposure(np.array([1.0, 1.1]), np.array([1.0, 1.1])))


# ------------------------------------------------------------------------------------------------ whole tokens


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=9), st.integers(0, 10**13))
def test_whole_parts_sum_exactly_and_are_within_one_of_their_share(parts: list[float], total: int) -> None:
    if sum(parts) < 1e-300:
        parts = [1.0] * len(parts)
    found = whole_parts(parts, total)
    assert sum(found) == total
    exact = np.array(parts) * (total / np.sum(parts))
    assert np.all(np.abs(np.array(found) - exact) < 1 + 1e-2)
    assert all(whole == 0 for whole, part in zip(found, parts, strict=True) if part == 0)


def test_the_largest_remainders_are_rounded_up_and_ties_go_in_order() -> None:
    assert whole_parts([1.2, 2.7, 3.1], 7) == [1, 3, 3]
    assert whole_parts([1, 1, 1], 2) == [1, 1, 0]
    assert whole_parts([0, 5], 3) == [0, 3]


# ------------------------------------------------------------------------------------------------ whole curricula

GLM = curriculum(
    {"web": {"pin": {"high": 3.2, "low": 0}, "over": ["general", "code_reasoning"], "max": 4}, "repos": {"max": 2}},
    1e-6,
    general=("15T", {"web": 0.8, "books": 0.1, "code": 0.1}),
    code_reasoning=("7T", {"web": 0.3, "code": 0.5, "reasoning": 0.2}),
    repo_code=("500B", {"repos": 1}),
    synthetic_reasoning=("500B", {"reasoning": 1}),
    long_context=("100B", {"books": 0.5, "agents": 0.3, "web": 0.2}),
)
GLM_SUPPLY = {
    "web": {
        "low": 1_400_000,
        "medium_low": 3_100_000,
        "medium": 7_000_000,
        "medium_high": 1_700_001,
        "high": 1_900_003,
    },
    "books": {"all": 2_000_000},
    "code": {"low": 900_000, "mid": 2_000_000, "high": 1_234_567},
    "repos": {"all": 300_000},
    "reasoning": {"all": 1_000_000},
    "agents": {"all": 25_000},
}
GLM_ORDER = {"web": WEB, "code": ["low", "mid", "high"]}


def test_the_five_phases_of_glm_are_solved_at_a_millionth() -> None:
    table = solution(GLM, GLM_SUPPLY, GLM_ORDER)
    assert table.schema == SOLUTION
    rows = table.to_pylist()
    planned = {
        phase: sum(r["tokens_planned"] for r in rows if r["phase"] == phase)
        for phase in dict.fromkeys(r["phase"] for r in rows)
    }
    assert planned == {
        "general": 15_000_000,
        "code_reasoning": 7_000_000,
        "repo_code": 500_000,
        "synthetic_reasoning": 500_000,
        "long_context": 100_000,
    }
    assert len(rows) == (5 + 1 + 3) + (5 + 3 + 1) + 1 + 1 + (1 + 1 + 5)
    for row in rows:
        assert abs(row["tokens_planned"] - row["epoch_weight"] * row["tokens_available"]) < 1
    pinned = [weights(table, phase, "web") for phase in ("general", "code_reasoning")]
    assert pinned[0]["high"] + pinned[1]["high"] == pytest.approx(3.2, rel=1e-9)
    assert pinned[0]["low"] + pinned[1]["low"] == 0
    general, reasoning = (sum(w[b] * GLM_SUPPLY["web"][b] for b in WEB) for w in pinned)
    assert (general, reasoning) == pytest.approx((12_000_000, 2_100_000), rel=1e-9)
    assert pinned[0]["medium"] / pinned[1]["medium"] == pytest.approx(12 / 2.1, rel=1e-9)
    for dataset, buckets in GLM_SUPPLY.items():
        for bucket in buckets:
            mine = [r for r in rows if (r["dataset"], r["bucket"]) == (dataset, bucket)]
            total = sum(r["epoch_weight"] for r in mine)
            assert all(r["total_epochs"] == pytest.approx(total, rel=1e-9, abs=1e-12) for r in mine)
            assert total <= GLM.rule(dataset).max * (1 + 1e-9)
            assert mine[0]["value"] == pytest.approx(float(repeated_value(np.array([total]))[0]), rel=1e-9)


def test_the_stage_gives_the_same_table_as_the_pure_function_every_time() -> None:
    rows = [
        (d, b, f"{d}/{b}/{i}", n // 2 + i * (n % 2))
        for d, bs in GLM_SUPPLY.items()
        for b, n in bs.items()
        for i in (0, 1)
    ]
    supply = pa.table(
        {name: [row[at] for row in rows] for at, name in enumerate(("dataset", "bucket", "path", "tokens"))}
    )
    assert supplies(supply) == GLM_SUPPLY
    stage = SolveCurriculum(curriculum=GLM, bucket_order=GLM_ORDER).bound(tables={"supply": supply})
    expected = solution(GLM, GLM_SUPPLY, GLM_ORDER)
    assert stage.fold(iter(())).equals(expected)
    backwards = stage.bound(tables={"supply": supply.take(list(range(len(rows)))[::-1])})
    assert backwards.fold(iter(())).equals(expected)
    unbound = SolveCurriculum(curriculum=GLM, bucket_order=GLM_ORDER)
    assert SolveCurriculum.model_validate(unbound.model_dump()) == unbound


def test_other_phases_may_read_what_pins_leave_up_to_the_cap() -> None:
    """`low: 0` speaks of phase a only; in phase b the best is read first, 0.8 epochs up to the cap of 4."""
    rule = {"pin": {"high": 3.2, "low": 0}, "over": ["a"], "values": {"low": 1, "high": 2}}
    spec = curriculum({"web": rule}, a=(320, {"web": 1}), b=(100, {"web": 1}))
    table = solution(spec, {"web": {"low": 100, "high": 100}}, {"web": ["low", "high"]})
    assert weights(table, "a", "web") == pytest.approx({"low": 0, "high": 3.2})
    b = weights(table, "b", "web")
    assert b["high"] == pytest.approx(0.8)
    assert b["low"] == pytest.approx(0.2)


def test_values_of_the_recipe_override_the_ladder() -> None:
    supply = {"web": {"low": 100, "high": 100}}
    steep = curriculum({"web": {"values": {"low": 1, "high": 9}}}, a=(450, {"web": 1}))
    flat = curriculum({"web": {"values": {"low": 1, "high": 1}}}, a=(450, {"web": 1}))
    assert weights(solution(steep, supply, {"web": ["low", "high"]}), "a", "web") == pytest.approx(
        {"low": 0.5, "high": 4}
    )
    assert weights(solution(flat, supply, {"web": ["low", "high"]}), "a", "web") == pytest.approx(
        {"low": 2.25, "high": 2.25}
    )


def test_an_order_in_the_recipe_overrides_that_of_the_stage() -> None:
    spec = curriculum({"web": {"order": ["high", "low"]}}, a=(100, {"web": 1}))
    w = weights(solution(spec, {"web": {"low": 100, "high": 100}}, {"web": ["low", "high"]}), "a", "web")
    assert list(w) == ["high", "low"]
    assert w == pytest.approx({"high": 0, "low": 1})


def test_buckets_without_tokens_have_no_row_and_a_pin_to_0_there_is_met() -> None:
    spec = curriculum({"web": {"pin": {"low": 0}}}, a=(100, {"web": 1}))
    assert weights(solution(spec, {"web": {"high": 100}}, {"web": ["low", "high"]}), "a", "web") == {"high": 1}


# ------------------------------------------------------------------------------------------------ what cannot be met


def refused(spec: Curriculum, supply: dict[str, dict[str, int]], order: dict[str, list[str]] | None = None) -> str:
    with pytest.raises(InfeasibleCurriculum) as caught:
        solution(spec, supply, order or {})
    return str(caught.value)


def test_too_little_supply_names_tokens_missing_and_every_way_out() -> None:
    spec = curriculum({}, 1e-6, a=("3T", {"code": 1}), b=("4T", {"code": 0.5, "web": 0.5}))
    message = refused(
        spec, {"code": {"low": 250_000, "high": 750_000}, "web": {"all": 2_000_000}}, {"code": ["low", "high"]}
    )
    assert message == (
        "dataset 'code' cannot fill phases a and b: they ask for 5M tokens, and its supply of 1M tokens (low 250K, high 750K) gives at most "
        "4M tokens under `max: 4`: 1M tokens are missing. Any one of these would do: 1.25 times the supply (+250K tokens); `max: 5`; "
        "`scale: 8e-07` instead of 1e-06; a share of at most 0.8 in a and 0.4 in b."
    )


def test_pins_that_hold_worse_buckets_down_are_named_and_no_cap_is_promised() -> None:
    spec = curriculum({"web": {"pin": {"high": 1.5}}}, a=(400, {"web": 1}))
    message = refused(spec, {"web": {"low": 100, "high": 100}}, {"web": ["low", "high"]})
    assert (
        "it asks for 400 tokens, and its supply of 200 tokens (low 100, high 100) gives at most 300 tokens" in message
    )
    assert (
        "under `max: 4` and `pin: {high: 1.5}` (no bucket may be seen more often than a better one): 100 tokens are missing"
        in message
    )
    assert "1.3334 times the supply (+67 tokens)" in message
    assert "`pin: {high: 2}`" in message
    assert "`max: 5" not in message.split("Any one")[1]
    assert "`scale: 0.75` instead of 1" in message
    assert "a share of at most 0.75 in a" in message


def test_pins_beyond_the_target_name_what_they_come_to_and_the_excess() -> None:
    spec = curriculum(
        {"web": {"pin": {"high": 3.2}, "over": ["a"]}}, 0.5, a=(4000, {"web": 0.5, "code": 0.5}), b=(1000, {"web": 1})
    )
    message = refused(spec, {"web": {"low": 10_000, "high": 500}, "code": {"all": 10_000}}, {"web": ["low", "high"]})
    assert message == (
        "dataset 'web' is pinned to more than phase a can hold: it asks for 1K tokens, and its supply of 10.5K tokens (low 10K, high 500) comes "
        "to at least 1.6K tokens under `pin: {high: 3.2}` (better buckets are seen no less than a pinned one): 600 tokens too many. "
        "Any one of these would do: `pin: {high: 2}`; 0.625 times the supply; `scale: 0.8` instead of 0.5; a share of at least 0.8 in a."
    )


def test_a_cap_over_all_phases_is_named_when_the_pinned_ones_alone_would_fit() -> None:
    spec = curriculum({"web": {"pin": {"high": 2}, "over": ["a"], "max": 2}}, a=(300, {"web": 1}), b=(150, {"web": 1}))
    message = refused(spec, {"web": {"low": 100, "high": 100}}, {"web": ["low", "high"]})
    assert "cannot fill phases a and b: they ask for 450 tokens" in message
    assert "gives at most 400 tokens under `max: 2`: 50 tokens are missing" in message
    assert "`max: 2.25`" in message
    assert "`scale: 0.88888` instead of 1" in message
    assert "a share of at most 0.88888 in a and 0.88888 in b" in message
    assert "1.125 times the supply" in message


def test_a_dataset_without_supply_is_named_with_the_phases_that_mix_it() -> None:
    spec = curriculum({}, a=(100, {"web": 0.5, "code": 0.5}), b=(100, {"code": 1}))
    assert (
        refused(spec, {"web": {"all": 100}})
        == "dataset 'code' is mixed in a and b, but has no supply: not one token of it reached the shards"
    )


def test_every_dataset_that_cannot_be_met_has_its_line() -> None:
    message = refused(curriculum({}, a=(100, {"web": 0.5, "code": 0.5})), {"web": {"all": 1}})
    assert [line.split(" is ")[0].split(" cannot ")[0] for line in message.splitlines()] == [
        "dataset 'web'",
        "dataset 'code'",
    ]


ODD: list[tuple[str, dict[str, Any], dict[str, int], str]] = [
    ("a pinned bucket without supply", {"pin": {"high": 2}}, {"low": 100}, "bucket 'high' is pinned to 2 epochs, but has no supply"),
    ("a pin of an unknown bucket", {"pin": {"hihg": 0}}, {"low": 100}, "pin names bucket 'hihg', which is none of: low, high"),
    ("supply outside the order", {}, {"low": 100, "odd": 5}, r"has supply in odd, which its bucket order \(worst to best: low, high\) does not name"),
    ("pins against the order", {"pin": {"low": 2, "high": 1}}, {"low": 100, "high": 100}, "bucket 'low' is pinned to 2 epochs and the better bucket 'high' to 1"),
    ("values without a bucket", {"values": {"low": 1}}, {"low": 100, "high": 100}, "values are given for low, but must be given for each of: low, high"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "supply", "message"), [case[1:] for case in ODD], ids=[case[0] for case in ODD])
def test_rules_that_do_not_fit_the_buckets_are_refused(
    rule: dict[str, Any], supply: dict[str, int], message: str
) -> None:
    with pytest.raises(InfeasibleCurriculum, match=message):
        solution(curriculum({"web": rule}, a=(100, {"web": 1})), {"web": supply}, {"web": ["low", "high"]})


def test_several_buckets_without_any_order_are_refused() -> None:
    assert "name all buckets in `epochs: {web: {order: [...]}}`" in refused(
        curriculum({}, a=(9, {"web": 1})), {"web": {"x": 9, "y": 9}}
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_way_out_that_a_message_names_works_when_typed_back(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 4))
    names = [f"b{i}" for i in range(n)]
    supply = {name: data.draw(st.integers(1, 10**6)) for name in names}
    pinned = sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=n)))
    pins = sorted(
        data.draw(st.lists(st.integers(0, 400).map(lambda p: p / 100), min_size=len(pinned), max_size=len(pinned)))
    )
    rule: dict[str, Any] = {
        "pin": {names[i]: p for i, p in zip(pinned, pins, strict=True)},
        "over": data.draw(st.sampled_from([None, ["a"]])),
    }
    size = sum(supply.values())
    spec = curriculum(
        {"web": rule},
        data.draw(st.sampled_from([1.0, 1e-3])),
        a=(1000 * data.draw(st.integers(size // 4 + 1, 6 * size)), {"web": 0.5, "code": 0.5}),
        b=(1000 * data.draw(st.integers(size // 4 + 1, 6 * size)), {"web": 0.25, "code": 0.75}),
    )
    spec = spec.model_copy(update={"scale": 1e-3})
    order = {"web": names}
    plenty = {"all": 10**12}
    try:
        solution(spec, {"web": supply, "code": plenty}, order)
        return
    except InfeasibleCurriculum as error:
        message = str(error)
    if "Any one of these" not in message and "This would do" not in message:
        return
    ways = message.split("would do: ", 1)[1]
    raw = spec.model_dump()

    def works(change: dict[str, Any], new_supply: dict[str, int] = supply) -> None:
        found = Curriculum.model_validate({**raw, **change})
        assert problem_of(found, "web", new_supply, names).is_feasible(), (message, change)
        solve(problem_of(found, "web", new_supply, names))

    if found := re.search(r"([\d.]+) times the supply", ways):
        factor = float(found[1])
        wide = replace(problem_of(spec, "web", supply, names), supply=np.array([supply[n] * factor for n in names]))
        assert wide.is_feasible()
    if found := re.search(r"`max: ([\d.e+]+)`", ways):
        works({"epochs": {"web": {**raw["epochs"]["web"], "max": float(found[1])}}})
    if found := re.search(r"`scale: ([\d.e+-]+)`", ways):
        works({"scale": float(found[1])})
    if found := re.search(r"`pin: \{([^}]*)\}`", ways):
        new = {name: float(number) for name, number in (pair.split(": ") for pair in found[1].split(", "))}
        works({"epochs": {"web": {**raw["epochs"]["web"], "pin": {**rule["pin"], **new}}}})
    if "a share of" in ways:
        shares = {
            phase: float(share) for share, phase in re.findall(r"([\d.e-]+) in (\w)", ways.split("a share of")[1])
        }
        phases = [{**p, "mix": {"web": shares[p["name"]], "code": 1 - shares[p["name"]]}} if p["name"] in shares and shares[p["name"]] < 1
                  else p for p in raw["phases"]]  # fmt: skip
        if all(share < 1 for share in shares.values()):
            works({"phases": phases})
