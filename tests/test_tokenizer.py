"""Training, and that ids equal those of Hugging Face `tokenizers` on every kind of text."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from pipeline.schema import document_id
from pipeline.tokens import tokenizer as subject
from pipeline.tokens.tokenizer import DIFFERING, Encoder, encoder_of, engines_agree, tokenizer_bytes
from pipeline.tokens.training import GLM_SPECIAL_TOKENS, TrainTokenizer

DATA = Path(__file__).parents[2] / "shared" / "data"
QWEN = DATA / "tokenizer" / "qwen2.5" / "tokenizer.json"
needs_data = pytest.mark.skipif(not QWEN.exists(), reason="the development data is not beside the repository")


def documents(texts):
    ids = pa.array([document_id("t", str(i)) for i in range(len(texts))], pa.binary(16))
    return pa.RecordBatch.from_arrays([ids, pa.array(texts, pa.large_string())], names=["id", "text"])


def sample_texts(count=400, seed=1):
    rng = random.Random(seed)
    words = [
        "token",
        "the",
        "Größe",
        "数据",
        "данные",
        "def f(x):",
        "return x+1",
        "12345",
        "\n\n",
        "  ",
        "naïve",
        "it's",
        "!?",
    ]
    return [
        " ".join(rng.choice(words) + rng.choice(["", "s", "ing", "é"]) for _ in range(rng.randrange(1, 80)))
        for _ in range(count)
    ]


def trained(texts, parts=1, **settings):
    fold = TrainTokenizer(**{"vocabulary": 600, **settings}).bound(name="train", seed=7)
    batch = documents(texts)
    size = -(-len(texts) // parts)
    pieces = [batch.slice(at, size) for at in range(0, len(texts), size)]
    table = fold.fold(fold.summary(iter([piece]), "web") for piece in pieces)
    return table.column("tokenizer_json")[0].as_py()


@lru_cache(maxsize=1)
def small_tokenizer():
    return trained(sample_texts())


def bare_reference(content):
    return Tokenizer.from_str(json.dumps({**json.loads(content), "added_tokens": [], "post_processor": None}))


def assert_equal_to_reference(content, texts):
    encoder, reference = encoder_of(content), bare_reference(content)
    array = pa.array(["left out", *texts], pa.large_string())[1:]
    values, offsets = encoder.encode(array)
    assert values.dtype == np.int32
    assert len(offsets) == len(texts) + 1
    assert offsets[0] == 0
    expected = reference.encode_batch_fast(texts, add_special_tokens=False)
    wrong = [
        t
        for t, e, a, b in zip(texts, expected, offsets[:-1], offsets[1:], strict=True)
        if e.ids != values[a:b].tolist()
    ]
    assert wrong == []


# ------------------------------------------------------------------------------------------------------- training


def test_training_gives_a_tokenizer_whose_special_tokens_follow_the_vocabulary_in_glms_order():
    tokenizer = Tokenizer.from_str(small_tokenizer().decode())
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    assert 256 < size <= 600 - len(GLM_SPECIAL_TOKENS)
    assert [tokenizer.token_to_id(token) for token in GLM_SPECIAL_TOKENS] == list(
        range(size, size + len(GLM_SPECIAL_TOKENS))
    )
    text = "Größe 数据 it's\n\n  12345\x00é 🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("the token the token").ids) < 10


def test_training_gives_the_same_bytes_whatever_the_parts_and_batches():
    texts = sample_texts()
    whole = trained(texts, sample_bytes=8_000)
    assert trained(texts, parts=7, sample_bytes=8_000) == whole
    assert trained(texts, parts=400, sample_bytes=8_000) == whole
    assert trained(texts, sample_bytes=80_000) != whole


def test_the_sample_is_the_first_documents_by_key_until_it_is_full():
    fold = TrainTokenizer(sample_bytes=1_000).bound(name="train", seed=7)
    batch = documents(sample_texts(300))
    kept = fold.summary(iter([batch.slice(0, 100), batch.slice(100)]), "web")
    from pipeline.stage import random_keys

    keys = random_keys(batch.column("id"), 7, "train_tokenizer")
    expected, size = [], 0
    for row in np.argsort(keys).tolist():
        if size >= 1_000:
            break
        expected.append(batch.column("id")[row].as_py())
        size += len(batch.column("text")[row].as_py().encode())
    assert kept.column("id").to_pylist() == expected


def test_a_single_endless_word_does_not_stall_training():
    rng = random.Random(2)
    content = trained(
        ["".join(rng.choice("abcdefgh") for _ in range(200_000)), " " * 100_000, "中" * 50_000, *sample_texts(50)]
    )
    assert Tokenizer.from_str(content.decode()).get_vocab_size() <= 600


def test_training_on_nothing_is_an_error_that_names_the_step():
    fold = TrainTokenizer(vocabulary=600).bound(name="bpe")
    with pytest.raises(ValueError, match="'bpe' has no text"):
        fold.fold(iter([fold.summary(iter([documents(["", None])]), "web")]))


def test_settings_that_cannot_work_are_refused():
    for settings in ({"vocabulary": 200}, {"special_tokens": ("<a>", "<a>")}, {"pattern": "(("}, {"vocabulry": 1000}):
        with pytest.raises(ValueError):
            TrainTokenizer(**settings)
    with pytest.raises(ValueError, match="no room"):
        trained(sample_texts(5), vocabulary=270)


# ------------------------------------------------------------------------------------------------------- encoding


def odd_texts(count, seed):
    """Random Unicode: letters of one block, marks, spaces, digits, unassigned and private code points, contractions."""
    rng = random.Random(seed)
    every = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    pools = [
        [ord(c) for c in "'’sStTdDmMrReEvVlLſKİıßaé\n \r\t.,!12"],
        [
            0x200B,
            0x200C,
            0x200D,
            0xFEFF,
            0x180E,
            0x2060,
            0x85,
            0xA0,
            0x3000,
            0x1C,
            0x1D,
            0x1E,
            0x1F,
            9,
            10,
            11,
            12,
            13,
            32,
        ],
        [*range(0x300, 0x370), *range(0x8CA, 0x900), *range(0x1AB0, 0x1AF0), *range(0x1DC0, 0x1E00)],
        [0x660, 0x967, 0x9E7, 0xB2, 0xBC, 0x2160, 0x3007, 0x1D7CE, 0x104A0, 0x31, 0x32],
        [c for first, last in DIFFERING for c in range(first, min(last, first + 3) + 1)],
        [0x9B1, 0x378, 0xE000, 0x10FFFF, 0x1F468, 0x1F3FD, 0x1F1E9, 0xE0001, 0xFFFE],
        [*range(0x1100, 0x1200), *range(0xAC00, 0xAD00)],
        every,
    ]
    texts = []
    for _ in range(count):
        block = rng.randrange(0x3000) // 128 * 128
        mine = [*rng.choices(pools, k=rng.randrange(1, 4)), range(block, block + 128)]
        texts.append("".join(chr(rng.choice(rng.choice(mine))) for _ in range(rng.randrange(40))))
    return texts


def test_ids_equal_the_reference_on_random_unicode_with_the_trained_tokenizer():
    assert encoder_of(small_tokenizer()).fast
    assert_equal_to_reference(small_tokenizer(), odd_texts(20_000, seed=11))


@needs_data
def test_ids_equal_the_reference_on_random_unicode_with_a_normalising_tokenizer():
    content = QWEN.read_bytes()
    assert encoder_of(content).fast
    assert_equal_to_reference(content, odd_texts(20_000, seed=12))


@needs_data
def test_ids_equal_the_reference_on_real_text_in_many_languages():
    texts = [json.loads(line)["text"] for line in (DATA / "lang" / "udhr.jsonl").open(encoding="utf-8")]
    texts += [path.read_text(encoding="utf-8")[:60_000] for path in sorted((DATA / "books").glob("*/*.txt"))]
    for content in (small_tokenizer(), QWEN.read_bytes()):
        assert_equal_to_reference(content, texts)


def test_documents_with_differing_code_points_do_go_the_slow_way_and_keep_their_place():
    texts = ["plain", chr(0x88F) + "a", "", "more plain text", "a" + chr(0x323B0) + "b", "end"]
    assert_equal_to_reference(small_tokenizer(), texts)
    assert_equal_to_reference(small_tokenizer(), [chr(0x88F)])


def test_very_long_runs_of_one_kind_are_encoded_as_the_reference_does():
    runs = [
        "a" * 200_000,
        " " * 200_000 + "x",
        "1" * 100_000,
        "\n" * 100_000,
        "中" * 50_000,
        "." * 100_000,
        "a" + "\u0301" * 50_000,
    ]
    assert_equal_to_reference(small_tokenizer(), runs)


def test_text_that_spells_a_special_token_is_ordinary_text():
    encoder = encoder_of(small_tokenizer())
    texts = ["<|endoftext|>", "a<think>b</think>", "[gMASK]<sop>"]
    values, _ = encoder.encode(pa.array(texts, pa.large_string()))
    assert not set(values.tolist()) & {encoder.special_id(token) for token in GLM_SPECIAL_TOKENS}
    assert_equal_to_reference(small_tokenizer(), texts)


def test_nulls_and_nothing_encode_to_nothing():
    encoder = encoder_of(small_tokenizer())
    values, offsets = encoder.encode(pa.array(["ab", None, ""], pa.large_string()))
    assert offsets[1:].tolist() == [len(values)] * 3
    values, offsets = encoder.encode(pa.array([], pa.large_string()))
    assert (values.tolist(), offsets.tolist()) == ([], [0])


def test_special_id_is_an_added_token_or_an_error_that_names_the_known_ones():
    encoder = encoder_of(small_tokenizer())
    assert encoder.special_id("<|endoftext|>") == encoder.vocabulary - len(GLM_SPECIAL_TOKENS)
    with pytest.raises(ValueError, match=r"'<\|nothing\|>' is not a single added token .*<think>"):
        encoder.special_id("<|nothing|>")
    with pytest.raises(ValueError, match="'a' is not"):
        encoder.special_id("a")


def test_a_configuration_that_was_not_searched_goes_through_the_reference():
    config = json.loads(small_tokenizer())
    assert engines_agree(config)
    for changed in (
        {**config, "normalizer": {"type": "NFKC"}},
        {**config, "model": {**config["model"], "byte_fallback": True}},
        {**config, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {**config, "pre_tokenizer": {"type": "Whitespace"}},
    ):
        assert not engines_agree(changed)
    content = json.dumps({**config, "normalizer": {"type": "NFKC"}}).encode()
    assert not encoder_of(content).fast
    assert_equal_to_reference(content, ["ﬁne ², text", "", "x"])


def test_the_engine_is_loaded_anew_before_its_memory_of_words_grows_too_large(monkeypatch):
    monkeypatch.setattr(subject, "MAX_CACHE_TEXT_BYTES", 20_000)
    encoder, texts = Encoder(small_tokenizer()), sample_texts(60)
    engines = set()
    for _ in range(6):
        values, _ = encoder.encode(pa.array(texts, pa.large_string()))
        engines.add(id(encoder._engine) if encoder._engine else None)
        assert values.tolist() == list(chain(*map(encoder.reference_ids, texts)))
    assert None in engines


def test_a_tokenizer_comes_from_its_path_or_from_the_table(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(small_tokenizer())
    stage = TrainTokenizer().bound(
        name="s", tables={"tokenizer": pa.table({"tokenizer_json": pa.array([b"{}"], pa.large_binary())})}
    )
    assert tokenizer_bytes(str(path), stage) == small_tokenizer()
    assert tokenizer_bytes(None, stage) == b"{}"
    with pytest.raises(KeyError, match="asked for table 'tokenizer'"):
        tokenizer_bytes(None, TrainTokenizer().bound(name="s"))
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Encoder(b"{}")
