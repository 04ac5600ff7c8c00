"""The Gopher quality counters of every document of a batch, in one walk over its UTF-8 bytes.

    data     uint8[total bytes]        text of the batch, one document behind the other
    starts   int64[rows]               first byte of each document
    stops    int64[rows]               one past its last byte; equal to `starts` for an empty or null one
    counts   int64[rows, 11]           the counters below

Words and lines are those of `kernels/words.py`. Of each word only the part from its first to its last letter or digit
is measured and compared with stop words, so that `(the` counts as `the`. Memory: the counters and nothing
else, however long a document is. Invalid UTF-8 is read byte by byte as symbols, and never beyond `stops`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, njit, types, uint8

from pipeline.kernels.words import ALPHABETIC, ALPHANUMERIC, BULLET, IDEOGRAPH, SPACE

WORDS = 0
"""All words."""
PLAIN_WORDS = 1
"""Words that hold a letter or a digit."""
SPACED_WORDS = 2
"""Of these, the ones that are not a single Han or kana character."""
SPACED_WORD_CHARS = 3
"""Code points of SPACED_WORDS, from the first to the last letter or digit of each."""
ALPHABETIC_WORDS = 4
"""Words that hold a letter."""
HASHES = 5
"""`#` anywhere."""
ELLIPSES = 6
"""`...` (runs of dots hold one for every three) and `…`."""
LINES = 7
"""Lines that are not blank."""
BULLET_LINES = 8
"""Lines whose first visible character is a bullet."""
ELLIPSIS_LINES = 9
"""Lines whose last visible characters are an ellipsis."""
STOP_WORDS = 10
"""Different stop words that occur."""
COUNTERS = 11

_BYTES = types.Array(uint8, 1, "C", readonly=True)
_POSITIONS = types.Array(int64, 1, "C", readonly=True)

_SEED = np.uint64(0xCBF29CE484222325)  # FNV-1a, 64 bits, over code points: Fowler, Noll, Vo
_PRIME = np.uint64(0x100000001B3)


@njit
def _code_point(first: Any, second: Any, third: Any, fourth: Any) -> Any:
    """(code point, bytes it takes) of the character that these bytes begin; U+FFFD and 1 where they are not UTF-8."""
    point, width = int64(0xFFFD), 1
    if first < 0xC2 or (second & 0xC0) != 0x80:
        pass
    elif first < 0xE0:
        point, width = ((first & 0x1F) << 6) | (second & 0x3F), 2
    elif (third & 0xC0) != 0x80:
        pass
    elif first < 0xF0:
        point, width = ((first & 0x0F) << 12) | ((second & 0x3F) << 6) | (third & 0x3F), 3
    elif first < 0xF5 and (fourth & 0xC0) == 0x80:
        wide = ((first & 0x07) << 18) | ((second & 0x3F) << 12) | ((third & 0x3F) << 6) | (fourth & 0x3F)
        if wide < 0x110000:
            point, width = wide, 4
    return point, width


@njit
def _folded(hash_: Any, point: Any) -> Any:
    """The hash of a word with one more character; ASCII capitals count as small letters."""
    if 65 <= point <= 90:
        point += 32
    return (hash_ ^ np.uint64(point)) * _PRIME


@njit
def _slot(hash_: Any, mask: Any) -> Any:
    return int64((hash_ ^ (hash_ >> np.uint64(29))) & np.uint64(mask))


@njit
def _stop_table(data: Any, offsets: Any) -> Any:
    """(hashes of the stop words, open-addressed table of their numbers)."""
    words = len(offsets) - 1
    size = 8
    while size < 4 * words:
        size *= 2
    table = np.full(size, -1, np.int64)
    hashes = np.empty(words, np.uint64)
    for word in range(words):
        hash_ = _SEED
        at = offsets[word]
        while at < offsets[word + 1]:
            point, width = int64(data[at]), 1
            if point >= 0x80:
                second = int64(data[at + 1]) if at + 1 < offsets[word + 1] else int64(0)
                third = int64(data[at + 2]) if at + 2 < offsets[word + 1] else int64(0)
                fourth = int64(data[at + 3]) if at + 3 < offsets[word + 1] else int64(0)
                point, width = _code_point(point, second, third, fourth)
            hash_ = _folded(hash_, point)
            at += width
        hashes[word] = hash_
        slot = _slot(hash_, size - 1)
        while table[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        table[slot] = word
    return hashes, table


@njit(int64[:, ::1](_BYTES, _POSITIONS, _POSITIONS, _BYTES, _BYTES, _POSITIONS), cache=True, nogil=True)
def quality_counts(data: Any, starts: Any, stops: Any, classes: Any, stop_data: Any, stop_offsets: Any) -> Any:
    """int64[rows, COUNTERS]. `classes` is `character_classes()`; stop words come as the buffers of a string column."""
    counts = np.zeros((len(starts), COUNTERS), np.int64)
    hashes, table = _stop_table(stop_data, stop_offsets)
    met_in = np.full(len(hashes), -1, np.int64)
    for row in range(len(starts)):
        at, stop = starts[row], stops[row]
        words = plain = spaced = spaced_chars = alphabetic = met = 0
        number_signs = ellipses = lines = bullet_lines = ellipsis_lines = 0
        in_word = has_letter = ideograph = in_line = False
        chars = core_chars = 0  # of this word: from its first letter or digit to here, and to the last one
        hash_ = core_hash = _SEED
        dots = tail = 0  # dots in a row here; 3 or more when the line's last visible characters are an ellipsis
        while at <= stop:
            if at == stop:
                point, width = int64(10), 1  # the end of the document ends its last word and line
            else:
                point, width = int64(data[at]), 1
                if point >= 0x80:
                    second = int64(data[at + 1]) if at + 1 < stop else int64(0)
                    third = int64(data[at + 2]) if at + 2 < stop else int64(0)
                    fourth = int64(data[at + 3]) if at + 3 < stop else int64(0)
                    point, width = _code_point(point, second, third, fourth)
            at += width
            kind = classes[point]

            if point != 46 and dots > 0:
                ellipses += dots // 3
                dots = 0
            if in_word and (ideograph or (kind & (SPACE | IDEOGRAPH)) != 0):
                words += 1
                alphabetic += has_letter
                if core_chars > 0:
                    plain += 1
                    if not ideograph:
                        spaced += 1
                        spaced_chars += core_chars
                    # The look-up stands here and not in a function: passing arrays costs numba more than the look-up.
                    slot = _slot(core_hash, len(table) - 1)
                    while table[slot] >= 0:
                        if hashes[table[slot]] == core_hash:
                            if met_in[table[slot]] != row:
                                met_in[table[slot]] = row
                                met += 1
                            break
                        slot = (slot + 1) & (len(table) - 1)
                in_word = has_letter = ideograph = False
                chars = core_chars = 0
                hash_ = _SEED
            if (kind & SPACE) != 0:
                if point == 10 and in_line:
                    lines += 1
                    ellipsis_lines += tail >= 3
                    in_line = False
                continue

            if not in_line:
                in_line = True
                bullet_lines += (kind & BULLET) != 0
            if point == 46:
                dots += 1
                tail = dots
            elif point == 0x2026:
                ellipses += 1
                tail = 3
            else:
                tail = 0
                number_signs += point == 35

            in_word = True
            if (kind & IDEOGRAPH) != 0:
                ideograph = True
                has_letter = (kind & ALPHABETIC) != 0
                core_chars = 1
                core_hash = _folded(hash_, point)
                continue
            if (kind & ALPHANUMERIC) != 0:
                chars += 1
                hash_ = _folded(hash_, point)
                if (kind & ALPHABETIC) != 0:
                    has_letter = True
                while at < stop:  # not the obvious loop: most bytes of most texts end here, after four tests
                    point = int64(data[at])
                    if point >= 0x80:
                        break
                    kind = classes[point]
                    if (kind & ALPHANUMERIC) == 0:
                        break
                    hash_ = _folded(hash_, point)
                    chars += 1
                    has_letter |= (kind & ALPHABETIC) != 0
                    at += 1
                core_chars, core_hash = chars, hash_
            elif chars > 0:
                chars += 1
                hash_ = _folded(hash_, point)

        counts[row, WORDS] = words
        counts[row, PLAIN_WORDS] = plain
        counts[row, SPACED_WORDS] = spaced
        counts[row, SPACED_WORD_CHARS] = spaced_chars
        counts[row, ALPHABETIC_WORDS] = alphabetic
        counts[row, HASHES] = number_signs
        counts[row, ELLIPSES] = ellipses
        counts[row, LINES] = lines
        counts[row, BULLET_LINES] = bullet_lines
        counts[row, ELLIPSIS_LINES] = ellipsis_lines
        counts[row, STOP_WORDS] = met
    return counts
