"""Gopher quality and repetition: the kernels against plain-Python twins, and what the filters drop and why."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.kernels import gopher, repetition
from pipeline.kernels.words import character_classes, documents
from pipeline.schema import TEXT
from pipeline.text.gopher import STOP_WORDS, GopherQuality, GopherRepetition

SHARED = Path(__file__).parents[2] / "shared" / "data"
BULLETS = set("-*•‣◦▪▫●○■□–")
HAN_OR_KANA = re.compile(
    "[\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003fffd]"
)
CAPITALS = str.maketrans({chr(c): chr(c + 32) for c in range(65, 91)})

PROSE = (
    "It was the custom of the village to have a feast when the harvest was done, and that year the people came with "
    "more than they had ever brought before. The old men sat under the lime tree and talked of the weather, while "
    "children ran between long tables and nobody thought to call them back before the lamps were lit."
)


# ---------------------------------------------------------------------------------------------------- plain twins


def words_of(text: str) -> list[tuple[str, bool]]:
    """(word, whether white space stands before it)."""
    found = []
    for match in re.finditer(r"\S+", text):
        spaced = True
        for piece in re.split(f"({HAN_OR_KANA.pattern})", match.group()):
            if piece:
                found.append((piece, spaced))
                spaced = False
    return found


def core_of(word: str) -> str:
    while word and not word[0].isalnum():
        word = word[1:]
    while word and not word[-1].isalnum():
        word = word[:-1]
    return word


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n")]


def plain_quality_counts(text: str, stop_words: tuple[str, ...]) -> list[int]:
    words = [word for word, _ in words_of(text)]
    ideographs = [word for word in words if HAN_OR_KANA.fullmatch(word)]
    spaced = [core_of(word) for word in words if not HAN_OR_KANA.fullmatch(word) and core_of(word)]
    lines = [line for line in lines_of(text) if line]
    return [
        len(words),
        len(ideographs) + len(spaced),
        len(spaced),
        sum(map(len, spaced)),
        sum(any(c.isalpha() for c in word) for word in words),
        text.count("#"),
        text.count("...") + text.count("…"),
        len(lines),
        sum(line[0] in BULLETS for line in lines),
        sum(line.endswith(("...", "…")) for line in lines),
        len({word.translate(CAPITALS) for word in spaced + ideographs} & set(stop_words)),
    ]


def repeats(things: list[tuple[object, int]]) -> tuple[int, int]:
    seen: set[object] = set()
    count = chars = 0
    for thing, length in things:
        if thing in seen:
            count, chars = count + 1, chars + length
        seen.add(thing)
    return count, chars


def plain_repetition_counts(text: str) -> list[int]:
    spaced_words = words_of(text)
    words = [word for word, _ in spaced_words]
    lines: list[tuple[object, int]] = []
    paragraphs: list[tuple[object, int]] = []
    paragraph: list[tuple[object, int]] = []
    for line in [*lines_of(text), ""]:
        if line:
            paragraph.append((tuple(word for word, _ in words_of(line)), len(line)))
        elif paragraph:
            lines += paragraph
            paragraphs.append((tuple(w for w, _ in paragraph), sum(n for _, n in paragraph) + len(paragraph) - 1))
            paragraph = []
    counts = [len(text), len(lines), *repeats(lines), len(paragraphs), *repeats(paragraphs)]
    for n in (2, 3, 4):
        grams: dict[tuple[str, ...], list[int]] = {}
        for at in range(len(words) - n + 1):
            grams.setdefault(tuple(words[at : at + n]), []).append(at)
        most = max(grams.values(), key=len, default=[])
        if len(most) < 2:
            counts.append(0)
            continue
        first = most[0]
        gaps = sum(space for _, space in spaced_words[first + 1 : first + n])
        counts.append(len(most) * (sum(map(len, words[first : first + n])) + gaps))
    for n in range(5, 11):
        seen: set[tuple[str, ...]] = set()
        at = total = 0
        while at + n <= len(words):
            gram = tuple(words[at : at + n])
            if gram in seen:
                total += sum(map(len, gram))
                at += n
            else:
                seen.add(gram)
                at += 1
        counts.append(total)
    return counts


# ---------------------------------------------------------------------------------------------------- kernels


def quality(column: pa.Array, stop_words: tuple[str, ...] = STOP_WORDS) -> list[list[int]]:
    data, starts, stops = documents(pa.array(stop_words, pa.large_string()))
    offsets = np.append(starts, stops[-1:])
    return gopher.quality_counts(*documents(column), character_classes(), data, offsets).tolist()


def repetition_of(column: pa.Array, max_bytes: int | None = None) -> list[list[int]]:
    return repetition.repetition_counts(*documents(column, max_bytes), character_classes()).tolist()


def assert_kernels_agree_with_twins(texts: list[str | None]) -> None:
    padded = pa.array(["not part of it\n" * 3, *texts, "nor this"], pa.large_string())
    for column in (pa.array(texts, pa.large_string()), padded.slice(1, len(texts))):
        for text, counts in zip(texts, quality(column), strict=True):
            assert counts == plain_quality_counts(text or "", STOP_WORDS), repr(text)
        for text, counts in zip(texts, repetition_of(column), strict=True):
            assert counts == plain_repetition_counts(text or ""), repr(text)


ODD = list(
    "ab the of.…#-*•'_1٣½²\u00aa\n\n\n \t\r\x0b\x0c\x1c\x85\u00a0\u2028\u3000\u200b\ufeff你好，々〇カﾅ한กI\u0130ßǅ"
    "\u0301\u093f😀\U0001f1e9\U00020000\U0010ffff\u0000\ufffd"
)
WORDS = [
    *STOP_WORDS,
    "The",
    "THAT,",
    "...",
    "....",
    "……",
    "##",
    "--",
    "你",
    "好好",
    "x",
    "don't",
    "\n",
    "\n\n",
    " \n- ",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(st.sampled_from(ODD), max_size=60), st.text(max_size=30)), max_size=6))
def test_counters_equal_plain_python_on_odd_characters(texts: list[str | None]) -> None:
    assert_kernels_agree_with_twins(texts)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=80).map(" ".join), min_size=1, max_size=4))
def test_counters_equal_plain_python_on_repetitive_words(texts: list[str]) -> None:
    assert_kernels_agree_with_twins(texts)


def test_counters_equal_plain_python_on_random_texts_of_few_words() -> None:
    rng = random.Random(5)
    texts = []
    for vocabulary in (1, 2, 3, 5, 20, 300):
        for length in (0, 1, 2, 11, 50, 400):
            words = [rng.choice(["", "w", "das ", "你"]) + str(rng.randrange(vocabulary)) for _ in range(length)]
            texts.append("".join(word + rng.choice([" ", " ", " ", "\n", "\n\n", ""]) for word in words))
    assert_kernels_agree_with_twins(texts)


def test_counters_equal_plain_python_on_sources_of_the_standard_library() -> None:
    folder = Path(json.__file__).parent.parent
    texts = [(folder / name).read_text("utf-8")[:60_000] for name in ("pydoc.py", "argparse.py", "this.py", "LICENSE.txt")
             if (folder / name).exists()]  # fmt: skip
    assert len(texts) >= 3
    assert_kernels_agree_with_twins(texts)


def test_counters_equal_plain_python_on_real_text_in_many_languages() -> None:
    if not SHARED.exists():
        pytest.skip("shared/data is not beside the repository")
    rows = [json.loads(line) for line in (SHARED / "lang" / "udhr.jsonl").read_text("utf-8").splitlines()]
    texts = [row["text"] for row in rows]
    texts += [path.read_text("utf-8")[:40_000] for path in sorted((SHARED / "books").glob("*/*.txt"))[::3]]
    assert_kernels_agree_with_twins(texts)


def test_broken_utf8_is_counted_without_looking_beyond_the_document() -> None:
    rng = np.random.default_rng(3)
    classes = character_classes()
    none = np.zeros(1, np.int64)
    for _ in range(200):
        body = rng.choice(np.array([0x20, 0x41, 0x0A, 0x80, 0xBF, 0xC3, 0xE4, 0xF0, 0xF4, 0xFF], np.uint8), 40)
        starts, stops = np.array([1, 20]), np.array([20, 41])
        answers = set()
        for around in (0x20, 0x80, 0xBF, 0x41):
            data = np.concatenate([[around], body, [around] * 3]).astype(np.uint8)
            left = gopher.quality_counts(data, starts[:1], stops[:1], classes, data[:0], none)
            right = repetition.repetition_counts(data, starts[1:], stops[1:], classes)
            answers.add((left.tobytes(), right.tobytes()))
        assert len(answers) == 1


def test_a_long_document_is_judged_by_its_beginning_cut_between_characters() -> None:
    text = "a é 你 😀 " * 30
    column = pa.array([text, "short"], pa.large_string())
    for most in range(1, 40):
        cut = text.encode()[:most].decode("utf-8", "ignore")
        assert repetition_of(column, most)[0] == plain_repetition_counts(cut)
        assert repetition_of(column, most)[1] == plain_repetition_counts("short"[:most])


def test_two_million_one_letter_words_and_one_word_of_two_megabytes_are_counted() -> None:
    column = pa.array(["a " * 1_000_000, "b" * 2_000_000], pa.large_string())
    many, one = repetition_of(column)
    assert many[repetition.CHARS] == 2_000_000
    assert many[repetition.TOP_GRAM_CHARS] == 999_999 * 3
    assert many[repetition.DUPLICATE_GRAM_CHARS] == 999_995  # the first five words repeat nothing, and the last 0 to 4
    assert one[repetition.CHARS :] == [2_000_000, 1, 0, 0, 1] + [0] * 11


# ---------------------------------------------------------------------------------------------------- filters


def batch(*texts: str | None) -> pa.RecordBatch:
    return pa.record_batch([pa.array(texts, pa.large_string())], pa.schema([TEXT]))


def reason(stage: GopherQuality | GopherRepetition, text: str | None) -> str | None:
    reasons = stage.reasons(batch(text))
    assert reasons.type == pa.string()
    return reasons[0].as_py()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE, None),
        (None, "too_few_words"),
        ("", "too_few_words"),
        ("the end of that", "too_few_words"),
        ("-- " * 30 + PROSE[:200], "too_few_words"),
        ("word " * 100_001, "too_many_words"),
        ("of to be a " * 20, "mean_word_length_too_short"),
        ("the extraordinarily incomprehensible internationalization " * 15, "mean_word_length_too_long"),
        (PROSE + " #" * 9, "too_many_hashes"),
        (PROSE.replace(". ", " ... ").replace(",", "...") + " ..." * 5, "too_many_ellipses"),
        ("\n".join("- " + line for line in [PROSE[:60]] * 10), "too_many_bullet_lines"),
        ("\n".join([PROSE + "..."] * 4 + [PROSE] * 6), "too_many_ellipsis_lines"),
        (PROSE + " 1234" * 20, "too_few_alphabetic_words"),
        ("Jeder Mensch hat das Recht auf Leben, Freiheit und Sicherheit der Person. " * 6, "too_few_stop_words"),
    ],
)
def test_gopher_quality_names_the_first_defect(text: str | None, expected: str | None) -> None:
    assert reason(GopherQuality(), text) == expected


def test_each_quality_rule_can_be_switched_off_and_zero_is_a_threshold() -> None:
    off = dict.fromkeys(name for name in GopherQuality.model_fields if name != "stop_words")
    everything_off = GopherQuality(**off)
    for text in (None, "", "#", "...", "-", "1 2 3", PROSE):
        assert reason(everything_off, text) is None
    assert reason(GopherQuality(**{**off, "max_hashes_per_word": 0}), PROSE + " C#") == "too_many_hashes"
    assert reason(GopherQuality(**{**off, "max_hashes_per_word": 0}), PROSE) is None
    assert reason(GopherQuality(**{**off, "max_words": 0}), "one") == "too_many_words"
    assert reason(GopherQuality(**{**off, "min_words": 0}), "") is None


def test_chinese_text_has_words_and_its_own_stop_words() -> None:
    text = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。" * 2
    assert reason(GopherQuality(), text) == "too_few_stop_words"
    assert reason(GopherQuality(stop_words=("的", "和", "在")), text) is None


def test_stop_words_match_whatever_their_case_and_punctuation() -> None:
    settings_off = dict.fromkeys(name for name in GopherQuality.model_fields if name != "stop_words")
    stage = GopherQuality(**{**settings_off, "min_stop_words": 2})
    assert reason(stage, '"The end," he said; (OF sorts)') is None
    assert reason(stage, "the The THE other often") == "too_few_stop_words"


@pytest.mark.parametrize("word", ["The", "of course", "", "end.", "我们"])
def test_a_stop_word_that_could_never_match_is_refused(word: str) -> None:
    with pytest.raises(ValidationError, match="would match nothing"):
        GopherQuality(stop_words=("a", "b", word))


def test_more_stop_words_wanted_than_listed_is_refused() -> None:
    with pytest.raises(ValidationError, match="stop_words has only 1"):
        GopherQuality(stop_words=("le",))


def numbered(count: int) -> list[str]:
    rng = random.Random(9)
    return [" ".join("".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(8)) for _ in range(count)]


LINES = numbered(20)
ONCE = " ".join(numbered(12))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("one two", None),
        (PROSE, None),
        ("\n".join(LINES[:10] + LINES[:5]), "duplicate_lines"),
        ("\n".join(LINES[:10] + ["ok"] * 2 + LINES[:3]), "duplicate_line_characters"),
        ("a b\n\n" + "a b\n\n" * 3 + "\n".join(LINES), "duplicate_paragraphs"),
        (
            "\n\n".join(["\n".join(LINES[:4])] * 2 + LINES[4:12]),
            "duplicate_line_characters",
        ),
        (" ".join(f"{word} bound together" for word in ONCE.split()), "top_2_gram_characters"),
        (" ".join(f"{word} in a particularly" for word in ONCE.split()), "top_3_gram_characters"),
        (ONCE + (" " + " ".join(ONCE.split()[:10])) * 3, "duplicate_5_gram_characters"),
    ],
)
def test_gopher_repetition_names_the_first_defect(text: str | None, expected: str | None) -> None:
    assert reason(GopherRepetition(), text) == expected


def test_every_repetition_rule_has_its_own_reason_and_null_switches_it_off() -> None:
    thresholds = [name for name in GopherRepetition.model_fields if name != "max_bytes"]
    text = "\n\n".join([" ".join(LINES[:2])] * 9)
    left = dict.fromkeys(thresholds, 0.0)
    expected = [name.removeprefix("max_").removesuffix("_share") for name in thresholds]
    names = [name + "s" if name.endswith(("line", "paragraph", "character")) else name for name in expected]
    for name, word in zip(thresholds, names, strict=True):
        assert reason(GopherRepetition(**left), text) == word
        left[name] = None
    assert reason(GopherRepetition(**left), text) is None


def test_the_answer_does_not_depend_on_how_documents_are_batched() -> None:
    texts = [PROSE, None, "word " * 90, "\n".join(LINES[:3] * 4), "", PROSE[:100], "的" * 80]
    for stage in (GopherQuality(), GopherRepetition()):
        together = stage.reasons(batch(*texts)).to_pylist()
        assert together == [reason(stage, text) for text in texts]
        assert stage.reasons(batch(*texts).slice(2, 3)).to_pylist() == together[2:5]
        assert stage.reasons(batch()).to_pylist() == []


def test_garbage_under_a_null_does_not_count() -> None:
    data = pa.py_buffer(b"the of " * 100)
    offsets = pa.py_buffer(np.array([0, 700], np.int64))
    null = pa.Array.from_buffers(pa.large_string(), 1, [pa.py_buffer(b"\x00"), offsets, data])
    docs = pa.record_batch([null], pa.schema([TEXT]))
    assert GopherQuality().reasons(docs).to_pylist() == ["too_few_words"]
    assert GopherRepetition().reasons(docs).to_pylist() == [None]
