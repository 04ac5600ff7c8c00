"""Best-fit packing and the copying of token spans, held to plain-Python twins."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels.best_fit import best_fit, bins_needed, fitting_prefix
from pipeline.kernels.code_points import code_point_table, hold_any
from pipeline.kernels.gather import append_each, copy_spans, gather_spans


def best_fit_twin(lengths: list[int], capacity: int) -> list[int]:
    """Longest first, into the fullest bin that has room; among equally full ones the last to become so."""
    free: list[int] = []
    touched: list[int] = []
    bin_of = [0] * len(lengths)
    for step, i in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        able = [b for b in range(len(free)) if free[b] >= lengths[i]]
        if able:
            chosen = min(able, key=lambda b: (free[b], -touched[b]))
        else:
            chosen = len(free)
            free.append(capacity)
            touched.append(step)
        free[chosen] -= lengths[i]
        touched[chosen] = step
        bin_of[i] = chosen
    return bin_of


packings = st.integers(1, 70).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=120))
)


@settings(max_examples=300, deadline=None)
@given(packings)
def test_best_fit_places_every_item_as_its_twin_does(packing):
    capacity, lengths = packing
    assert best_fit(np.array(lengths, np.int32), capacity).tolist() == best_fit_twin(lengths, capacity)


@settings(max_examples=200, deadline=None)
@given(packings)
def test_no_bin_is_overfull_and_no_two_half_empty_bins_remain(packing):
    capacity, lengths = packing
    bin_of = best_fit(np.array(lengths, np.int32), capacity)
    filled = np.bincount(bin_of, weights=lengths) if lengths else np.empty(0)
    assert (filled <= capacity).all()
    assert (filled > 0).all()
    assert (filled <= capacity / 2).sum() <= 1  # the later of two would have gone into the earlier
    assert math.ceil(sum(lengths) / capacity) <= len(filled) <= max(1, 2 * sum(lengths) / capacity + 1)


def test_best_fit_takes_the_smallest_sufficient_space():
    # 6 and 5 open bins with 4 and 5 free of 10; the 4 fits exactly into the first, the last 5 into the second
    assert best_fit(np.array([5, 4, 6, 5], np.int32), 10).tolist() == [1, 0, 0, 1]


def test_best_fit_wastes_next_to_nothing_on_a_long_tailed_mixture():
    rng = np.random.default_rng(3)
    lengths = np.clip(rng.lognormal(6, 1.2, 200_000), 1, 8192).astype(np.int32)
    needed = bins_needed(lengths, 8192)
    assert needed <= math.ceil(lengths.sum(dtype=np.int64) / 8192) + 3


@pytest.mark.parametrize("lengths", [[0], [11], [-1], [3, 11]])
def test_a_length_outside_the_capacity_is_an_error_that_names_the_capacity(lengths):
    with pytest.raises(ValueError, match=r"1\.\.10"):
        best_fit(np.array(lengths, np.int32), 10)


@settings(max_examples=200, deadline=None)
@given(packings, st.integers(0, 40))
def test_a_fitting_prefix_fits_and_fills_all_bins_unless_one_more_item_opens_two(packing, bins):
    capacity, lengths = packing
    array = np.array(lengths, np.int32)
    count = fitting_prefix(array, capacity, bins)
    needed = bins_needed(array[:count], capacity)
    assert needed <= bins
    if count < len(lengths):
        assert needed == bins or bins_needed(array[: count + 1], capacity) > bins


def test_spans_are_gathered_as_slices_would_be():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1000, 500).astype(np.int32)
    starts = rng.integers(0, 400, 60)
    lengths = rng.integers(0, 100, 60)
    out, offsets = gather_spans(values, starts, lengths)
    expected = [values[s : s + n].tolist() for s, n in zip(starts, lengths, strict=True)]
    assert [out[a:b].tolist() for a, b in pairwise(offsets)] == expected


def test_a_span_that_leaves_its_buffer_is_an_error_and_not_a_crash():
    values, out = np.arange(5, dtype=np.int32), np.zeros(5, np.int32)
    for start, length, place in ((3, 3, 0), (-1, 1, 0), (0, 2, 4), (0, -1, 0)):
        with pytest.raises(ValueError, match="leaves its buffer"):
            copy_spans(values, np.array([start]), np.array([length]), np.array([place]), out)


def test_a_token_is_appended_to_each_span_of_an_offset_view():
    values, offsets = np.arange(9, dtype=np.int32), np.array([2, 4, 4, 7])
    out, bounds = append_each(values, offsets, np.array([90, 91, 92], np.int32))
    assert out.tolist() == [2, 3, 90, 91, 4, 5, 6, 92]
    assert bounds.tolist() == [0, 3, 4, 8]


def test_code_points_are_found_wherever_python_finds_them():
    rng = random.Random(5)
    ranges = [(0x41, 0x41), (0x7FD, 0x7FD), (0xC3C, 0xC40), (0x1F600, 0x1F64F), (0x10FFFF, 0x10FFFF)]
    table = code_point_table(ranges)
    marked = [chr(c) for a, b in ranges for c in range(a, b + 1)]
    plain = [chr(c) for c in (0x40, 0x42, 0x7FC, 0x7FE, 0xC3B, 0xC41, 0x1F5FF, 0x1F650, 0x10FFFE, 0, 0x7F, 0xE9)]
    texts = [
        "".join(rng.choice(plain if rng.random() < 0.9 else marked) for _ in range(rng.randrange(12)))
        for _ in range(3000)
    ]
    array = pa.array(["A", *texts], pa.large_string())[1:]
    expected = [any(letter in marked for letter in text) for text in texts]
    assert 0 < sum(expected) < len(texts)
    assert hold_any(array, table).tolist() == expected
    assert hold_any(array[:0], table).tolist() == []
