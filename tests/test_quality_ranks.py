"""Ranks from a mergeable sketch, levels, tiers, thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.quality import sketch
from pipeline.quality.levels import QualityLevels, Tiers
from pipeline.quality.ranks import OTHER, QualityRank, QualityRanks, QualitySketch
from pipeline.quality.threshold import Threshold
from pipeline.stage import INPUT

floats = st.floats(width=32, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(floats, min_size=1, max_size=50), st.sampled_from([12, 22, 32]))
def test_bins_sort_as_scores_do_and_begin_at_or_below_them(values: list[float], precision_bits: int) -> None:
    scores = np.sort(np.array(values, np.float32))
    bits, bins = sketch.sortable_bits(scores), sketch.bins(scores, precision_bits)
    assert (np.diff(bits.astype(np.int64)) >= 0).all()
    assert all((a < b) == (x < y) for a, b, x, y in zip(scores, scores[1:], bits, bits[1:], strict=False))
    assert (sketch.least_values(bins, precision_bits) <= scores).all()
    assert (sketch.least_values(bits, 32) == scores).all()


def _twin_ranks(scores: list[float], weights: list[int]) -> list[int]:
    """Whole twentieths of the weight that lie below each score."""
    total = sum(weights)
    return [20 * sum(w for other, w in zip(scores, weights, strict=True) if other < one) // total for one in scores]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([-2.5, -0.0, 0.0, 0.1, 0.2, 0.7, 0.99, 1.0, 3.0, math.inf]) | floats, st.integers(1, 9)
        ),
        min_size=1,
        max_size=60,
    )
)
def test_exact_ranks_agree_with_counting(rows: list[tuple[float, int]]) -> None:
    scores, weights = np.array([s for s, _ in rows], np.float32), np.array([w for _, w in rows], np.int64)
    numbers, place = np.unique(sketch.bins(scores, 32), return_inverse=True)
    summed = np.bincount(place, weights).astype(np.int64)
    edges = sketch.edges(numbers, summed, 32)
    found = sketch.ranks(scores, np.broadcast_to(edges, (len(rows), 19)))
    assert found.tolist() == _twin_ranks(scores.tolist(), weights.tolist())


def _batch(**columns: object) -> pa.RecordBatch:
    kinds = {"language": pa.string(), "text": pa.large_string()}
    return pa.record_batch({name: pa.array(values, kinds.get(name, pa.float32())) for name, values in columns.items()})


def _corpus() -> pa.RecordBatch:
    random = np.random.default_rng(1)
    languages = random.choice(["en", "zh", "fi", "sw", None], 5000, p=[0.6, 0.35, 0.02, 0.02, 0.01])
    edu = random.beta(2, 5, 5000)
    edu[::97] = np.nan
    return _batch(
        score_edu=[None if i % 101 == 0 else x for i, x in enumerate(edu)],
        score_dclm=random.random(5000) * np.where(languages == "zh", 0.1, 1.0),
        language=languages.tolist(),
        text=["x" * int(n) for n in random.integers(0, 50, 5000)],
    )


def _cut(docs: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    return (docs.slice(i, size) for i in range(0, docs.num_rows, size))


def _edges(stage: QualitySketch, docs: pa.RecordBatch, parts: int = 1, size: int = 10_000) -> pa.Table:
    every = [docs.take(pa.array(range(part, docs.num_rows, parts), pa.int64())) for part in range(parts)]
    return stage.fold(stage.summary(_cut(one, size), "web") for one in every)


def _ranks(docs: pa.RecordBatch, **given: object) -> list[int | None]:
    sketching, ranking = QualityRanks(**given).steps()
    table = _edges(sketching.stage, docs)
    return ranking.stage.bound(tables={"edges": table}).columns(docs)["quality_rank"].to_pylist()


@pytest.mark.parametrize("weight", ["documents", "chars"])
def test_edges_do_not_depend_on_parts_batches_or_their_order(weight: str) -> None:
    docs = _corpus()
    stage = QualitySketch(scores=("edu", "dclm"), weight=weight)
    whole = _edges(stage, docs)
    assert _edges(stage, docs, parts=3, size=100).equals(whole)
    assert _edges(stage, docs.take(pa.array(range(4999, -1, -1))), parts=2).equals(whole)
    assert [(row["scorer"], row["language"]) for row in whole.to_pylist()] == [
        (scorer, language) for scorer in ("edu", "dclm") for language in ("en", "zh", OTHER)
    ]


def test_each_rank_holds_a_twentieth_of_each_language() -> None:
    docs = _corpus()
    ranks = np.array(_ranks(docs, scores=("dclm",)))
    languages = np.array(docs["language"].to_pylist())
    for language in ("en", "zh"):
        counts = np.bincount(ranks[languages == language], minlength=20) / (languages == language).sum()
        assert counts == pytest.approx(np.full(20, 0.05), abs=0.002)
    together = np.array(_ranks(docs, scores=("dclm",), by_language=False))
    assert together[languages == "zh"].max() < 12
    assert np.bincount(together, minlength=20) / 5000 == pytest.approx(np.full(20, 0.05), abs=0.002)


def test_with_chars_each_rank_holds_a_twentieth_of_the_characters() -> None:
    docs = _corpus()
    ranks = np.array(_ranks(docs, scores=("dclm",), weight="chars", by_language=False))
    chars = np.array([len(text) for text in docs["text"].to_pylist()])
    assert np.bincount(ranks, chars, 20) / chars.sum() == pytest.approx(np.full(20, 0.05), abs=0.003)


def test_small_languages_share_one_set_of_edges_and_fall_back_to_all() -> None:
    docs = _corpus()
    (row,) = [r for r in _edges(QualitySketch(scores=("dclm",)), docs).to_pylist() if r["language"] == OTHER]
    small = sum(language not in ("en", "zh") for language in docs["language"].to_pylist())
    assert row["documents"] == small
    few = docs.filter(pa.array([language in ("en", "fi") for language in docs["language"].to_pylist()]))
    (row,) = [r for r in _edges(QualitySketch(scores=("dclm",)), few).to_pylist() if r["language"] == OTHER]
    assert row["documents"] == few.num_rows


def test_the_ensemble_takes_the_highest_rank_and_no_score_means_no_rank() -> None:
    docs = _corpus()
    both = _ranks(docs, scores=("edu", "dclm"))
    edu, dclm = _ranks(docs, scores=("edu",)), _ranks(docs, scores=("dclm",))
    assert edu[0] is None
    assert edu[97] is None  # NaN counts as no score
    assert both == [max(x for x in pair if x is not None) for pair in zip(edu, dclm, strict=True)]
    assert both.count(19) > 0.08 * 5000


def test_equal_scores_share_the_lowest_rank_and_an_empty_corpus_has_edges() -> None:
    docs = _batch(score_a=[0.5] * 300, language=["en"] * 300)
    assert set(_ranks(docs, scores=("a",))) == {0}
    assert _ranks(docs.slice(0, 0), scores=("a",)) == []
    half = _batch(score_a=[0.1] * 100 + [0.9] * 100, language=["en"] * 200)
    assert _ranks(half, scores=("a",)) == [0] * 100 + [10] * 100


def test_ranks_are_the_same_however_the_batch_is_cut() -> None:
    docs = _corpus()
    stage = QualityRank(scores=("edu", "dclm")).bound(
        tables={"edges": _edges(QualitySketch(scores=("edu", "dclm")), docs)}
    )
    whole = stage.columns(docs)["quality_rank"]
    assert whole.type == pa.uint8()
    assert [x for one in _cut(docs, 333) for x in stage.columns(one)["quality_rank"].to_pylist()] == whole.to_pylist()


def test_the_compound_reads_its_input_twice() -> None:
    steps = QualityRanks(scores=("a",)).steps()
    assert [(step.name, step.after, dict(step.tables)) for step in steps] == [
        ("sketch", (INPUT,), {}),
        ("rank", (INPUT,), {"edges": "sketch"}),
    ]


NEMOTRON = {"low": "0-6", "medium_low": "7-11", "medium": "12 - 17", "medium_high": 18, "high": "19"}


def test_levels_name_the_ranks() -> None:
    stage = QualityLevels(levels=dict(reversed(NEMOTRON.items())))
    docs = pa.record_batch({"quality_rank": pa.array([0, 6, 7, 11, 12, 17, 18, 19, None], pa.uint8())})
    names = ["low", "low", "medium_low", "medium_low", "medium", "medium", "medium_high", "high"]
    assert stage.columns(docs)["bucket"].to_pylist() == [*names, None]
    assert QualityLevels(levels=NEMOTRON, unranked="low").columns(docs)["bucket"].to_pylist() == [*names, "low"]
    assert stage.bucket_order() == ["low", "medium_low", "medium", "medium_high", "high"]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"low": "0-6", "high": "9-19"}, "ranks 7, 8 missing"),
        ({"low": "0-10", "high": "10-19"}, "rank 10 given twice"),
        ({"low": "0-10", "mid": 3, "high": "12-19"}, "rank 11 missing; rank 3 given twice"),
        ({"low": "0-20"}, "no rank or range"),
        ({"low": "6-0", "high": "7-19"}, "no rank or range"),
        ({"low": "all"}, "write 18 or 0-6"),
        ({"low": -1, "high": "0-19"}, "no rank or range"),
    ],
)
def test_levels_that_do_not_cover_the_ranks_once_are_refused(levels: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityLevels(levels=levels)


def test_tiers_cut_a_score_at_values_that_belong_to_the_upper_tier() -> None:
    stage = Tiers(column="score_code", cuts={"high": 0.8, "medium": 0.3})
    docs = _batch(score_code=[0.0, 0.2999, 0.3, 0.7999, 0.8, 1.0, None, float("nan")])
    expected = ["low", "low", "medium", "medium", "high", "high", None, None]
    assert stage.columns(docs)["bucket"].to_pylist() == expected
    assert stage.bucket_order() == ["low", "medium", "high"]
    filled = Tiers(column="score_code", cuts={"high": 0.8}, unscored="low").columns(docs)["bucket"].to_pylist()
    assert filled == ["low"] * 4 + ["high"] * 2 + ["low"] * 2
    with pytest.raises(ValueError, match="cannot have one"):
        Tiers(column="score_code", cuts={"low": 0.5})
    with pytest.raises(ValueError, match="tiers are low, high"):
        Tiers(column="score_code", cuts={"high": 0.5}, unscored="lost")


def test_threshold_names_the_column_and_the_side() -> None:
    docs = _batch(score_dclm=[0.018111, 0.018112, 0.5, 0.9, 0.91, None])
    found = Threshold(column="score_dclm", min=0.018112, max=0.9).reasons(docs).to_pylist()
    assert found == ["score_dclm_below", None, None, None, "score_dclm_above", None]
    found = Threshold(column="score_dclm", max=1, missing="drop").reasons(docs).to_pylist()
    assert found == [None] * 5 + ["score_dclm_missing"]
    ranked = pa.record_batch({"quality_rank": pa.array([3, 12, None], pa.uint8())})
    assert Threshold(column="quality_rank", min=12).reasons(ranked).to_pylist() == ["quality_rank_below", None, None]
    assert Threshold(column="quality_rank", min=12).needs()[0].type == pa.uint8()
    with pytest.raises(ValueError, match="min, max or both"):
        Threshold(column="a")
    with pytest.raises(ValueError, match="nothing could pass"):
        Threshold(column="a", min=2, max=1)
