"""How much of each document repeats itself: lines, paragraphs, and word n-grams for n = 2 to 10.

    data     uint8[total bytes]        text of the batch, one document behind the other
    starts   int64[rows]               first byte of each document
    stops    int64[rows]               one past its last byte
    counts   int64[rows, 16]           the counters below, in code points where they say CHARS

One walk hashes words (64 bits), lines and paragraphs. N-grams then never touch the text again: an n-gram is the pair of
the (n-1)-grams that it begins and ends with, and pairs are numbered level by level. Whatever occurs once at a level
occurs at most once at the next, so it leaves the list: after three levels little of ordinary text is left, and
n = 5 to 10 cost next to nothing. Numbering pairs is exact; only words and lines rest on their 64-bit hashes.

Memory: about 20 bytes per byte of the longest document in prose, 55 where every second byte is a word; so callers cap
documents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, njit, types, uint8

from pipeline.kernels.words import IDEOGRAPH, SPACE

CHARS = 0
"""Code points of the document, white space included."""
LINES = 1
"""Lines that are not blank."""
DUPLICATE_LINES = 2
"""Lines that hold the same words as an earlier line."""
DUPLICATE_LINE_CHARS = 3
"""Their code points, without white space at both ends."""
PARAGRAPHS = 4
"""Runs of lines without a blank line between them."""
DUPLICATE_PARAGRAPHS = 5
"""Paragraphs that hold the same lines as an earlier one."""
DUPLICATE_PARAGRAPH_CHARS = 6
"""Their code points: those of their lines, and one for each line break between."""
TOP_GRAM_CHARS = 7
"""+ n - 2, for n = 2, 3, 4: occurrences times length of the n-gram that occurs most often (the first such; 0 if none
occurs twice). Its length counts one for each gap of white space between its words. Occurrences may overlap."""
DUPLICATE_GRAM_CHARS = 10
"""+ n - 5, for n = 5 .. 10: code points of the words of n-grams met before, reading on behind each n-gram so found."""
COUNTERS = 16

_BYTES = types.Array(uint8, 1, "C", readonly=True)
_POSITIONS = types.Array(int64, 1, "C", readonly=True)

_SEED = np.uint64(0xCBF29CE484222325)  # FNV-1a, 64 bits, over code points: Fowler, Noll, Vo
_PRIME = np.uint64(0x100000001B3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment and mixers: Steele, Lea, Flood, OOPSLA 2014
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ONE = np.uint64(1)


@njit
def _mixed(key: Any) -> Any:
    key = (key ^ (key >> np.uint64(30))) * _MIX_1
    key = (key ^ (key >> np.uint64(27))) * _MIX_2
    return key ^ (key >> np.uint64(31))


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
def _table_size(entries: Any) -> Any:
    """A power of two, at least twice `entries`."""
    size = 16
    while size < 2 * entries:
        size *= 2
    return size


# Below, look-ups stand three times and not once in a function: passing arrays costs numba more than a look-up.


@njit
def _repeated(hashes: Any, chars: Any, entries: Any, keys: Any) -> Any:
    """(how many of the first `entries` hashes occurred before, and their chars)."""
    size = _table_size(entries)
    keys[:size] = 0
    repeats = repeated_chars = 0
    for entry in range(entries):
        key = hashes[entry]
        slot = int64(_mixed(key) & np.uint64(size - 1))
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + 1) & (size - 1)
        if keys[slot] == key:
            repeats += 1
            repeated_chars += chars[entry]
        keys[slot] = key
    return repeats, repeated_chars


@njit
def _number_words(words: Any, hashes: Any, at: Any, ids: Any, keys: Any, numbers: Any, times: Any) -> None:
    """Number words in the order of their first occurrence, and count each."""
    size = _table_size(words)
    keys[:size] = 0
    distinct = 0
    for word in range(words):
        key = hashes[word]
        slot = int64(_mixed(key) & np.uint64(size - 1))
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + 1) & (size - 1)
        if keys[slot] == 0:
            keys[slot] = key
            numbers[slot] = distinct
            times[distinct] = 0
            distinct += 1
        number = numbers[slot]
        times[number] += 1
        at[word] = word
        ids[word] = number


@njit
def _number_pairs(
    entries: Any, at: Any, ids: Any, keys: Any, numbers: Any, times: Any, times_next: Any, first: Any
) -> Any:
    """Join neighbours that both occur more than once: (n-1)-grams in `at` and `ids` give way to n-grams.

    Returns how many n-grams stand there now and how many of them differ; `first` says where each occurs first.
    """
    size = _table_size(entries)
    keys[:size] = 0
    distinct = kept = 0
    for entry in range(entries - 1):
        left, right = ids[entry], ids[entry + 1]
        position = at[entry]
        if at[entry + 1] != position + 1 or times[left] < 2 or times[right] < 2:
            continue
        key = ((np.uint64(left) << np.uint64(32)) | np.uint64(right)) + _ONE
        slot = int64(_mixed(key) & np.uint64(size - 1))
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + 1) & (size - 1)
        if keys[slot] == 0:
            keys[slot] = key
            numbers[slot] = distinct
            times_next[distinct] = 0
            first[distinct] = position
            distinct += 1
        number = numbers[slot]
        times_next[number] += 1
        at[kept] = position
        ids[kept] = number
        kept += 1
    return kept, distinct


@njit
def _top_gram_chars(n: Any, distinct: Any, times: Any, first: Any, ends: Any, gaps: Any) -> Any:
    most = 1
    chars = 0
    for number in range(distinct):
        if times[number] > most:
            most = int64(times[number])
            begin = first[number]
            chars = most * (ends[begin + n] - ends[begin] + gaps[begin + n - 1] - gaps[begin])
    return chars


@njit
def _duplicate_gram_chars(
    n: Any, entries: Any, distinct: Any, at: Any, ids: Any, times: Any, met: Any, ends: Any
) -> Any:
    met[:distinct] = 0
    behind = chars = 0
    for entry in range(entries):
        number, position = ids[entry], at[entry]
        if position < behind or times[number] < 2:
            continue
        if met[number] == 0:
            met[number] = 1
        else:
            chars += ends[position + n] - ends[position]
            behind = position + n
    return chars


@njit
def _gram_counts(words: Any, hashes: Any, ends: Any, gaps: Any, at: Any, ids: Any, tables: Any, counts: Any) -> None:
    """Fill TOP_GRAM_CHARS and DUPLICATE_GRAM_CHARS of one document.

    ends, gaps   int32[words + 1]      code points of words, gaps of white space, before each word
    at, ids      int32[entries]        where the surviving n-grams begin, and their numbers
    """
    keys, numbers, times, times_next, first = tables
    _number_words(words, hashes, at, ids, keys, numbers, times)
    entries = words
    for n in range(2, 11):
        entries, distinct = _number_pairs(entries, at, ids, keys, numbers, times, times_next, first)
        times, times_next = times_next, times
        if entries == 0:
            return
        if n <= 4:
            counts[TOP_GRAM_CHARS + n - 2] = _top_gram_chars(n, distinct, times, first, ends, gaps)
        else:
            chars = _duplicate_gram_chars(n, entries, distinct, at, ids, times, first, ends)
            counts[DUPLICATE_GRAM_CHARS + n - 5] = chars


@njit(int64[:, ::1](_BYTES, _POSITIONS, _POSITIONS, _BYTES), cache=True, nogil=True)
def repetition_counts(data: Any, starts: Any, stops: Any, classes: Any) -> Any:
    """int64[rows, COUNTERS]. `classes` is `character_classes()`."""
    counts = np.zeros((len(starts), COUNTERS), np.int64)
    longest = int64(0)
    for row in range(len(starts)):
        longest = max(longest, stops[row] - starts[row])
    most_words = longest + 1 if longest < 64 else longest // 2 + 2  # ASCII words need a byte between them
    hashes = np.empty(most_words, np.uint64)
    ends = np.empty(most_words + 1, np.int32)
    gaps = np.empty(most_words + 1, np.int32)
    line_hashes = np.empty(most_words, np.uint64)
    line_chars = np.empty(most_words, np.int32)
    paragraph_hashes = np.empty(most_words, np.uint64)
    paragraph_chars = np.empty(most_words, np.int32)
    at_words = np.empty(most_words, np.int32)
    ids = np.empty(most_words, np.int32)
    size = _table_size(most_words)
    keys = np.empty(size, np.uint64)
    tables = (
        keys,
        np.empty(size, np.int32),
        np.empty(most_words, np.int32),
        np.empty(most_words, np.int32),
        np.empty(most_words, np.int32),
    )

    for row in range(len(starts)):
        at, stop = starts[row], stops[row]
        if at == stop:
            continue
        words = lines = paragraphs = 0
        chars = 0  # code points so far
        word_chars = word_gaps = 0  # code points of words, and gaps between them, before the word at hand
        line_begin = line_end = 0  # `chars` at the line's first visible character, and behind its last
        in_word = ideograph = in_line = in_paragraph = after_space = False
        word_hash = line_hash = paragraph_hash = _SEED
        length_of_paragraph = 0
        ends[0] = gaps[0] = 0
        while at <= stop:
            ended = at == stop
            if ended:
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

            if in_word and (ideograph or (kind & (SPACE | IDEOGRAPH)) != 0):
                in_word = ideograph = False
                hashes[words] = max(_mixed(word_hash), _ONE)
                line_hash = _mixed(line_hash + word_hash * _GOLDEN)
                words += 1
                ends[words] = word_chars
                gaps[words] = word_gaps
                word_hash = _SEED
            if (kind & SPACE) != 0:
                after_space = True
                if point == 10:
                    if in_line:
                        in_line = False
                        length = line_end - line_begin
                        line_hashes[lines] = max(line_hash, _ONE)
                        line_chars[lines] = length
                        lines += 1
                        length_of_paragraph += length + in_paragraph
                        in_paragraph = True
                        paragraph_hash = _mixed(paragraph_hash + line_hash * _GOLDEN)
                        if not ended:
                            chars += 1
                            continue
                    if in_paragraph:
                        in_paragraph = False
                        paragraph_hashes[paragraphs] = max(paragraph_hash, _ONE)
                        paragraph_chars[paragraphs] = length_of_paragraph
                        paragraphs += 1
                        paragraph_hash = _SEED
                        length_of_paragraph = 0
                chars += 1
                continue

            if not in_line:
                in_line = True
                line_begin = chars
                line_hash = _SEED
            if after_space:
                after_space = False
                word_gaps += words > 0
                gaps[words] = word_gaps
            chars += 1
            word_chars += 1
            line_end = chars
            in_word = True
            word_hash = (word_hash ^ np.uint64(point)) * _PRIME
            if (kind & IDEOGRAPH) != 0:
                ideograph = True
                continue
            begin = at
            while at < stop:  # not the obvious loop: most bytes of most texts end here, after three tests
                point = int64(data[at])
                if point >= 0x80 or (classes[point] & SPACE) != 0:
                    break
                word_hash = (word_hash ^ np.uint64(point)) * _PRIME
                at += 1
            chars += at - begin
            word_chars += at - begin
            line_end = chars

        here = counts[row]
        here[CHARS] = chars - 1  # without the line feed that was put at the end
        here[LINES] = lines
        here[DUPLICATE_LINES], here[DUPLICATE_LINE_CHARS] = _repeated(line_hashes, line_chars, lines, keys)
        here[PARAGRAPHS] = paragraphs
        here[DUPLICATE_PARAGRAPHS], here[DUPLICATE_PARAGRAPH_CHARS] = _repeated(
            paragraph_hashes, paragraph_chars, paragraphs, keys
        )
        if words > 1:
            _gram_counts(words, hashes, ends, gaps, at_words, ids, tables, here)
    return counts
