"""Exact dedup through the real engine: one document per text, the lowest id, with evidence for the others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.dedup.exact import ExactDedup, KeepOne, TextHash
from pipeline.schema import document_id
from tests.conftest import documents
from tests.dedup_runs import deduplicated, lowest

TEXTS = {"a": "same", "b": "other", "c": "same", "d": "same", "e": "", "f": "Same", "g": ""}


def test_exact_duplicate_keeps_lowest_id_whatever_the_arrival_order(tmp_path: Path) -> None:
    rows = list(TEXTS.items())
    orders = [[rows], [rows[::-1]], [rows[3:], rows[:3]], [[row] for row in rows[::-1]]]
    for number, parts in enumerate(orders):
        kept, drops = deduplicated(ExactDedup(partitions=3), parts, tmp_path / str(number))
        keeper, empty = lowest("a", "c", "d"), lowest("e", "g")
        assert {row["origin"] for row in kept} == {"b", "f", keeper, empty}
        assert set(drops) == set(TEXTS) - {"b", "f", keeper, empty}
        for name, drop in drops.items():
            assert drop["reason"] == "same_text"
            assert drop["method"] == "exact"
            assert drop["similarity"] == 1.0
            assert drop["keeper_id"] == drop["cluster_id"] == document_id(keeper if TEXTS[name] else empty)
            assert drop["cluster_size"] == (3 if TEXTS[name] else 2)


def test_kept_rows_carry_nothing_of_the_work(tmp_path: Path) -> None:
    kept, _ = deduplicated(ExactDedup(), [list(TEXTS.items())], tmp_path)
    assert set(kept[0]) == {"id", "origin", "text"}


def test_a_text_that_is_a_third_of_the_corpus_keeps_one(tmp_path: Path) -> None:
    rows = [(f"d{n}", "the same page" if n % 3 == 0 else f"page {n}") for n in range(3000)]
    kept, drops = deduplicated(ExactDedup(partitions=4), [rows[:1700], rows[1700:]], tmp_path)
    assert len(kept) == 2001
    assert len(drops) == 999
    assert {drop["cluster_size"] for drop in drops.values()} == {1000}


def test_white_space_counts_only_where_it_is_asked_to(tmp_path: Path) -> None:
    rows = [("a", "one two"), ("b", "  one\n\ttwo\u00a0"), ("c", "onetwo")]
    assert len(deduplicated(ExactDedup(), [rows], tmp_path / "none")[0]) == 3
    kept, drops = deduplicated(ExactDedup(normalise="whitespace"), [rows], tmp_path / "whitespace")
    assert {row["text"] for row in kept} == {dict(rows)[lowest("a", "b")], "onetwo"}  # the text itself is untouched
    assert [drop["reason"] for drop in drops.values()] == ["same_text"]


@given(st.lists(st.none() | st.text(st.sampled_from("ab \n\t\x0b\x1c\x85\u00a0\u2003\u2028\u3000"))))
def test_white_space_is_what_python_splits_at(texts: list[str | None]) -> None:
    squeezed = [None if text is None else " ".join(text.split()) for text in texts]
    found = TextHash(normalise="whitespace").columns(documents(texts))["text_hash"]
    assert found.equals(TextHash().columns(documents(squeezed))["text_hash"])


def test_a_row_without_a_keeper_stays() -> None:
    docs = documents(["x"], keeper_id=pa.nulls(1, pa.binary(16)))
    assert KeepOne(reason="same_text").reasons(docs).to_pylist() == [None]


def test_settings_name_the_legal_values() -> None:
    with pytest.raises(ValidationError, match="'none' or 'whitespace'"):
        ExactDedup(normalise="spaces")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ExactDedup(partitions=0)
