"""Long documents: chosen by approximate tokens or by characters."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.longctx.select import SelectLong

SHORT, LONG = "too_short_for_long_context", "too_long_for_long_context"


def _batch(texts: list[str | None], languages: list[str | None]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, pa.large_string()), "language": pa.array(languages, pa.string())})


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({"min_tokens": 10}, [SHORT, None, None, None, SHORT]),
        ({"min_tokens": 10, "language_chars_per_token": {}}, [SHORT, None, SHORT, SHORT, SHORT]),
        ({"min_tokens": 10, "chars_per_token": 3.9}, [None, None, None, None, SHORT]),
        ({"min_tokens": 5, "max_tokens": 10}, [None, None, LONG, LONG, SHORT]),
        ({"min_chars": 20}, [None, None, None, None, SHORT]),
        ({"min_chars": 21, "max_chars": 39}, [None, LONG, SHORT, SHORT, SHORT]),
    ],
)
def test_lengths_decide_by_code_points(settings: dict[str, object], reasons: list[str | None]) -> None:
    docs = _batch(["é" * 39, "𝒳" * 40, "中" * 20, "中" * 20, None], ["fr", None, "zh-Hant", "zh", "en"])
    padded = pa.concat_batches([_batch(["pad"], [None]), docs]).slice(1)
    assert SelectLong(**settings).reasons(padded).to_pylist() == reasons


def test_exactly_one_minimum_is_asked_for() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        SelectLong()
    with pytest.raises(ValueError, match="exactly one"):
        SelectLong(min_tokens=1, min_chars=1)
    with pytest.raises(ValueError, match="nothing could pass"):
        SelectLong(min_chars=10, max_chars=5)


def test_language_is_needed_only_where_it_matters() -> None:
    assert [one.name for one in SelectLong(min_chars=5).needs()] == ["text"]
    assert [one.name for one in SelectLong(min_tokens=5).needs()] == ["text", "language"]
