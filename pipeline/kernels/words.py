"""What counts as a character of a word, a space, a Chinese character: one table for all kernels that walk UTF-8.

A word, here, is one Han or kana character, or a maximal run of other characters that are not white space: `don't`
and `(see` are words, `--` is a word made of symbols, `你好，` is three. Lines are cut at line feeds. Splitting at white
space is what the Gopher rules mean by words and costs a few ns a character; Thai, Lao, Khmer and Burmese, which write no
spaces either, come out as few long words.

The table has a byte for each of the 1,114,112 code points and takes 0.1 s to make, once per process. It
follows the Unicode version of the Python that runs it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SPACE = 1
"""White space, as `str.isspace`."""
ALPHABETIC = 2
"""A letter, as `str.isalpha`."""
ALPHANUMERIC = 4
"""A letter or a number, as `str.isalnum`."""
IDEOGRAPH = 8
"""Han or kana: a word by itself."""
UPPER = 16
"""Upper case, as `str.isupper`."""
LOWER = 32
"""Lower or title case: what keeps a text from being all upper case."""
BULLET = 64
"""One of BULLETS."""

BULLETS = "-*•‣◦▪▫●○■□–"
"""The marks that HTML extractors and word processors put before the items of a list."""

CODE_POINTS = 0x110000

# Blocks of the scripts Han, Hiragana and Katakana (Unicode Scripts.txt), without their punctuation. Hangul has spaces.
IDEOGRAPH_RANGES = (
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3031, 0x3035),
    (0x3038, 0x303C),
    (0x3041, 0x3096),
    (0x309D, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFD),
)


@cache
def character_classes() -> npt.NDArray[np.uint8]:
    """uint8[0x110000]: the classes of every code point, as bits. Read-only; made once per process."""
    every = np.arange(CODE_POINTS, dtype=np.uint32).view("U1")
    upper = np.strings.isupper(every)
    lower = np.strings.islower(every) | (np.strings.istitle(every) & ~upper)
    classes = np.zeros(CODE_POINTS, np.uint8)
    for bit, has in (
        (SPACE, np.strings.isspace(every)),
        (ALPHABETIC, np.strings.isalpha(every)),
        (ALPHANUMERIC, np.strings.isalnum(every)),
        (UPPER, upper),
        (LOWER, lower),
    ):
        classes[has] |= bit
    for first, last in IDEOGRAPH_RANGES:
        classes[first : last + 1] |= IDEOGRAPH
    classes[[ord(bullet) for bullet in BULLETS]] |= BULLET
    classes.setflags(write=False)
    return classes


def documents(
    text: pa.Array, max_bytes: int | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(data, starts, stops) of a string or binary column: where each document's bytes begin and end in its buffer.

    Nothing is copied when offsets are 64 bits wide. Null is an empty document. With `max_bytes` a longer document
    stops there, at the last whole character.
    """
    if pa.types.is_string(text.type):
        text = text.cast(pa.large_string())
    _, offset_buffer, data_buffer = text.buffers()
    if len(text) == 0 or offset_buffer is None:
        return np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64)
    data = np.empty(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    offsets = np.frombuffer(offset_buffer, np.int64)[text.offset : text.offset + len(text) + 1]
    starts = offsets[:-1]
    stops = offsets[1:]
    if text.null_count:
        stops = np.where(text.is_valid().to_numpy(zero_copy_only=False), stops, starts)
    if max_bytes is not None:
        stops = cut_at_characters(data, starts, stops, max_bytes)
    return data, starts, stops


def cut_at_characters(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], max_bytes: int
) -> npt.NDArray[np.int64]:
    """`stops`, at most `max_bytes` behind `starts` and never inside a UTF-8 character."""
    limits = starts + max_bytes
    longer = np.flatnonzero(stops > limits)
    if len(longer) == 0:
        return stops
    cut = limits[longer]
    for _ in range(3):  # a character has at most three continuation bytes
        inside = (data[cut] & 0xC0) == 0x80
        cut = np.where(inside & (cut > starts[longer]), cut - 1, cut)
    stops = stops.copy()
    stops[longer] = cut
    return stops
