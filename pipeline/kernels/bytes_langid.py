"""Naive Bayes over the bytes of each document: an automaton finds features, a matrix weighs them, a softmax decides.

The classifier of Lui and Baldwin (langid.py, ACL 2012), in the form that py3langid gives it: ln(1 + count) of each feature,
scores divided by the square root of the number of bytes before the softmax.

    moves     uint32[rows of moves * 256]   next state, by row and byte
    states    int32[states, 2]              row of `moves` that a state uses (states share rows); feature that it
                                            completes, or -1. Side by side, so that a state costs one cache line
    weights   float32[features, classes]    ln P(feature | class)
    priors    float32[classes]              ln P(class)

Cost: two dependent loads a byte, then one row of `weights` per distinct feature (some hundreds in 4,000 bytes).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32, int64, njit, types, uint8, uint32

from pipeline.kernels.words import LOWER, UPPER

_BYTES = types.Array(uint8, 1, "C", readonly=True)
_POSITIONS = types.Array(int64, 1, "C", readonly=True)

ALL_UPPER = 1
"""The document has upper-case letters and no others that have a case, as `str.isupper`."""
MAYBE_COMPOSES = 2
"""The document may change under NFC."""


@njit(uint8[::1](_BYTES, _POSITIONS, _POSITIONS, _BYTES, _BYTES), cache=True, nogil=True)
def spelling(data: Any, starts: Any, stops: Any, classes: Any, composes: Any) -> Any:
    """uint8[rows]: ALL_UPPER and MAYBE_COMPOSES as bits. `classes` and `composes` are tables over code points."""
    found = np.zeros(len(starts), np.uint8)
    for row in range(len(starts)):
        upper = lower = maybe = False
        at, stop = starts[row], stops[row]
        while at < stop:
            point, width = int64(data[at]), 1
            if point >= 0xF0 and at + 3 < stop:
                point, width = (
                    (
                        ((point & 0x07) << 18)
                        | ((int64(data[at + 1]) & 0x3F) << 12)
                        | ((int64(data[at + 2]) & 0x3F) << 6)
                        | (int64(data[at + 3]) & 0x3F)
                    ),
                    4,
                )
            elif 0xE0 <= point < 0xF0 and at + 2 < stop:
                point, width = (
                    (((point & 0x0F) << 12) | ((int64(data[at + 1]) & 0x3F) << 6) | (int64(data[at + 2]) & 0x3F)),
                    3,
                )
            elif 0xC0 <= point < 0xE0 and at + 1 < stop:
                point, width = ((point & 0x1F) << 6) | (int64(data[at + 1]) & 0x3F), 2
            at += width
            if point < len(classes):
                kind = classes[point]
                upper |= (kind & UPPER) != 0
                lower |= (kind & LOWER) != 0
                maybe |= composes[point] != 0
        found[row] = (upper and not lower) * ALL_UPPER + maybe * MAYBE_COMPOSES
    return found


@njit(
    float32[:, ::1](
        _BYTES,
        _POSITIONS,
        _POSITIONS,
        types.Array(uint32, 1, "C", readonly=True),
        types.Array(int32, 2, "C", readonly=True),
        types.Array(float32, 2, "C", readonly=True),
        types.Array(float32, 1, "C", readonly=True),
    ),
    cache=True,
    nogil=True,
)
def probabilities(data: Any, starts: Any, stops: Any, moves: Any, states: Any, weights: Any, priors: Any) -> Any:
    """float32[rows, classes]: probability of each class; all 0 for a document without a single feature."""
    found = np.zeros((len(starts), len(priors)), np.float32)
    count = np.zeros(len(weights), np.int32)
    longest = int64(0)
    for row in range(len(starts)):
        longest = max(longest, stops[row] - starts[row])
    met = np.empty(min(longest, len(weights)), np.int32)
    scores = np.empty(len(priors), np.float32)
    damped = np.log1p(np.arange(1024).astype(np.float32))
    for row in range(len(starts)):
        distinct = 0
        state = int64(0)
        for at in range(starts[row], stops[row]):
            state = int64(moves[(int64(states[state, 0]) << 8) + int64(data[at])])
            one = states[state, 1]
            if one >= 0:
                if count[one] == 0:
                    met[distinct] = one
                    distinct += 1
                count[one] += 1
        if distinct == 0:
            continue
        scores[:] = 0
        for which in range(distinct):
            one = met[which]
            weight = damped[count[one]] if count[one] < 1024 else np.log1p(np.float32(count[one]))
            count[one] = 0
            for kind in range(len(priors)):
                scores[kind] += weight * weights[one, kind]
        scale = np.float32(1 / np.sqrt(np.float64(stops[row] - starts[row])))
        for kind in range(len(priors)):
            scores[kind] = (scores[kind] + priors[kind]) * scale
        highest = scores[0]
        for kind in range(len(priors)):
            highest = max(highest, scores[kind])
        total = np.float32(0)
        for kind in range(len(priors)):
            found[row, kind] = np.exp(scores[kind] - highest)
            total += found[row, kind]
        for kind in range(len(priors)):
            found[row, kind] /= total
    return found
