"""The character classes that kernels walk by, and documents as spans of an Arrow buffer."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.kernels import words
from pipeline.kernels.words import character_classes, documents


def test_classes_are_those_of_python_strings() -> None:
    classes = character_classes()
    assert classes.shape == (0x110000,)
    assert not classes.flags.writeable
    for point in [*range(0x3500), *range(0x9FF0, 0xA000), *range(0xD7A0, 0xE002), 0x1D400, 0x1F600, 0x2FFFF, 0x10FFFF]:
        one, kind = chr(point), int(classes[point])
        assert bool(kind & words.SPACE) == one.isspace()
        assert bool(kind & words.ALPHABETIC) == one.isalpha()
        assert bool(kind & words.ALPHANUMERIC) == one.isalnum()
        assert bool(kind & words.UPPER) == one.isupper()
        assert bool(kind & words.LOWER) == (one.islower() or (one.istitle() and not one.isupper()))
        assert bool(kind & words.BULLET) == (one in words.BULLETS)


@pytest.mark.parametrize(("one", "is_word"), [("你", True), ("あ", True), ("カ", True), ("ｶ", True), ("々", True),
                                              ("한", False), ("，", False), ("・", False), ("a", False), ("ก", False)])  # fmt: skip
def test_han_and_kana_are_words_by_themselves(one: str, is_word: bool) -> None:
    assert bool(character_classes()[ord(one)] & words.IDEOGRAPH) == is_word


def spans(column: pa.Array, max_bytes: int | None = None) -> list[bytes]:
    data, starts, stops = documents(column, max_bytes)
    assert starts.dtype == stops.dtype == np.int64
    return [bytes(data[start:stop]) for start, stop in zip(starts, stops, strict=True)]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string(), pa.large_binary()])
def test_documents_are_the_bytes_of_each_row_and_null_is_empty(kind: pa.DataType) -> None:
    texts = ["a", None, "", "héllo", "你好"]
    expected = [(text or "").encode() for text in texts]
    column = pa.array(texts, kind) if kind != pa.large_binary() else pa.array(
        [None if text is None else text.encode() for text in texts], kind
    )  # fmt: skip
    assert spans(column) == expected
    assert spans(column.slice(1, 3)) == expected[1:4]
    assert spans(column.slice(0, 0)) == []
    assert spans(pa.array([None, None], kind)) == [b"", b""]


def test_long_documents_end_at_the_last_whole_character() -> None:
    texts = ["aé你😀" * 3, "short", None, ""]
    for most in range(1, 35):
        expected = [(text or "").encode()[:most].decode("utf-8", "ignore").encode() for text in texts]
        assert spans(pa.array(texts, pa.large_string()), most) == expected
    assert spans(pa.array([b"\x80" * 9], pa.large_binary()), 5) == [b"\x80" * 2]
