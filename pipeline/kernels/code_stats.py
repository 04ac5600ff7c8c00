"""What the file rules for source code ask of a text, counted over Arrow buffers.

One row of numbers per file: lines, longest line, letters, and how much of it is data written as text (base64, hex
pairs, unicode escapes). Meanings follow Python: a line ends at \\n, \\r\\n or \\r; letters are `str.isalpha`; the three
encodings are the regular expressions of StarCoder2 (arXiv:2402.19173 section 2.1) with ASCII classes, followed
exactly, backtracking included, by hand-written scanners. About 250 MB/s on one core.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import boolean, int64, njit, types, uint8

BYTES = types.Array(uint8, 1, "C", readonly=True)
OFFSETS = types.Array(int64, 1, "C", readonly=True)

CHARS, LINES, LINE_CHARS, LONGEST_LINE, ALPHABETIC, ALPHANUMERIC, VISIBLE, ENCODED_LONGEST, ENCODED_TOTAL = range(9)
"""Columns of `file_stats`: code points; lines; code points without line ends; the longest line's; `isalpha`;
`isalnum`; bytes that are no ASCII whitespace or control; of the three encodings' matches the longest, and the largest sum."""
NUM_STATS = 9

IS_ALPHA, IS_ALNUM = 1, 2
TABLE_SIZE = 0x40000
"""Planes 0 to 3: nothing assigned beyond them is a letter or a number."""

_MIN_BASE64, _MIN_PAIRS, _MIN_ESCAPES = 64, 8, 8


@lru_cache(maxsize=1)
def letter_table() -> npt.NDArray[np.uint8]:
    """uint8[TABLE_SIZE]: IS_ALPHA and IS_ALNUM of each code point, as this Python's Unicode has it (40 ms, once)."""
    flags = [chr(c).isalpha() * IS_ALPHA + chr(c).isalnum() * IS_ALNUM for c in range(TABLE_SIZE)]
    return np.array(flags, np.uint8)


_HEX, _BASE64, _HEX_TEXT, _ESCAPE_TEXT = 1, 2, 4, 8
"""Classes of bytes: hex digits; those of a base64 match; of a match of hex pairs; of one of unicode escapes."""


def _byte_classes() -> npt.NDArray[np.uint8]:
    digits = b"0123456789abcdefABCDEF"
    letters = bytes(range(65, 91)) + bytes(range(97, 123)) + b"0123456789"
    classes = np.zeros(256, np.uint8)
    for flag, members in (
        (_HEX, digits),
        (_BASE64, letters + b"+/\n="),
        (_HEX_TEXT, digits + b"x\\ \t\n\r\f\v"),
        (_ESCAPE_TEXT, digits + b"u\\"),
    ):
        classes[list(members)] |= flag
    return classes


_CLASSES = _byte_classes()


@njit(boolean(uint8), cache=True, nogil=True, inline="always")
def _is_word(byte: Any) -> Any:
    return 97 <= byte <= 122 or 48 <= byte <= 57 or 65 <= byte <= 90 or byte == 95


@njit(boolean(uint8), cache=True, nogil=True, inline="always")
def _is_space(byte: Any) -> Any:
    return byte == 32 or 9 <= byte <= 13


@njit(types.UniTuple(int64, 2)(BYTES, int64, uint8, int64), cache=True, nogil=True)
def _next_run(text: Any, at: Any, flag: Any, least: Any) -> Any:
    """The first run of at least `least` bytes of a class that begins at `at` or later; both ends len(text) if none.

    Looks at the last byte that such a run would have and goes back from there, so most bytes are never read.
    """
    while at + least <= len(text):
        back = at + least - 1
        while back >= at and _CLASSES[text[back]] & flag:
            back -= 1
        if back < at:
            end = at + least
            while end < len(text) and _CLASSES[text[end]] & flag:
                end += 1
            return at, end
        at = back + 1
    return len(text), len(text)


@njit(types.UniTuple(int64, 2)(BYTES), cache=True, nogil=True)
def base64_matches(text: Any) -> Any:
    """Longest match and sum of all matches of `[a-zA-Z0-9+/\\n=]{64,}`."""
    longest, total = 0, 0
    start, end = _next_run(text, 0, _BASE64, _MIN_BASE64)
    while start < len(text):
        longest, total = max(longest, end - start), total + end - start
        start, end = _next_run(text, end, _BASE64, _MIN_BASE64)
    return longest, total


@njit(int64(BYTES, int64), cache=True, nogil=True)
def _hex_pair(text: Any, at: Any) -> Any:
    """Where a unit `\\b(?:0x|\\\\x)?[0-9a-fA-F]{2}` that ends at a word's end stops; -1 when none stands at `at`."""
    stop = len(text)
    if at >= stop or (at > 0 and _is_word(text[at - 1])) == _is_word(text[at]):
        return -1
    if at + 1 < stop and text[at + 1] == 120 and (text[at] == 48 or text[at] == 92):
        at += 2
    elif text[at] == 92:
        return -1
    if at + 2 > stop or not (_CLASSES[text[at]] & _CLASSES[text[at + 1]] & _HEX):
        return -1
    at += 2
    return -1 if at < stop and _is_word(text[at]) else at


@njit(int64(BYTES, int64), cache=True, nogil=True)
def _hex_run(text: Any, at: Any) -> Any:
    """End of the match whose first pair ends at `at`, or -1. Pairs are joined by nothing, one space or any whitespace."""
    pairs = 1
    while True:
        if at < len(text) and text[at] == 32:
            after = _hex_pair(text, at + 1)
            if after >= 0:
                at, pairs = after, pairs + 1
                continue
            if pairs >= _MIN_PAIRS:
                return at + 1  # a backtracking matcher is content here and never tries to skip more whitespace
        skipped = at
        while skipped < len(text) and _is_space(text[skipped]):
            skipped += 1
        after = _hex_pair(text, skipped)
        if after < 0:
            return skipped if pairs >= _MIN_PAIRS else -1
        at, pairs = after, pairs + 1


@njit(types.UniTuple(int64, 2)(BYTES), cache=True, nogil=True)
def hex_matches(text: Any) -> Any:
    """Longest match and sum of all matches of `(?:\\b(?:0x|\\\\x)?[0-9a-fA-F]{2}(?: |\\b\\s*)){8,}`."""
    longest, total = 0, 0
    shortest = 3 * _MIN_PAIRS - 1  # two digits and a space each, no space behind the last
    start, stop = _next_run(text, 0, _HEX_TEXT, shortest)
    while start < len(text):
        at = start
        while at < stop:
            first = _hex_pair(text, at)
            end = _hex_run(text, first) if first >= 0 else -1
            if end < 0:
                at += 1
            else:
                longest, total, at = max(longest, end - at), total + end - at, end
        start, stop = _next_run(text, stop, _HEX_TEXT, shortest)
    return longest, total


@njit(boolean(BYTES, int64), cache=True, nogil=True)
def _is_escape(text: Any, at: Any) -> Any:
    if at + 6 > len(text) or text[at] != 92 or text[at + 1] != 117:
        return False
    both = _CLASSES[text[at + 2]] & _CLASSES[text[at + 3]] & _CLASSES[text[at + 4]] & _CLASSES[text[at + 5]]
    return (both & _HEX) != 0


@njit(types.UniTuple(int64, 2)(BYTES), cache=True, nogil=True)
def escape_matches(text: Any) -> Any:
    """Longest match and sum of all matches of `(?:\\\\u[0-9a-fA-F]{4}){8,}`."""
    longest, total = 0, 0
    start, stop = _next_run(text, 0, _ESCAPE_TEXT, 6 * _MIN_ESCAPES)
    while start < len(text):
        at = start
        while at < stop:
            end = at
            while _is_escape(text, end):
                end += 6
            if end - at >= 6 * _MIN_ESCAPES:
                longest, total = max(longest, end - at), total + end - at
            at = max(end, at + 1)
        start, stop = _next_run(text, stop, _ESCAPE_TEXT, 6 * _MIN_ESCAPES)
    return longest, total


@njit(int64(BYTES, int64), cache=True, nogil=True)
def _code_point(text: Any, at: Any) -> Any:
    lead = int64(text[at])
    if lead < 0xE0 and at + 1 < len(text):
        return ((lead & 0x1F) << 6) | (int64(text[at + 1]) & 0x3F)
    if lead < 0xF0 and at + 2 < len(text):
        return ((lead & 0x0F) << 12) | ((int64(text[at + 1]) & 0x3F) << 6) | (int64(text[at + 2]) & 0x3F)
    if at + 3 < len(text):
        middle = ((int64(text[at + 1]) & 0x3F) << 12) | ((int64(text[at + 2]) & 0x3F) << 6)
        return ((lead & 0x07) << 18) | middle | (int64(text[at + 3]) & 0x3F)
    return 0


@njit(types.void(BYTES, BYTES, int64[::1]), cache=True, nogil=True)
def _count_chars(text: Any, table: Any, found: Any) -> None:
    chars, letters, digits, visible = 0, 0, 0, 0
    for at in range(len(text)):  # no branch: the compiler does 32 bytes at a time
        byte = text[at]
        chars += (byte & 0xC0) != 0x80
        letters += uint8((byte | uint8(32)) - uint8(97)) < 26
        digits += uint8(byte - uint8(48)) < 10
        visible += byte > 32
    alnum = letters + digits
    if chars < len(text):
        for at in range(len(text)):
            if text[at] >= 0xC0:
                point = _code_point(text, at)
                flags = table[point] if point < len(table) else uint8(0)
                letters += flags & 1
                alnum += (flags >> 1) & 1
    found[CHARS], found[ALPHABETIC], found[ALPHANUMERIC], found[VISIBLE] = chars, letters, alnum, visible


@njit(types.void(BYTES, int64[::1]), cache=True, nogil=True)
def _count_lines(text: Any, found: Any) -> None:
    lines, ends, longest, line, previous = 0, 0, 0, 0, uint8(0)
    for at in range(len(text)):
        byte = text[at]
        if byte == 10 or byte == 13:
            ends += 1
            if not (byte == 10 and previous == 13):
                lines += 1
                longest = max(longest, line)
                line = 0
        else:
            line += (byte & 0xC0) != 0x80
        previous = byte
    found[LINES] = lines + (line > 0)
    found[LONGEST_LINE] = max(longest, line)
    found[LINE_CHARS] = found[CHARS] - ends


@njit(int64[:, ::1](BYTES, OFFSETS, BYTES), cache=True, nogil=True)
def file_stats(data: Any, offsets: Any, table: Any) -> Any:
    """int64[rows, NUM_STATS]: the numbers named above, one row per file."""
    found = np.zeros((len(offsets) - 1, NUM_STATS), np.int64)
    for row in range(len(found)):
        text = data[offsets[row] : offsets[row + 1]]
        _count_chars(text, table, found[row])
        _count_lines(text, found[row])
        base64, hexes, escapes = base64_matches(text), hex_matches(text), escape_matches(text)
        found[row, ENCODED_LONGEST] = max(base64[0], hexes[0], escapes[0])
        found[row, ENCODED_TOTAL] = max(base64[1], hexes[1], escapes[1])
    return found


@njit(int64[::1](BYTES, OFFSETS, int64), cache=True, nogil=True)
def ends_of_line(data: Any, offsets: Any, number: Any) -> Any:
    """int64[rows]: where in `data` the first `number` lines of each row end."""
    found = np.empty(len(offsets) - 1, np.int64)
    for row in range(len(found)):
        at, stop, left = offsets[row], offsets[row + 1], number
        while at < stop and left > 0:
            if data[at] == 10 or (data[at] == 13 and not (at + 1 < stop and data[at + 1] == 10)):
                left -= 1
            at += 1
        found[row] = at
    return found


@njit(boolean[::1](BYTES, OFFSETS, OFFSETS, BYTES, OFFSETS, boolean), cache=True, nogil=True)
def holds_any(data: Any, starts: Any, stops: Any, needles: Any, needle_offsets: Any, fold: Any) -> Any:
    """bool[rows]: whether a span holds one of the needles; with `fold`, ASCII case does not matter (needles: lower)."""
    found = np.zeros(len(starts), np.bool_)
    for row in range(len(starts)):
        at = starts[row]
        while at < stops[row] and not found[row]:
            for needle in range(len(needle_offsets) - 1):
                first, last = needle_offsets[needle], needle_offsets[needle + 1]
                length = last - first
                if at + length > stops[row]:
                    continue
                same = 0
                while same < length:
                    byte = data[at + same]
                    if fold and 65 <= byte <= 90:
                        byte = uint8(byte + 32)
                    if byte != needles[first + same]:
                        break
                    same += 1
                if same == length:
                    found[row] = True
                    break
            at += 1
    return found


@njit(boolean(BYTES, int64, int64, BYTES), cache=True, nogil=True)
def _begins(data: Any, at: Any, stop: Any, word: Any) -> Any:
    if at + len(word) > stop:
        return False
    for i in range(len(word)):
        byte = data[at + i]
        if 65 <= byte <= 90:
            byte = uint8(byte + 32)
        if byte != word[i]:
            return False
    return True


SCRIPT, STYLE, COMMENT = (np.frombuffer(word, np.uint8) for word in (b"<script", b"<style", b"<!--"))
END_SCRIPT, END_STYLE, END_COMMENT = (np.frombuffer(word, np.uint8) for word in (b"</script", b"</style", b"-->"))


@njit(int64(BYTES, int64, int64, BYTES), cache=True, nogil=True)
def _find(data: Any, at: Any, stop: Any, word: Any) -> Any:
    while at < stop and not _begins(data, at, stop, word):
        at += 1
    return at


@njit(int64[::1](BYTES, OFFSETS, OFFSETS), cache=True, nogil=True)
def html_text_chars(data: Any, starts: Any, stops: Any) -> Any:
    """int64[rows]: code points outside tags, comments, scripts and styles; runs of whitespace count once.

    A rough count for a filter, not an extraction: entities count as they are written, and a `>` in an attribute ends
    its tag.
    """
    found = np.zeros(len(starts), np.int64)
    for row in range(len(starts)):
        at, stop, count, space = starts[row], stops[row], 0, True
        while at < stop:
            byte = data[at]
            if byte == 60:
                if _begins(data, at, stop, COMMENT):
                    at = _find(data, at + 4, stop, END_COMMENT) + 3
                    continue
                if _begins(data, at, stop, SCRIPT):
                    at = _find(data, at + 7, stop, END_SCRIPT)
                elif _begins(data, at, stop, STYLE):
                    at = _find(data, at + 6, stop, END_STYLE)
                while at < stop and data[at] != 62:
                    at += 1
            elif (byte & 0xC0) != 0x80:
                white = _is_space(byte)
                count += not (white and space)
                space = white
            at += 1
        found[row] = count
    return found
