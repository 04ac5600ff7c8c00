"""Language identification: the kernel against py3langid itself, and what the filter keeps."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import ValidationError

from pipeline.schema import LANGUAGE, LANGUAGE_CONFIDENCE, TEXT
from pipeline.text.language import (
    LANGUAGES,
    DetectLanguage,
    KeepLanguages,
    Language,
    as_trained,
    py3langid_model,
)

SHARED = Path(__file__).parents[2] / "shared" / "data"

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights, and they have reason and conscience.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren, mit Vernunft und Gewissen begabt.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits, doués de raison et de conscience.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах, они наделены разумом и совестью.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
}


@cache
def reference() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def batch(texts: list[str | None]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(texts, TEXT.type)], pa.schema([TEXT]))


def detected(texts: list[str | None], max_bytes: int = 4000) -> list[tuple[str | None, float | None]]:
    columns = DetectLanguage(max_bytes=max_bytes).columns(batch(texts))
    assert [columns[f.name].type for f in (LANGUAGE, LANGUAGE_CONFIDENCE)] == [LANGUAGE.type, LANGUAGE_CONFIDENCE.type]
    return list(zip(columns["language"].to_pylist(), columns["language_confidence"].to_pylist(), strict=True))


def assert_same_as_py3langid(texts: list[str], max_bytes: int = 4000) -> None:
    for text, (language, confidence) in zip(texts, detected(texts, max_bytes), strict=True):
        read = text.encode()[:max_bytes].decode("utf-8", "ignore")
        expected, probability = reference().classify(read)
        if language is None:
            assert confidence is None
            assert probability < 0.02, text  # py3langid met no feature: every class is as probable as any other
            continue
        assert confidence == pytest.approx(probability, abs=1e-3), text
        if language != expected:
            rank = dict(reference().rank(read))
            assert rank[expected] - rank[language] < 1e-5, text  # a tie, but for the order of additions


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_in_each_language_is_recognised(code: str) -> None:
    [(language, confidence)] = detected([SENTENCES[code]])
    assert language == code
    assert confidence is not None
    assert confidence > 0.9


def test_answers_equal_py3langid_in_every_spelling_of_real_sentences() -> None:
    for sentence in SENTENCES.values():
        spellings = [sentence, sentence.upper(), unicodedata.normalize("NFD", sentence), sentence.title()]
        spellings += [unicodedata.normalize("NFD", sentence.upper()), sentence[:30], "1. " + sentence * 3]
        assert_same_as_py3langid(spellings)
        for most in (1, 2, 3, 10, 31, 32, 33, 34, 100):
            assert_same_as_py3langid(spellings, most)


def test_answers_equal_py3langid_on_sources_of_the_standard_library() -> None:
    folder = Path(json.__file__).parent
    texts = [path.read_text("utf-8") for path in sorted(folder.glob("*.py"))]
    texts += [(folder.parent / name).read_text("utf-8")[:9000] for name in ("pydoc.py", "this.py", "argparse.py")]
    assert_same_as_py3langid(texts)


def test_answers_equal_py3langid_on_real_text_in_26_languages() -> None:
    path = SHARED / "lang" / "udhr.jsonl"
    if not path.exists():
        pytest.skip("shared/data is not beside the repository")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    texts = [row["text"] for row in rows]
    assert_same_as_py3langid(texts)
    assert_same_as_py3langid([text[900:1000] for text in texts])
    right = [language == row["bcp47"].split("-")[0] for row, (language, _) in zip(rows, detected(texts), strict=True)]
    assert sum(right) == len(rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=5))
def test_answers_equal_py3langid_on_any_characters(texts: list[str]) -> None:
    assert_same_as_py3langid(texts)


def test_text_that_tells_nothing_has_no_language_and_no_confidence() -> None:
    assert detected([None, "", "7"]) == [(None, None)] * 3


def test_the_answer_does_not_depend_on_the_batch_or_on_neighbours() -> None:
    texts = [SENTENCES["en"], None, SENTENCES["ru"].upper(), "", unicodedata.normalize("NFD", SENTENCES["el"]) * 40]
    together = detected(texts)
    assert together == [detected([text])[0] for text in texts]
    columns = DetectLanguage().columns(batch(["not this", *texts, "nor this"]).slice(1, len(texts)))
    assert columns["language"].to_pylist() == [language for language, _ in together]
    assert detected([]) == []


def test_only_the_first_bytes_are_read_and_cut_between_characters() -> None:
    text = SENTENCES["ru"] * 5 + SENTENCES["en"] * 500
    assert detected([text], 600)[0][0] == "ru"
    assert detected([text], 40_000)[0][0] == "en"
    rng = random.Random(1)
    for most in rng.sample(range(1, 300), 30):
        cut = as_trained(pa.array([f"a{text}", "short", None], TEXT.type), most).to_pylist()
        assert cut == [f"a{text}".encode()[:most].decode("utf-8", "ignore"), "short"[:most], ""]


def test_reading_as_trained_composes_characters_and_lowers_capitals_as_python_does() -> None:
    marks = "e\u0301\u0323 \u1100\u1161\u11a8 \u212b \u0915\u093c \uf900 \u30ab\u3099"
    texts = [marks, marks.upper(), "ΟΔΟΣ ΜΕΓΑΛΗΣ", "İSTANBUL", "ǅ", "ABC 你好", "ABc", "123", "\U0001d15e"]
    expected = [unicodedata.normalize("NFC", text.lower() if text.isupper() else text) for text in texts]
    assert as_trained(pa.array(texts, TEXT.type), 4000).to_pylist() == expected
    # Code points that Python's Unicode version does not know may compose in Arrow's, which is newer.
    everything = [chr(point) for point in range(sys.maxunicode + 1)]
    everything = [one for one in everything if unicodedata.category(one) not in ("Cn", "Cs")]
    rows = ["a" + "".join(everything[at : at + 200]) for at in range(0, len(everything), 200)]
    assert as_trained(pa.array(rows, TEXT.type), 4000).to_pylist() == [
        unicodedata.normalize("NFC", row) for row in rows
    ]


def filtered(stage: KeepLanguages, languages: list[str | None], confidence: list[float | None]) -> list[str | None]:
    fields = [LANGUAGE, LANGUAGE_CONFIDENCE]
    columns = [pa.array(languages, LANGUAGE.type), pa.array(confidence, LANGUAGE_CONFIDENCE.type)]
    reasons = stage.reasons(pa.record_batch(columns, pa.schema(fields)))
    assert reasons.type == pa.string()
    return reasons.to_pylist()


def test_the_filter_names_why_a_document_goes() -> None:
    languages, confidence = ["en", "de", "en", None], [0.9, 0.9, 0.3, None]
    other, unsure, unknown = "other_language", "low_language_confidence", "unknown_language"
    assert filtered(KeepLanguages(keep=("en", "zh")), languages, confidence) == [None, other, unsure, unknown]
    assert filtered(KeepLanguages(), languages, confidence) == [None, None, unsure, unknown]
    assert filtered(KeepLanguages(keep=("de",), min_confidence=None), languages, confidence) == [
        other, None, other, unknown,
    ]  # fmt: skip
    assert filtered(KeepLanguages(min_confidence=None), languages, confidence) == [None] * 4
    assert filtered(KeepLanguages(min_confidence=0), languages, confidence) == [None, None, None, unknown]
    at_threshold = float(np.float32(0.65))
    assert filtered(KeepLanguages(), ["en", "en"], [0.7, at_threshold - 0.01]) == [None, unsure]
    assert filtered(KeepLanguages(), [], []) == []


def test_the_compound_detects_and_then_keeps() -> None:
    stage = Language(keep=("en", "zh"), min_confidence=0.5, max_bytes=100)
    detect, keep = (step.stage for step in stage.steps())
    docs = batch([*SENTENCES.values()])
    columns = detect.columns(docs)
    for name, column in columns.items():
        docs = docs.append_column(name, column)
    reasons = keep.reasons(docs).to_pylist()
    assert [code for code, reason in zip(SENTENCES, reasons, strict=True) if reason is None] == ["en", "zh"]
    assert set(reasons) == {None, "other_language"}


def test_languages_listed_in_errors_are_those_of_the_model() -> None:
    assert py3langid_model().labels == LANGUAGES
    for stage in (Language, KeepLanguages):
        with pytest.raises(ValidationError, match=r"no such language 'english'; the model knows .*\ben\b"):
            stage(keep=("de", "english"))
        with pytest.raises(ValidationError, match="would drop every document"):
            stage(keep=())
