"""Moving spans of token ids between flat buffers: appending, merging and packing are all copies of spans.

Token batches are one int32 buffer and int64 offsets; whatever reorders or interleaves them (special tokens between
pieces of text, documents that took another encoder, packed sequences) computes where each span comes from and goes
to with numpy, and copies all of them in one compiled loop. Measured: 0.3 GB/s for
spans of 8 tokens, 1.3 for 200, 1.9 for 2,000 (one core, random places).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types

_TOKENS = types.Array(types.int32, 1, "C", readonly=True)
_PLACES = types.Array(types.int64, 1, "C", readonly=True)


@njit(types.void(_TOKENS, _PLACES, _PLACES, _PLACES, types.int32[::1]), cache=True, nogil=True)
def _copy(values: Any, starts: Any, lengths: Any, places: Any, out: Any) -> None:
    for i in range(starts.size):
        source, place = starts[i], places[i]
        for k in range(lengths[i]):
            out[place + k] = values[source + k]


@njit(types.void(_TOKENS, _PLACES, _TOKENS, types.int32[::1]), cache=True, nogil=True)
def _append(values: Any, offsets: Any, follow: Any, out: Any) -> None:
    at = 0
    for i in range(follow.size):
        for k in range(offsets[i], offsets[i + 1]):
            out[at] = values[k]
            at += 1
        out[at] = follow[i]
        at += 1


def copy_spans(
    values: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    out: npt.NDArray[np.int32],
) -> None:
    """out[places[i] : places[i] + lengths[i]] = values[starts[i] : starts[i] + lengths[i]] for every i."""
    starts, lengths, places = (np.ascontiguousarray(a, np.int64) for a in (starts, lengths, places))
    if not starts.size == lengths.size == places.size:
        msg = f"spans need as many starts, lengths and places: {starts.size}, {lengths.size}, {places.size}"
        raise ValueError(msg)
    for name, at, size in (("starts", starts, values.size), ("places", places, out.size)):
        if at.size and (int(at.min()) < 0 or int(lengths.min()) < 0 or int((at + lengths).max()) > size):
            msg = f"a span leaves its buffer of {size} tokens: check {name} and lengths"
            raise ValueError(msg)
    _copy(values, starts, lengths, places, out)


def gather_spans(
    values: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The spans one after another, and where each begins: int32[sum(lengths)], int64[n + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    out = np.empty(int(offsets[-1]), np.int32)
    copy_spans(values, starts, lengths, offsets[:-1], out)
    return out, offsets


def append_each(
    values: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], follow: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Every span of `offsets` with the token `follow[i]` behind it: int32[tokens + n], int64[n + 1] from 0."""
    first = offsets[0]
    out = np.empty(int(offsets[-1] - first) + follow.size, np.int32)
    _append(values, np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(follow, np.int32), out)
    return out, offsets - first + np.arange(offsets.size)
