"""A mergeable histogram of scores: how much weight lies below any value, without keeping the scores.

A float32's bits, sign folded, sort like the number; their leading `precision_bits` are the bin. Bins hold exact
integers, so that any cut into parts gives the same sums. At 22 bits a bin is 0.00006 wide just below 1 and finer
towards 0, and scores between 0.00001 and 1 fill at most 140,000 bins (3 MB) per scorer and language.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RANKS = 20
"""Ranks 0 (worst) to 19, a twentieth of the weight each: Nemotron-CC, arXiv:2412.02595 section 3.2."""

UInt32s = npt.NDArray[np.uint32]
Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

_SIGN = np.uint32(1 << 31)


def sortable_bits(scores: Float32s) -> UInt32s:
    """uint32[rows] that sort as the scores do; both zeros are the same, NaN is not allowed."""
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    folded: UInt32s = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return folded


def bins(scores: Float32s, precision_bits: int) -> UInt32s:
    """uint32[rows]: the bin of each score."""
    found: UInt32s = sortable_bits(scores) >> np.uint32(32 - precision_bits)
    return found


def least_values(numbers: UInt32s, precision_bits: int) -> Float32s:
    """float32[bins]: the least score of each bin."""
    bits = numbers.astype(np.uint32) << np.uint32(32 - precision_bits)
    values = np.where(bits & _SIGN, bits ^ _SIGN, ~bits).astype(np.uint32).view(np.float32)
    found: Float32s = np.where(np.isnan(values), np.float32(-np.inf), values).astype(np.float32)
    return found


def edges(numbers: UInt32s, weights: Int64s, precision_bits: int) -> Float32s:
    """float32[19]: least score of ranks 1 to 19, from bins in ascending order and their weights.

    A bin's rank is the number of whole twentieths of the weight that lie below it, so equal scores share the rank of
    the lowest of them. Ranks that no score reaches have the edge NaN, which nothing reaches.
    """
    below = np.cumsum(weights) - weights
    total = max(int(weights.sum()), 1)  # zero when all texts are empty and characters are counted
    ranks = RANKS * below // total
    least = least_values(numbers, precision_bits)
    first = np.searchsorted(ranks, np.arange(1, RANKS), side="left")
    padded = np.append(least, np.float32(np.nan))
    found: Float32s = padded[first].astype(np.float32)
    return found


def ranks(scores: Float32s, edges_by_row: Float32s) -> npt.NDArray[np.uint8]:
    """uint8[rows]: how many of its row's 19 edges (float32[rows, 19]) each score reaches."""
    reached: npt.NDArray[np.uint8] = (scores[:, None] >= edges_by_row).sum(axis=1, dtype=np.uint8)
    return reached
