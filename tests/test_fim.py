"""Fill in the middle: nothing is lost, cuts fall on characters, choices hang on (seed, id) alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.code.fim import Fim
from pipeline.kernels import spans
from pipeline.schema import SPECIALS, document_id
from pipeline.stage import random_keys, uniforms

PRE, MID, SUF = "<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"


def _batch(texts: list[str | None], first: int = 0) -> pa.RecordBatch:
    ids = [document_id("fim", str(i)) for i in range(first, first + len(texts))]
    return pa.record_batch({"id": pa.array(ids, pa.binary(16)), "text": pa.array(texts, pa.large_string())})


def _pieces(text: str, specials: list[dict[str, object]]) -> list[tuple[str, str]]:
    """Each special token with the text behind it, up to the next."""
    raw = text.encode()
    ends = [one["at"] for one in specials[1:]] + [len(raw)]
    return [(one["token"], raw[one["at"] : end].decode()) for one, end in zip(specials, ends, strict=True)]


def _original(text: str, specials: list[dict[str, object]] | None) -> str:
    if specials is None:
        return text
    (a, x), (b, y), (c, z) = _pieces(text, specials)
    match (a, b, c):
        case (first, second, third) if (first, second, third) == (PRE, SUF, MID) and x == "" and y + z == text:
            return z + y  # SPM v2, or PSM with an empty prefix: both read middle behind suffix
        case first, second, third if (first, second, third) == (PRE, SUF, MID):
            return x + z + y
        case first, second, third if (first, second, third) == (SUF, PRE, MID):
            return y + z + x
    raise AssertionError((a, b, c))


def _rewritten(stage: Fim, docs: pa.RecordBatch) -> list[tuple[str, list[dict[str, object]] | None, str | None]]:
    columns = stage.columns(docs)
    assert columns["specials"].type == SPECIALS.type
    return list(zip(*(columns[name].to_pylist() for name in ("text", "specials", "fim")), strict=True))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.none() | st.text(max_size=60), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([1, 2]),
    st.integers(0, 3),
)
def test_every_document_can_be_put_together_again(texts: list[str | None], psm: float, version: int, seed: int) -> None:
    stage = Fim(rate=1.0, psm=psm, spm_version=version, min_chars=3).bound(seed=seed)
    padded = _batch(["pad é", *texts, "end"]).slice(1, len(texts))
    for before, (text, specials, how) in zip(texts, _rewritten(stage, padded), strict=True):
        if before is None or len(before) < 3:
            assert (text, specials, how) == (before, None, None)
        else:
            assert how in ("psm", "spm")
            assert _original(text, specials) == before


def _twin(stage: Fim, docs: pa.RecordBatch) -> list[tuple[str, list[tuple[int, str]] | None, str | None]]:
    """The same by slicing strings, document by document."""
    draw = {
        part: uniforms(random_keys(docs["id"], stage.seed, f"fim/{part}")) for part in ("rate", "psm", "cut1", "cut2")
    }
    rows = []
    for i, text in enumerate(docs["text"].to_pylist()):
        if text is None or len(text) < stage.min_chars or draw["rate"][i] >= stage.rate:
            rows.append((text, None, None))
            continue
        low, high = sorted(int(draw[cut][i] * (len(text) + 1)) for cut in ("cut1", "cut2"))
        p, m, s = text[:low], text[low:high], text[high:]
        pieces = [(PRE, p), (SUF, s), (MID, m)]
        if draw["psm"][i] >= stage.psm:
            pieces = [(PRE, ""), (SUF, s), (MID, p + m)] if stage.spm_version == 2 else [(SUF, s), (PRE, p), (MID, m)]
        at = np.cumsum([0] + [len(piece.encode()) for _, piece in pieces]).tolist()
        specials = [(where, token) for where, (token, _) in zip(at, pieces, strict=False)]
        rows.append(("".join(piece for _, piece in pieces), specials, "psm" if draw["psm"][i] < stage.psm else "spm"))
    return rows


@pytest.mark.parametrize("version", [1, 2])
def test_rewriting_agrees_with_slicing_strings(version: int) -> None:
    texts = [("def f(x):\n    return 'é中𝒳' + x\n" * (i % 7))[: i * 3] for i in range(300)]
    docs = _batch([None if i % 50 == 7 else text for i, text in enumerate(texts)])
    stage = Fim(rate=0.7, psm=0.4, spm_version=version).bound(seed=11)
    found = [
        (text, specials if specials is None else [(one["at"], one["token"]) for one in specials], how)
        for text, specials, how in _rewritten(stage, docs)
    ]
    assert found == _twin(stage, docs)


def test_rate_and_share_of_psm_are_met_and_the_rest_is_untouched() -> None:
    docs = _batch([f"document number {i} with some text" for i in range(4000)])
    rows = _rewritten(Fim(rate=0.5, psm=0.25).bound(seed=3), docs)
    modes = [how for _, _, how in rows]
    assert abs(modes.count(None) / 4000 - 0.5) < 0.03
    assert abs(modes.count("psm") / 4000 - 0.125) < 0.02
    assert all(text == docs["text"][i].as_py() for i, (text, _, how) in enumerate(rows) if how is None)


def test_cuts_are_uniform_over_all_positions_ends_included() -> None:
    docs = _batch(["abc"] * 8000)
    rows = _rewritten(Fim(rate=1.0, psm=1.0, min_chars=1).bound(seed=1), docs)
    prefixes = [len(_pieces(text, specials)[0][1]) for text, specials, _ in rows]
    # the lower of two uniform cuts among 0..3: 7, 5, 3 and 1 sixteenths
    assert [round(prefixes.count(n) / 8000, 2) for n in range(4)] == pytest.approx(
        [7 / 16, 5 / 16, 3 / 16, 1 / 16], abs=0.02
    )


def test_result_hangs_on_seed_and_id_not_on_the_batch() -> None:
    texts = [f"some text number {i} é" for i in range(50)]
    docs = _batch(texts)
    stage = Fim(rate=0.8).bound(seed=5)
    whole = _rewritten(stage, docs)
    assert [row for i in range(0, 50, 9) for row in _rewritten(stage, docs.slice(i, 9))] == whole
    assert [_rewritten(stage, docs.take(pa.array([i])))[0] for i in reversed(range(50))] == whole[::-1]
    assert _rewritten(Fim(rate=0.8).bound(seed=6), docs) != whole
    assert _rewritten(stage, docs.slice(0, 0)) == []


def test_text_that_spells_a_special_token_stays_text() -> None:
    docs = _batch([f"a {PRE} b {SUF} c {MID} d"] * 1)
    ((text, specials, _),) = _rewritten(Fim(rate=1.0).bound(seed=1), docs)
    assert sorted(text) == sorted(docs["text"][0].as_py())
    assert len(specials) == 3


def test_documents_that_have_specials_already_are_an_error() -> None:
    docs = _batch(["some text"]).append_column(SPECIALS, pa.nulls(1, SPECIALS.type))
    with pytest.raises(ValueError, match="'specials' column already"):
        Fim().columns(docs)


def test_equal_token_names_are_refused() -> None:
    with pytest.raises(ValueError, match="three different names"):
        Fim(prefix="<x>", suffix="<x>")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.integers(0, 35))
def test_span_kernels_agree_with_plain_python(texts: list[str], cut: int) -> None:
    column = pa.array(["é", None, *texts], pa.large_string()).slice(1)
    data, offsets = spans.buffers(column)
    assert spans.code_points(data, offsets).tolist() == [0, *map(len, texts)]
    assert spans.first_chars(column, cut).to_pylist() == [None, *(text[:cut] for text in texts)]
    where = spans.byte_positions(data, offsets, np.full(len(column), cut, np.int64)) - offsets[:-1]
    assert where.tolist() == [0, *(len(text[:cut].encode()) for text in texts)]
