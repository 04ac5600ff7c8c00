"""Documents to tokens, special tokens by place, and the columns that shards need."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from pipeline.schema import SPECIALS, document_id
from pipeline.stage import random_keys
from pipeline.tokens import tokenize as subject
from pipeline.tokens.tokenize import PrepareShards, Tokenize
from pipeline.tokens.tokenizer import Encoder, encoder_of
from pipeline.tokens.training import TrainTokenizer

TEXTS = [
    "One document.",
    "",
    "Zwei Größen, 数据",
    "<|endoftext|> spelled out",
    "x" + chr(0x88F) + " trapped",
    "last one\n",
]


def ids_of(count):
    return pa.array([document_id("t", str(i)) for i in range(count)], pa.binary(16))


@lru_cache(maxsize=1)
def tables():
    texts = pa.array([f"{text} number {i}" for i in range(40) for text in TEXTS], pa.large_string())
    batch = pa.RecordBatch.from_arrays([ids_of(len(texts)), texts], names=["id", "text"])
    fold = TrainTokenizer(vocabulary=500).bound(name="train", seed=1)
    return {"tokenizer": fold.fold(iter([fold.summary(iter([batch]), "web")]))}


def encoder():
    return encoder_of(tables()["tokenizer"].column("tokenizer_json")[0].as_py())


def tokenize(**settings):
    return Tokenize(**settings).bound(name="tokens", seed=3, tables=tables())


def batch_of(texts, specials=None):
    columns = {"id": ids_of(len(texts)), "text": pa.array(texts, pa.large_string())}
    if specials is not None:
        columns["specials"] = pa.array(specials, SPECIALS.type)
    return pa.RecordBatch.from_pydict(columns)


def twin(text, specials, end="<|endoftext|>"):
    """Token by token in plain Python."""
    raw, at, out = text.encode(), 0, []
    for special in specials or []:
        out += [*encoder().reference_ids(raw[at : special["at"]].decode()), encoder().special_id(special["token"])]
        at = special["at"]
    return [*out, *encoder().reference_ids(raw[at:].decode()), encoder().special_id(end)]


def test_every_document_ends_in_the_end_of_document_token_and_spelled_ones_are_text():
    columns = tokenize(check_sample=100).columns(batch_of(TEXTS))
    assert columns["tokens"].to_pylist() == [twin(text, []) for text in TEXTS]
    end = encoder().special_id("<|endoftext|>")
    assert [row.count(end) for row in columns["tokens"].to_pylist()] == [1] * len(TEXTS)
    assert columns["num_tokens"].to_pylist() == [len(row) for row in columns["tokens"].to_pylist()]


def test_columns_have_the_declared_names_and_types():
    for stage, docs in ((tokenize(), batch_of(TEXTS)), (PrepareShards().bound(seed=3), batch_of(TEXTS))):
        columns = stage.columns(docs)
        assert {name: column.type for name, column in columns.items()} == {f.name: f.type for f in stage.adds()}
        assert all(len(column) == len(TEXTS) for column in columns.values())


def test_the_token_hash_is_xxh64_of_the_rows_bytes_and_equal_texts_have_equal_hashes():
    columns = tokenize().columns(batch_of([*TEXTS, TEXTS[0]]))
    expected = [xxhash.xxh64_intdigest(np.array(row, "<i4").tobytes()) for row in columns["tokens"].to_pylist()]
    assert columns["token_hash"].to_pylist() == expected
    assert expected[0] == expected[-1]


SPECIAL_ROWS = [
    [{"at": 0, "token": "[gMASK]"}, {"at": 0, "token": "<sop>"}, {"at": 3, "token": "<|user|>"}],
    [{"at": 0, "token": "<think>"}],
    [{"at": 9, "token": "<think>"}, {"at": 18, "token": "</think>"}],
    None,
    [],
    [{"at": 9, "token": "<eop>"}],
]


def test_special_tokens_stand_where_the_column_says_and_text_between_is_encoded_by_itself():
    expected = [twin(text, row) for text, row in zip(TEXTS, SPECIAL_ROWS, strict=True)]
    assert tokenize(check_sample=100).columns(batch_of(TEXTS, SPECIAL_ROWS))["tokens"].to_pylist() == expected
    sliced = batch_of(["before", *TEXTS, "after"], [[{"at": 1, "token": "<sop>"}], *SPECIAL_ROWS, None]).slice(1, 6)
    assert tokenize(check_sample=100).columns(sliced)["tokens"].to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "specials", "what"),
    [
        ("Größe", [{"at": 3, "token": "<sop>"}], "byte 3"),  # inside ö
        ("abc", [{"at": 4, "token": "<sop>"}], "byte 4"),
        ("abc", [{"at": -1, "token": "<sop>"}], "byte -1"),
        ("abc", [{"at": 2, "token": "<sop>"}, {"at": 1, "token": "<eop>"}], "byte 1"),
        ("abc", [{"at": None, "token": "<sop>"}], "byte -1"),
    ],
)
def test_a_special_token_at_an_impossible_place_is_an_error_that_names_document_and_byte(text, specials, what):
    docs = batch_of(["fine", text], [None, specials])
    with pytest.raises(ValueError, match=f"{docs.column('id')[1].as_py().hex()}: {what}"):
        tokenize().columns(docs)


def test_an_unknown_special_token_or_end_of_document_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"'<\|no\|>' is not a single added token"):
        tokenize().columns(batch_of(["a"], [[{"at": 0, "token": "<|no|>"}]]))
    with pytest.raises(ValueError, match="'</s>' is not a single added token"):
        tokenize(end_of_document="</s>").columns(batch_of(["a"]))


def test_tokens_do_not_depend_on_how_rows_are_cut_into_batches():
    docs = batch_of(TEXTS, SPECIAL_ROWS)
    whole = tokenize().columns(docs)
    for size in (1, 2, 5):
        pieces = [tokenize().columns(docs.slice(at, size)) for at in range(0, len(TEXTS), size)]
        for name, column in whole.items():
            assert pa.concat_arrays([piece[name] for piece in pieces]).equals(column), name


def test_an_empty_batch_gives_empty_columns():
    assert all(len(column) == 0 for column in tokenize().columns(batch_of([], [])).values())


def test_a_difference_to_the_reference_is_an_error_with_document_position_and_both_ids(monkeypatch):
    original = Encoder.encode

    def wrong(self, texts):
        values, offsets = original(self, texts)
        values = values.copy()
        values[offsets[2] + 1] += 1
        return values, offsets

    monkeypatch.setattr(subject, "stage_encoder", lambda *_: encoder())
    monkeypatch.setattr(Encoder, "encode", wrong)
    docs = batch_of(TEXTS)
    right = twin(TEXTS[2], [])[1]
    with pytest.raises(
        ValueError, match=rf"token 1 of document {docs.column('id')[2].as_py().hex()} is \[{right + 1}\].*\[{right}\]"
    ):
        tokenize(check_sample=100).columns(docs)
    assert tokenize(check_sample=0).columns(docs)["num_tokens"].null_count == 0


def test_a_tokenizer_by_path_is_part_of_the_identity(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tables()["tokenizer"].column("tokenizer_json")[0].as_py())
    stage = Tokenize(path=str(path)).bound(name="tokens")
    assert stage.files() == (str(path),)
    assert stage.columns(batch_of(TEXTS))["tokens"].equals(tokenize().columns(batch_of(TEXTS))["tokens"])
    assert tokenize().files() == ()


def test_prepare_shards_fills_what_a_dataset_lacks():
    docs = batch_of(["aé数🙂", ""])
    columns = PrepareShards().bound(seed=3).columns(docs)
    assert columns["num_chars"].to_pylist() == [4, 0]
    assert columns["bucket"].to_pylist() == ["all", "all"]
    assert (
        columns["language"].to_pylist() == columns["score"].to_pylist() == columns["origin"].to_pylist() == [None, None]
    )
    assert columns["shuffle_key"].to_pylist() == random_keys(docs.column("id"), 3, "shuffle").tolist()


def test_prepare_shards_keeps_what_a_dataset_has_and_takes_the_first_score():
    docs = batch_of(["a", "b"])
    for name, column in {
        "bucket": pa.array(["high", None]),
        "language": pa.array(["en", None]),
        "origin": pa.array(["u", "v"], pa.large_string()),
        "score_edu": pa.array([0.5, None], pa.float32()),
        "score_other": pa.array([9.0, 9.0], pa.float32()),
    }.items():
        docs = docs.append_column(name, column)
    columns = PrepareShards().bound(seed=3).columns(docs)
    assert columns["bucket"].to_pylist() == ["high", "all"]
    assert columns["language"].to_pylist() == ["en", None]
    assert columns["origin"].to_pylist() == ["u", "v"]
    assert columns["score"].to_pylist() == [0.5, None]
    assert PrepareShards().removes() == ("text", "specials")
