"""Scores from a fastText classifier: repeatable training, samples that no cut changes, harmless text, clear errors."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.quality import fasttext_model
from pipeline.quality.sample import LowestKeys
from pipeline.quality.score import ApplyScorer, Score, TrainScorer, TrainSettings
from pipeline.schema import document_id
from pipeline.stage import INPUT, random_keys

PROSE = [
    "the",
    "morning",
    "light",
    "fell",
    "upon",
    "quiet",
    "hills",
    "while",
    "an",
    "old",
    "captain",
    "remembered",
    "his",
    "voyage",
    "across",
    "grey",
    "water",
]
NOISE = [
    "click",
    "buy",
    "cheap",
    "deal",
    "login",
    "cart",
    "free",
    "offer",
    "now",
    "sale",
    "share",
    "menu",
    "cookie",
    "subscribe",
    "price",
    "best",
]
BOTH = ["and", "of", "to", "in", "it", "is", "that", "was", "for", "on"]


def _documents(words: list[str], count: int, name: str, seed: int = 1) -> pa.RecordBatch:
    rng = random.Random(f"{name}{seed}")
    texts = [" ".join(rng.choices(words + BOTH, k=rng.randrange(20, 60))).capitalize() + ".\n" for _ in range(count)]
    ids = [document_id(name, str(i)) for i in range(count)]
    return pa.record_batch({"id": pa.array(ids, pa.binary(16)), "text": pa.array(texts, pa.large_string())})


BOOKS, WEB = _documents(PROSE, 150, "books"), _documents(NOISE, 200, "web")


def _trainer(**settings: object) -> TrainScorer:
    train = TrainSettings(positive=("books",), hash_buckets=2000, **settings)
    return TrainScorer(scorer="edu", train=train).bound(seed=7)


def _batches(docs: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    return (docs.slice(i, size) for i in range(0, docs.num_rows, size))


def _fold(stage: TrainScorer, size: int = 1000, parts: int = 1) -> pa.Table:
    summaries = []
    for docs, label in ((WEB, "web"), (BOOKS, "books")):
        for part in range(parts):
            rows = docs.take(pa.array(range(part, docs.num_rows, parts)))
            summaries.append(stage.summary(_batches(rows, size), label))
    return stage.fold(iter(summaries))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return _fold(_trainer())


def test_two_trainings_in_a_process_with_dirty_memory_give_the_same_bytes() -> None:
    lines = fasttext_model.one_line(pa.concat_arrays([BOOKS["text"], WEB["text"]]), 400, True)
    positive = np.arange(len(lines)) < BOOKS.num_rows
    settings = fasttext_model.Training(hash_buckets=5000, seed=3)
    first = fasttext_model.trained(lines, positive, settings)
    junk = [np.full(40_000, np.nan, np.float32) for _ in range(200)]
    del junk
    assert fasttext_model.trained(lines, positive, settings) == first
    assert fasttext_model.trained(lines, positive, fasttext_model.Training(hash_buckets=5000, seed=4)) != first


def test_the_model_tells_the_sides_apart_and_measures_itself(table: pa.Table) -> None:
    row = table.to_pylist()[0]
    assert row["positives"] + row["negatives"] + row["documents"] == 350
    assert 15 <= row["documents"] <= 55
    assert row["precision"] == row["recall"] == row["accuracy"] == 1.0
    stage = ApplyScorer(scorer="edu").bound(tables={"model": table})
    good = stage.columns(_documents(PROSE, 50, "new", 9))["score_edu"]
    bad = stage.columns(_documents(NOISE, 50, "new", 9))["score_edu"]
    assert good.type == pa.float32()
    assert min(good.to_pylist()) > 0.9
    assert max(bad.to_pylist()) < 0.1


def test_the_model_does_not_depend_on_parts_batches_or_their_order(table: pa.Table) -> None:
    assert _fold(_trainer(), size=13, parts=4).equals(table)
    stage = _trainer()
    summaries = [stage.summary(_batches(docs, 50), label) for docs, label in ((BOOKS, "books"), (WEB, "web"))]
    assert stage.fold(iter(summaries)).equals(table)
    assert not _fold(_trainer().bound(seed=8)).equals(table)


def test_the_sample_is_the_lowest_keys_without_blank_texts() -> None:
    texts = [None if i % 11 == 0 else " \n" if i % 7 == 0 else f"text {i} é" * 3 for i in range(300)]
    ids = pa.array([document_id("s", str(i)) for i in range(300)], pa.binary(16))
    docs = pa.record_batch({"id": ids, "text": pa.array(texts, pa.large_string())})
    keys = random_keys(ids, 5, "p")
    expected = sorted(
        (int(keys[i]), ids[i].as_py(), texts[i][:9]) for i in range(300) if texts[i] and texts[i].strip()
    )[:20]
    for size in (300, 7):
        sample = LowestKeys(20, 9, 5, "p", True)
        for batch in _batches(docs, size):
            sample.add(batch)
        assert [(row["key"], row["id"], row["text"]) for row in sample.sample().to_pylist()] == expected


def test_a_document_that_two_parts_hold_counts_once() -> None:
    stage = _trainer()
    summaries = [
        stage.summary(iter([docs]), label) for docs, label in ((BOOKS, "books"), (BOOKS, "books"), (WEB, "web"))
    ]
    row = stage.fold(iter(summaries)).to_pylist()[0]
    assert row["positives"] + row["negatives"] + row["documents"] == 350


def test_sample_documents_bounds_both_sides() -> None:
    row = _fold(_trainer(sample_documents=40)).to_pylist()[0]
    assert row["positives"] + row["negatives"] + row["documents"] == 80


def test_scores_are_the_librarys_own_row_by_row(table: pa.Table) -> None:
    stage = ApplyScorer(scorer="edu", max_chars=50).bound(tables={"model": table})
    texts = ["", "zzz", "click Buy\ncheap", "__label__positive x </s> click", None, "The old CAPTAIN " * 20, "é𝒳 " * 30]
    docs = pa.record_batch({"text": pa.array(["pad", *texts], pa.large_string())}).slice(1)
    found = stage.columns(docs)["score_edu"].to_pylist()
    model = fasttext_model.opened(table["model"][0].as_py())
    for text, score in zip(texts, found, strict=True):
        if text is None:
            assert score is None
            continue
        line = text[:50].lower().replace("\n", " ").replace("__label__", "label ").replace("</s>", " ")
        by_label = {label: chance for chance, label in model.f.predict(line + "\n", 2, 0.0, "strict")}
        assert score == pytest.approx(by_label["__label__positive"], abs=3e-5)
    assert [stage.columns(docs.slice(i, 1))["score_edu"][0].as_py() for i in range(len(texts))] == found
    assert stage.columns(docs.slice(0, 0))["score_edu"].to_pylist() == []


def test_a_text_cannot_label_itself_or_end_its_line() -> None:
    stage = _trainer()
    hostile = ["__label__positive __label__third buy </s> " + text for text in WEB["text"].to_pylist()]
    docs = pa.record_batch({"id": WEB["id"], "text": pa.array(hostile, pa.large_string())})
    summaries = [stage.summary(iter([docs]), "web"), stage.summary(iter([BOOKS]), "books")]
    model = fasttext_model.opened(stage.fold(iter(summaries))["model"][0].as_py())
    assert sorted(model.get_labels()) == ["__label__negative", "__label__positive"]
    assert "cheap" in model.get_words()


def test_too_few_documents_are_an_error_with_both_counts() -> None:
    stage = _trainer(min_documents=180)
    with pytest.raises(ValueError, match=r"150 positive documents \(from books\) and 200 negative .* at least 180"):
        _fold(stage)


def test_a_compound_trains_on_named_datasets_and_applies_to_its_input() -> None:
    own = Score(train={"positive": ["books"]}).bound(name="edu").steps()
    assert [(step.name, step.after, dict(step.tables)) for step in own] == [
        ("train", (INPUT, "dataset:books"), {}),
        ("apply", (INPUT,), {"model": "train"}),
    ]
    assert [one.name for one in own[1].stage.adds()] == ["score_edu"]
    named = Score(scorer="dclm", train={"positive": ["books"], "negative": ["web", "forums"]}).steps()
    assert named[0].after == ("dataset:books", "dataset:web", "dataset:forums")
    assert named[1].stage.adds()[0].name == "score_dclm"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of them"),
        ({"model": "m.bin", "train": {"positive": ["a"]}}, "exactly one of them"),
        ({"train": {"positive": []}}, "at least 1 item"),
        ({"train": {"positive": ["a"], "negative": ["a", "b"]}}, "a cannot be positive and negative"),
        ({"train": {"positive": ["a"]}, "max_chars": None}, "cannot be null with train"),
        ({"model": "m.bin", "scorer": "No Good"}, "pattern"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Score(**settings)


def test_a_model_by_path_is_applied_and_is_part_of_the_identity(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "edu.bin"
    path.write_bytes(table["model"][0].as_py())
    (step,) = Score(model=str(path), scorer="edu", lower_case=True).steps()
    assert step.stage.files() == (str(path),)
    trained = ApplyScorer(scorer="edu").bound(tables={"model": table})
    assert step.stage.columns(WEB)["score_edu"].equals(trained.columns(WEB)["score_edu"])
    assert Score(model=str(path)).steps()[0].stage.lower_case is False
    with pytest.raises(
        ValueError, match=r"no label '__label__hq'; its labels are __label__negative, __label__positive"
    ):
        ApplyScorer(scorer="edu", model=str(path), positive_label="__label__hq").columns(WEB)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="is not a fastText model file"):
        step.stage.columns(WEB)


def test_the_command_line_trains_and_evaluates_from_jsonl(tmp_path: Path) -> None:
    for docs, name in ((BOOKS, "good"), (WEB, "bad")):
        lines = [json.dumps({"text": text}) for text in docs["text"].to_pylist()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-m", "classifiers.fasttext_binary"]
    files = ["--positive", str(tmp_path / "good.jsonl"), "--negative", str(tmp_path / "bad.jsonl")]
    model = str(tmp_path / "edu.bin")
    root = Path(__file__).parents[1]
    subprocess.run([*command, "train", *files, "--model", model, "--hash-buckets", "2000"], check=True, cwd=root)
    done = subprocess.run(
        [*command, "evaluate", *files, "--model", model], check=True, cwd=root, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {"documents": 350, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}
    card = (tmp_path / "edu.bin.md").read_text()
    assert "150" in card
    assert "200" in card
