"""Slices: arcs of a circle, exact exposures, whole reads, budgets kept to half a block or half a sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.curriculum.schedule import (
    Circle,
    Draw,
    Stretch,
    draw,
    end_of,
    ends,
    exposures,
    packed_stretches,
    stretches,
)
from pipeline.curriculum.slices import SLICES, Slices, fractions, slices
from pipeline.curriculum.solver import SOLUTION, solution
from pipeline.curriculum.spec import Curriculum
from pipeline.curriculum.supply import SUPPLY

# ------------------------------------------------------------------------------------------------ arcs


def test_weight_1_9_is_nine_tenths_twice_and_one_tenth_once() -> None:
    circle = Circle.of(np.full(10, 7))
    assert stretches(circle, 0, 19) == [Stretch(0, 9, 2), Stretch(9, 10, 1)]


def test_a_whole_number_of_laps_is_one_stretch_and_nothing_is_none() -> None:
    circle = Circle.of(np.full(10, 7))
    assert stretches(circle, 3, 13) == [Stretch(3, 13, 1)]
    assert stretches(circle, 3, 33) == [Stretch(3, 13, 3)]
    assert stretches(circle, 3, 3) == []


def test_an_arc_that_passes_the_end_of_the_circle_goes_on_at_its_beginning() -> None:
    circle = Circle.of(np.full(10, 7))
    assert exposures(circle, stretches(circle, 8, 12)).tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]


def test_positions_round_to_the_nearest_block_edge_over_laps() -> None:
    circle = Circle.of(np.array([10, 20, 30]))
    assert [circle.at(p) for p in range(7)] == [0, 10, 30, 60, 70, 90, 120]
    assert [circle.nearest(t) for t in (0, 4, 5, 6, 19, 20, 21, 46, 59, 64, 66)] == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4]
    assert [circle.at_or_after(t) for t in (0, 1, 10, 11, 59, 60, 61)] == [0, 1, 1, 2, 3, 3, 4]
    assert [circle.at_or_before(t) for t in (0, 9, 10, 59, 60, 69, 70)] == [0, 0, 1, 2, 3, 3, 4]


blocks = st.lists(st.integers(1, 1000), min_size=1, max_size=40).map(lambda sizes: Circle.of(np.array(sizes)))


def plan(data: st.DataObject, circles: Sequence[Circle], phases: int) -> list[list[int]]:
    return [
        [data.draw(st.sampled_from([0, 1])) * data.draw(st.integers(0, 2 * circle.tokens)) for _ in range(phases)]
        for circle in circles
    ]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_document_is_seen_the_floor_or_ceiling_of_its_buckets_total_weight(data: st.DataObject) -> None:
    circles = data.draw(st.lists(blocks, min_size=1, max_size=4))
    phases = data.draw(st.integers(1, 5))
    planned = plan(data, circles, phases)
    cursors = [0] * len(circles)
    taken: list[list[Stretch]] = [[] for _ in circles]
    for phase in range(phases):
        found = ends(
            [draw(circle, cursor, mine, phase) for circle, cursor, mine in zip(circles, cursors, planned, strict=True)]
        )
        for at, circle in enumerate(circles):
            mine = stretches(circle, cursors[at], found[at])
            assert sum(s.reads * (circle.at(s.end) - circle.at(s.start)) for s in mine) == circle.at(
                found[at]
            ) - circle.at(cursors[at])
            assert mine == [] or planned[at][phase] > 0
            assert end_of(circle, cursors[at], mine) == found[at]
            taken[at] += mine
        cursors = found
    for circle, mine, tokens in zip(circles, taken, planned, strict=True):
        low, rest = divmod(sum(tokens), circle.tokens)
        seen = exposures(circle, mine)
        assert seen.min() >= low
        assert seen.max() <= low + (rest > 0)  # so phases share nothing while the total is at most one


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_phase_is_off_its_budget_by_half_a_block_of_a_bucket_that_can_make_up_for_the_rest(
    data: st.DataObject,
) -> None:
    """In the first of two phases neither floor nor ceiling is near."""
    circles = data.draw(st.lists(blocks, min_size=1, max_size=4))
    tokens = [data.draw(st.integers(1, circle.tokens)) for circle in circles]
    draws = [Draw(circle, 0, mine, 0, 10**9) for circle, mine in zip(circles, tokens, strict=True)]
    off = abs(sum(circle.at(end) for circle, end in zip(circles, ends(draws), strict=True)) - sum(tokens))
    largest = [int(np.diff(circle.edges).max()) for circle in circles]
    assert off <= max(largest) / 2
    finest = min(range(len(circles)), key=lambda at: circles[at].tokens / circles[at].blocks)
    assert off <= largest[finest] / 2 or tokens[finest] < max(largest) / 2


def test_the_error_of_a_coarse_bucket_is_made_up_by_a_fine_one() -> None:
    coarse, fine = Circle.of(np.array([100, 100])), Circle.of(np.full(100, 1))
    assert ends([Draw(fine, 0, 50, 0, 100), Draw(coarse, 0, 60, 0, 2)]) == [10, 1]
    assert ends([Draw(coarse, 0, 40, 0, 2), Draw(fine, 0, 50, 0, 100)]) == [0, 90]


def test_a_bucket_that_is_planned_whole_is_never_read_beyond_its_last_block() -> None:
    """The coarse bucket leaves 40 tokens over; the fine one is at its ceiling and may not take them."""
    coarse, fine = Circle.of(np.array([100, 100])), Circle.of(np.full(100, 1))
    assert ends([draw(coarse, 0, [40], 0), draw(fine, 0, [100], 0)]) == [0, 100]


# ------------------------------------------------------------------------------------------------ packed sequences


def test_a_packed_stretch_has_a_margin_and_a_block_more_where_room_is() -> None:
    circle = Circle.of(np.full(100, 10))
    assert packed_stretches(Draw(circle, 0, 500, 0, 100), 5, 100, 0.1, 0) == [Stretch(0, 56, 1, 5)]
    assert packed_stretches(Draw(circle, 0, 500, 0, 100), 5, 100, 0.1, 490) == [Stretch(0, 51, 1, 5)]
    assert packed_stretches(Draw(circle, 0, 500, 0, 100), 5, 100, 0.1, 500) == [Stretch(0, 50, 1, 5)]
    assert packed_stretches(Draw(circle, 60, 500, 60, 160), 10, 100, 0.1, 0) == [Stretch(60, 160, 1, 10)]


def test_more_sequences_than_a_lap_holds_are_divided_into_whole_reads() -> None:
    circle = Circle.of(np.full(100, 10))
    assert packed_stretches(Draw(circle, 0, 1900, 0, 200), 19, 100, 0.1, 0) == [
        Stretch(0, 90, 2, 9),
        Stretch(90, 100, 1, 1),
    ]
    assert packed_stretches(Draw(circle, 0, 3000, 0, 300), 30, 100, 0.1, 0) == [Stretch(0, 100, 3, 10)]


def test_a_bucket_smaller_than_one_sequence_is_packed_into_one_and_read_often() -> None:
    circle = Circle.of(np.full(5, 10))
    assert packed_stretches(Draw(circle, 0, 300, 0, 30), 3, 100, 0.1, 0) == [Stretch(0, 5, 3, 1)]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_packed_stretches_give_every_sequence_enough_tokens_within_one_lap(data: st.DataObject) -> None:
    circle = data.draw(blocks)
    cursor = data.draw(st.integers(0, 3 * circle.blocks))
    sequences, length = data.draw(st.integers(1, 60)), data.draw(st.integers(2, 1500))
    one = Draw(circle, cursor, sequences * length, cursor, cursor + 5 * circle.blocks)
    taken = packed_stretches(
        one, sequences, length, data.draw(st.sampled_from([0, 0.02, 0.5])), data.draw(st.integers(0, 5000))
    )
    assert sum(s.reads * (s.sequences or 0) for s in taken) == sequences
    for s in taken:
        assert s.sequences is not None
        assert s.sequences >= 1
        assert circle.at(s.end) - circle.at(s.start) >= s.sequences * length or circle.tokens < length
    assert sum(s.end - s.start for s in taken) <= circle.blocks
    seen = exposures(circle, taken)
    assert seen.max() - seen.min() <= 1
    assert end_of(circle, cursor, taken) == cursor + seen.sum()


# ------------------------------------------------------------------------------------------------ the whole table


def supply_of(files: dict[tuple[str, str, str], list[int]], block_documents: int = 1) -> pa.Table:
    """(dataset, bucket, path) -> tokens per document"""
    rows = [
        {
            "dataset": dataset,
            "bucket": bucket,
            "path": path,
            "documents": len(tokens),
            "tokens": sum(tokens),
            "block_documents": block_documents,
            "block_tokens": [sum(tokens[at : at + block_documents]) for at in range(0, len(tokens), block_documents)],
            "digest": f"{abs(hash(tuple(tokens))) % 16**16:016x}",
        }
        for (dataset, bucket, path), tokens in files.items()
    ]
    return pa.Table.from_pylist(rows, schema=SUPPLY)


def solution_of(*rows: tuple[str, str, str, int], packing: str = "concatenate", length: int = 64) -> pa.Table:
    """(phase, dataset, bucket, tokens)"""
    phases = list(dict.fromkeys(row[0] for row in rows))
    return pa.Table.from_pylist(
        [
            {"phase": p, "phase_index": phases.index(p), "dataset": d, "bucket": b, "epoch_weight": 0.0, "tokens_available": 1,
             "tokens_planned": n, "sequence_length": length, "packing": packing, "total_epochs": 0.0, "value": 1.0}
            for p, d, b, n in rows
        ],
        schema=SOLUTION,
    )  # fmt: skip


TWO_FILES = {("web", "all", "t/0.arrow"): [10] * 6, ("web", "all", "t/1.arrow"): [10] * 4}


def short(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["phase"],
        row["slice"],
        row["reads"],
        row["tokens"],
        [(p["path"][2], p["first_row"], p["end_row"]) for p in row["pieces"]],
    )


def test_phases_take_consecutive_pieces_of_the_files_in_path_order() -> None:
    table = slices(supply_of(TWO_FILES), solution_of(("a", "web", "all", 40), ("b", "web", "all", 50)), 0.02)
    assert table.schema == SLICES
    assert [short(row) for row in table.to_pylist()] == [
        ("a", "0.0000-0.4000", 1, 40, [("0", 0, 4)]),
        ("b", "0.4000-0.9000", 1, 50, [("0", 4, 6), ("1", 0, 3)]),
    ]


def test_a_wrapped_arc_is_one_slice_of_two_pieces() -> None:
    table = slices(supply_of(TWO_FILES), solution_of(("a", "web", "all", 90), ("b", "web", "all", 20)), 0.02)
    assert short(table.to_pylist()[1]) == ("b", "0.9000-0.1000", 1, 20, [("1", 3, 4), ("0", 0, 1)])


def test_weight_1_9_becomes_two_slices_with_whole_reads() -> None:
    table = slices(supply_of(TWO_FILES), solution_of(("a", "web", "all", 190)), 0.02)
    assert [short(row) for row in table.to_pylist()] == [
        ("a", "0.0000-0.9000", 2, 90, [("0", 0, 6), ("1", 0, 3)]),
        ("a", "0.9000-1.0000", 1, 10, [("1", 3, 4)]),
    ]
    assert sum(row["tokens_planned"] * row["reads"] for row in table.to_pylist()) == 190
    assert table["sequences"].null_count == 2


def test_a_lap_from_the_middle_of_a_file_ends_where_it_began() -> None:
    table = slices(supply_of(TWO_FILES), solution_of(("a", "web", "all", 30), ("b", "web", "all", 100)), 0.02)
    assert short(table.to_pylist()[1]) == ("b", "0.3000-0.3000", 1, 100, [("0", 3, 6), ("1", 0, 4), ("0", 0, 3)])


def test_the_last_block_of_a_file_may_be_short() -> None:
    table = slices(supply_of(TWO_FILES, block_documents=4), solution_of(("a", "web", "all", 75)), 0.02)
    [row] = table.to_pylist()
    assert short(row) == ("a", "0.0000-0.6000", 1, 60, [("0", 0, 6)])
    assert row["documents"] == 6
    assert row["tokens_planned"] == 75


def test_buckets_with_weight_0_have_no_slice() -> None:
    supply = supply_of({**TWO_FILES, ("web", "low", "t/2.arrow"): [10]})
    table = slices(supply, solution_of(("a", "web", "low", 0), ("a", "web", "all", 40)), 0.02)
    assert table["bucket"].to_pylist() == ["all"]


def test_the_digest_follows_content_and_packing_but_not_the_phase() -> None:
    def digests(supply: pa.Table, **packing: Any) -> list[str]:
        found = slices(supply, solution_of(("a", "web", "all", 100), ("b", "web", "all", 100), **packing), 0.02)
        return list(found["digest"].to_pylist())

    plain = digests(supply_of(TWO_FILES))
    assert plain[0] == plain[1]
    assert len(plain[0]) == 8
    assert int(plain[0], 16) >= 0
    others = [
        digests(supply_of({**TWO_FILES, ("web", "all", "t/1.arrow"): [9, 11, 10, 10]}))[0],
        digests(supply_of(TWO_FILES), length=32)[0],
        digests(supply_of(TWO_FILES), length=32, packing="best_fit")[0],
    ]
    assert len({plain[0], *others}) == 4


def test_slice_names_take_more_digits_where_four_would_hide_the_slice() -> None:
    assert fractions(0, 4213, 10_000) == "0.0000-0.4213"
    assert fractions(9000, 2000, 10_000) == "0.9000-0.1000"
    assert fractions(0, 10_000, 10_000) == "0.0000-1.0000"
    assert fractions(3000, 10_000, 10_000) == "0.3000-0.3000"
    assert fractions(3_000_000, 12, 10_000_000) == "0.300000-0.300001"


def test_sequences_of_a_packed_phase_are_shared_over_datasets_before_buckets() -> None:
    """1.8 + 1.2 sequences of three: the dataset of ten small buckets gets two, though each bucket alone is far from one."""
    files = {("web", f"b{i}", f"t/{i}.arrow"): [10] * 100 for i in range(10)} | {
        ("books", "all", "t/x.arrow"): [10] * 100
    }
    rows = [("a", "web", f"b{i}", 18) for i in range(10)] + [("a", "books", "all", 120)]
    table = slices(supply_of(files), solution_of(*rows, packing="best_fit", length=100), 0.0)
    assert Counter(table["dataset"].to_pylist()) == {"web": 2, "books": 1}
    assert table["sequences"].to_pylist() == [1, 1, 1]
    assert table["tokens_planned"].to_pylist() == [100, 100, 100]


def test_a_packed_phase_below_one_sequence_still_gets_one() -> None:
    table = slices(supply_of(TWO_FILES), solution_of(("a", "web", "all", 20), packing="best_fit", length=64), 0.0)
    [row] = table.to_pylist()
    assert (row["sequences"], row["reads"], row["tokens"]) == (1, 1, 80)


# ------------------------------------------------------------------------------------------------ the GLM shape

PHASES = [
    {"name": "general", "tokens": "15T", "sequence_length": 1024, "packing": "concatenate", "mix": {"web": 0.8, "books": 0.1, "code": 0.1}},
    {"name": "code_reasoning", "tokens": "7T", "sequence_length": 1024, "packing": "concatenate", "mix": {"web": 0.3, "code": 0.5, "reasoning": 0.2}},
    {"name": "repo_code", "tokens": "500B", "sequence_length": 8192, "packing": "best_fit", "mix": {"repos": 1}},
    {"name": "synthetic_reasoning", "tokens": "500B", "sequence_length": 8192, "packing": "best_fit", "mix": {"reasoning": 1}},
    {"name": "long_context", "tokens": "100B", "sequence_length": 32768, "packing": "best_fit", "mix": {"books": 0.5, "agents": 0.5}},
]  # fmt: skip
GLM = Curriculum.model_validate(
    {
        "scale": 1e-6,
        "epochs": {"web": {"pin": {"high": 3.2, "low": 0}, "over": ["general", "code_reasoning"]}},
        "phases": PHASES,
    }
)
SIZES = {("web", "low"): 1_400_000, ("web", "medium"): 7_900_000, ("web", "high"): 1_900_000, ("books", "all"): 2_000_000,
         ("code", "low"): 1_700_000, ("code", "high"): 2_100_000, ("repos", "all"): 300_000, ("reasoning", "all"): 1_000_000,
         ("agents", "all"): 120_000}  # fmt: skip


def synthetic(seed: int) -> dict[tuple[str, str, str], list[int]]:
    """Three files per bucket with documents of 50 to 20,000 tokens."""
    random = np.random.default_rng(seed)
    files: dict[tuple[str, str, str], list[int]] = {}
    for (dataset, bucket), tokens in SIZES.items():
        lengths = np.minimum(50 + random.lognormal(6, 1.2, tokens // 400), 20_000).astype(int)
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens))]
        for part, mine in enumerate(np.array_split(lengths, 3)):
            files[dataset, bucket, f"tokens/{dataset}/{bucket}/part-{part:05d}.arrow"] = mine.tolist()
    return files


@pytest.mark.parametrize("block_documents", [1, 4])
def test_the_five_phases_of_glm_are_cut_within_half_a_percent_or_a_sequence(block_documents: int) -> None:
    files = synthetic(7)
    supply = supply_of(files, block_documents)
    tokens = {}
    for (dataset, bucket, _), lengths in files.items():
        tokens.setdefault(dataset, Counter())[bucket] += sum(lengths)
    solved = solution(GLM, tokens, {"web": ["low", "medium", "high"], "code": ["low", "high"]})
    stage = Slices().bound(tables={"supply": supply, "solution": solved})
    table = stage.fold(iter(()))
    assert stage.fold(iter(())).equals(table)
    rows = table.to_pylist()

    for phase in GLM.phases:
        budget = phase.budget(GLM.scale)
        mine = [row for row in rows if row["phase"] == phase.name]
        if phase.packing == "concatenate":
            assert abs(sum(row["tokens"] * row["reads"] for row in mine) - budget) <= 0.005 * budget
        else:
            assert sum(row["sequences"] * row["reads"] for row in mine) == round(budget / phase.sequence_length)
            assert all(row["tokens"] >= row["sequences"] * phase.sequence_length for row in mine)
            assert all(row["tokens_planned"] == row["sequences"] * phase.sequence_length for row in mine)

    seen: dict[str, np.ndarray] = {path: np.zeros(len(lengths), int) for (_, _, path), lengths in files.items()}
    for row in rows:
        for piece in row["pieces"]:
            seen[piece["path"]][piece["first_row"] : piece["end_row"]] += row["reads"]
            lengths = files[row["dataset"], row["bucket"], piece["path"]]
            assert piece["tokens"] == sum(lengths[piece["first_row"] : piece["end_row"]])
            assert piece["documents"] == piece["end_row"] - piece["first_row"]
        assert row["tokens"] == sum(piece["tokens"] for piece in row["pieces"])
        assert row["documents"] == sum(piece["documents"] for piece in row["pieces"])

    total = {(row["dataset"], row["bucket"]): row["total_epochs"] for row in solved.to_pylist()}
    for dataset, bucket, path in files:
        weight = total[dataset, bucket]
        low, high = int(np.floor(weight)), int(np.ceil(weight - 1e-9))
        assert seen[path].min() >= low, (dataset, bucket, weight)
        assert seen[path].max() <= high, (dataset, bucket, weight)
    assert total["web", "high"] == pytest.approx(3.2)
    assert total["web", "low"] == 0
    high_reads = np.concatenate([seen[path] for (_, bucket, path) in files if bucket == "high" and "web" in path])
    assert set(high_reads.tolist()) == {3, 4}
