"""The rules of the Gopher paper: is it prose, and does it repeat itself.

Source of every number: Rae et al., "Scaling Language Models", arXiv:2112.11446, table A1 and section A.1.1; the values for
which the paper leaves room are those of datatrove's filters, which made FineWeb. Words are ours (kernels/words.py: split
at white space, Han and kana one by one), so a document near a threshold may fall on the other side than with a
tokenizer's words. The trade-off buys speed: both filters together read 27 (Chinese) to 47 MB of text
per second and core (benchmarks/text_filters.py).

The rules were written for English. For other languages give `stop_words`, or switch a rule off with null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.kernels import gopher as quality
from pipeline.kernels import repetition
from pipeline.kernels.words import character_classes, documents
from pipeline.schema import TEXT
from pipeline.stage import Filter

Failing = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(ge=0)]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # arXiv:2112.11446, section A.1.1


class GopherQuality(Filter):
    """Drops what is not prose: too short or long, odd words, symbols, bullet lists, cut-off lines, no stop words.

    The first rule that fails, in the order of the settings, gives the reason. Null switches a rule off. A rule about a
    share of words or lines passes a document that has none. Mean word length is judged where at least half of
    the words stand between spaces: a Han character is a word of one.
    Memory: 88 bytes per document beside the batch. Source: arXiv:2112.11446 section A.1.1.
    """

    kind: ClassVar[str] = "gopher_quality"

    min_words: Count | None = 50
    """Words that hold a letter or digit."""
    max_words: Count | None = 100_000
    min_mean_word_chars: Positive | None = 3
    max_mean_word_chars: Positive | None = 10
    max_hashes_per_word: Positive | None = 0.1
    max_ellipses_per_word: Positive | None = 0.1
    max_bullet_line_share: Share | None = 0.9
    max_ellipsis_line_share: Share | None = 0.3
    min_alphabetic_word_share: Share | None = 0.8
    min_stop_words: Count | None = 2
    """Different ones."""
    stop_words: tuple[str, ...] = STOP_WORDS
    """Lower case; capitals of A to Z in the text count as small letters, punctuation around a word does not count."""

    @model_validator(mode="after")
    def _stop_words_can_match(self) -> Self:
        for word in self.stop_words:
            counted = self._counts(pa.array([word], pa.large_string()), ())[0]
            whole = counted[quality.WORDS] == 1 and word[0].isalnum() and word[-1].isalnum()
            if not whole or any("A" <= letter <= "Z" for letter in word):
                msg = (
                    f"stop word {word!r} would match nothing: give one word in lower case without punctuation at its "
                    "ends (each Han or kana character is a word of its own)"
                )
                raise ValueError(msg)
        different = len(set(self.stop_words))
        if self.min_stop_words is not None and self.min_stop_words > different:
            msg = f"min_stop_words is {self.min_stop_words}, but stop_words has only {different}; null switches it off"
            raise ValueError(msg)
        return self

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    @staticmethod
    def _counts(text: pa.Array, stop_words: Sequence[str]) -> Counts:
        stop_data, stop_starts, stop_stops = documents(pa.array(sorted(set(stop_words)), pa.large_string()))
        offsets = np.append(stop_starts, stop_stops[-1:] if len(stop_stops) else [0]).astype(np.int64)
        counts: Counts = quality.quality_counts(*documents(text), character_classes(), stop_data, offsets)
        return counts

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        counts = self._counts(docs.column(TEXT.name), self.stop_words)
        words, lines = counts[:, quality.WORDS], counts[:, quality.LINES]
        plain, spaced = counts[:, quality.PLAIN_WORDS], counts[:, quality.SPACED_WORDS]
        mean_chars = _ratio(counts[:, quality.SPACED_WORD_CHARS], np.where(2 * spaced >= plain, spaced, 0))
        return _first_reason(
            len(counts),
            [
                ("too_few_words", _below(plain, self.min_words)),
                ("too_many_words", _above(plain, self.max_words)),
                ("mean_word_length_too_short", _below(mean_chars, self.min_mean_word_chars)),
                ("mean_word_length_too_long", _above(mean_chars, self.max_mean_word_chars)),
                ("too_many_hashes", _above(_ratio(counts[:, quality.HASHES], words), self.max_hashes_per_word)),
                ("too_many_ellipses", _above(_ratio(counts[:, quality.ELLIPSES], words), self.max_ellipses_per_word)),
                (
                    "too_many_bullet_lines",
                    _above(_ratio(counts[:, quality.BULLET_LINES], lines), self.max_bullet_line_share),
                ),
                (
                    "too_many_ellipsis_lines",
                    _above(_ratio(counts[:, quality.ELLIPSIS_LINES], lines), self.max_ellipsis_line_share),
                ),
                (
                    "too_few_alphabetic_words",
                    _below(_ratio(counts[:, quality.ALPHABETIC_WORDS], words), self.min_alphabetic_word_share),
                ),
                ("too_few_stop_words", _below(counts[:, quality.STOP_WORDS], self.min_stop_words)),
            ],
        )


class GopherRepetition(Filter):
    """Drops what says the same thing over and over: lines, paragraphs, word n-grams.

    The first rule that fails, in the order of the settings, gives the reason. Null switches a rule off. What counts as a
    repetition stands in kernels/repetition.py; shares of characters are of the whole document. An n-gram that
    occurs once is no repetition (a document of nine words would otherwise fail for any pair of them).
    Memory: about 20 bytes per byte of the longest document in prose, 55 at worst; a document beyond `max_bytes` is
    judged by what stands before. Source: arXiv:2112.11446 table A1.
    """

    kind: ClassVar[str] = "gopher_repetition"

    max_duplicate_line_share: Share | None = 0.30
    max_duplicate_paragraph_share: Share | None = 0.30
    max_duplicate_line_character_share: Share | None = 0.20
    max_duplicate_paragraph_character_share: Share | None = 0.20
    max_top_2_gram_character_share: Positive | None = 0.20
    max_top_3_gram_character_share: Positive | None = 0.18
    max_top_4_gram_character_share: Positive | None = 0.16
    max_duplicate_5_gram_character_share: Share | None = 0.15
    max_duplicate_6_gram_character_share: Share | None = 0.14
    max_duplicate_7_gram_character_share: Share | None = 0.13
    max_duplicate_8_gram_character_share: Share | None = 0.12
    max_duplicate_9_gram_character_share: Share | None = 0.11
    max_duplicate_10_gram_character_share: Share | None = 0.10
    max_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 4 << 20
    """UTF-8 bytes of a document that are looked at: 4 MiB is four long novels, 220 MB of memory at the very worst."""

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        spans = documents(docs.column(TEXT.name), self.max_bytes)
        counts: Counts = repetition.repetition_counts(*spans, character_classes())
        chars, lines = counts[:, repetition.CHARS], counts[:, repetition.LINES]
        paragraphs = counts[:, repetition.PARAGRAPHS]
        rules = [
            ("duplicate_lines", repetition.DUPLICATE_LINES, lines, self.max_duplicate_line_share),
            ("duplicate_paragraphs", repetition.DUPLICATE_PARAGRAPHS, paragraphs, self.max_duplicate_paragraph_share),
            (
                "duplicate_line_characters",
                repetition.DUPLICATE_LINE_CHARS,
                chars,
                self.max_duplicate_line_character_share,
            ),
            (
                "duplicate_paragraph_characters",
                repetition.DUPLICATE_PARAGRAPH_CHARS,
                chars,
                self.max_duplicate_paragraph_character_share,
            ),
        ]
        top = (
            self.max_top_2_gram_character_share,
            self.max_top_3_gram_character_share,
            self.max_top_4_gram_character_share,
        )
        rules += [
            (f"top_{n}_gram_characters", repetition.TOP_GRAM_CHARS + n - 2, chars, most)
            for n, most in enumerate(top, 2)
        ]
        duplicate = (
            self.max_duplicate_5_gram_character_share,
            self.max_duplicate_6_gram_character_share,
            self.max_duplicate_7_gram_character_share,
            self.max_duplicate_8_gram_character_share,
            self.max_duplicate_9_gram_character_share,
            self.max_duplicate_10_gram_character_share,
        )
        rules += [
            (f"duplicate_{n}_gram_characters", repetition.DUPLICATE_GRAM_CHARS + n - 5, chars, most)
            for n, most in enumerate(duplicate, 5)
        ]
        return _first_reason(
            len(counts), [(reason, _above(_ratio(counts[:, column], of), most)) for reason, column, of, most in rules]
        )


def _ratio(part: Counts, whole: Counts) -> npt.NDArray[np.float64]:
    """part / whole; not a number, which fails no rule, where there is no whole."""
    shares = np.full(len(part), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _above(values: npt.NDArray[np.float64] | Counts, most: float | None) -> Failing | None:
    return None if most is None else values > most


def _below(values: npt.NDArray[np.float64] | Counts, least: float | None) -> Failing | None:
    return None if least is None else values < least


def _first_reason(rows: int, rules: Sequence[tuple[str, Failing | None]]) -> pa.StringArray:
    """Per row the first reason whose rule it fails, else null."""
    first = np.full(rows, -1, np.int32)
    for number, (_, failing) in enumerate(rules):
        if failing is not None:
            first[failing & (first < 0)] = number
    names = pa.array([reason for reason, _ in rules], pa.string())
    return names.take(pa.array(first, mask=first < 0))
