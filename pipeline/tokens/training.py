"""A byte-level BPE tokenizer trained on a seeded sample of the run's own text, with GLM's special tokens.

Training is Hugging Face's `BpeTrainer`: with the whole byte alphabet given, its result depends on word counts alone,
so the same sample gives the same bytes on any number of threads. (gigatoken's trainer is no quicker on these sizes and
splits words by GPT-2's pattern only.) A sample of 24 MB of code takes 13 s and 540 MB on 2 busy
cores; Chinese takes longer, its words being long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.schema import ID, TEXT
from pipeline.stage import Fold, random_keys
from pipeline.tokens.tokenizer import GLM_PATTERN

# Names and order of GLM-4 and GLM-4.5; their ids follow the trained vocabulary, whose size differs.
GLM_SPECIAL_TOKENS = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    *("<|begin_of_audio|>", "<|end_of_audio|>", "<|begin_of_transcription|>", "<|end_of_transcription|>"),
    *("<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>", "<think>", "</think>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "/nothink"),
    *("<|begin_of_box|>", "<|end_of_box|>", "<|image|>", "<|video|>"),
)

# The trainer's cost is quadratic in the longest word. A full stop and a line end break a run of any kind of character.
_ENDLESS = r"(\S{256}|\s{256})"

_SAMPLE = pa.schema([pa.field("key", pa.uint64()), ID, TEXT])


class TrainTokenizer(Fold):
    """Trains a byte-level BPE on a sample and gives it as one row, `tokenizer_json`.

    The sample: documents in the order of a hash of (seed, id), each cut at `max_document_chars`, until `sample_bytes`
    are reached; that is the same set however rows are cut into parts. Memory: thrice `sample_bytes`, and in
    `fold` what the trainer needs for it (about 40 bytes a byte of sample).
    """

    kind = "train_tokenizer"
    seeded = True

    vocabulary: int = Field(default=32_000, gt=256)
    """Entries, the 256 bytes and the special tokens included (fewer come out of a very small sample)."""
    sample_bytes: int = Field(default=24_000_000, gt=0)
    max_document_chars: int = Field(default=1_000_000, gt=0)
    special_tokens: tuple[str, ...] = GLM_SPECIAL_TOKENS
    pattern: str = GLM_PATTERN
    """How text is split into words before merging. Patterns other than GLM's and Qwen's make encoding slow."""

    @field_validator("special_tokens")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value):
            msg = "special_tokens must be distinct and not empty"
            raise ValueError(msg)
        return value

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            pre_tokenizers.Split(Regex(value), "isolated")
        except Exception as error:
            msg = f"pattern is not a regular expression that tokenizers accepts: {error}"
            raise ValueError(msg) from error
        return value

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, TEXT)

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        """The sample as far as this part can tell: its own first documents by key."""
        return self._first(self._keyed(batch) for batch in batches)

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        """One row: the trained tokenizer.json."""
        texts = self._first(iter(summaries)).column("text")
        if len(texts) == 0:
            msg = f"stage '{self.name}' has no text to train a tokenizer on"
            raise ValueError(msg)
        return pa.table({"tokenizer_json": pa.array([self._trained(texts)], pa.large_binary())})

    def _keyed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        kept = batch.filter(pc.fill_null(pc.greater(pc.binary_length(batch.column("text")), 0), False))
        keys = pa.array(random_keys(kept.column("id"), self.seed, self.kind), pa.uint64())
        return pa.RecordBatch.from_arrays([keys, kept.column("id"), kept.column("text")], schema=_SAMPLE)

    def _first(self, pieces: Iterator[pa.RecordBatch]) -> pa.RecordBatch:
        """The first documents of all pieces by key, until `sample_bytes` are reached."""
        kept, limit = pa.Table.from_batches([], _SAMPLE), None
        waiting: list[pa.RecordBatch] = []
        size = 0
        for piece in pieces:
            if limit is not None:  # behind the last key of a full sample nothing can come in any more
                piece = piece.filter(pc.less_equal(piece.column("key"), limit))
            text = pc.utf8_slice_codeunits(piece.column("text"), 0, self.max_document_chars)
            waiting.append(pa.RecordBatch.from_arrays([piece.column("key"), piece.column("id"), text], schema=_SAMPLE))
            size += text.nbytes
            if size > self.sample_bytes:
                kept, limit = self._cut([kept, pa.Table.from_batches(waiting, _SAMPLE)])
                waiting, size = [], 0
        kept, _ = self._cut([kept, pa.Table.from_batches(waiting, _SAMPLE)])
        return kept.to_batches()[0] if kept.num_rows else pa.RecordBatch.from_pylist([], schema=_SAMPLE)

    def _cut(self, tables: list[pa.Table]) -> tuple[pa.Table, pa.Scalar | None]:
        """The sample of `tables`, in order, and its last key if it is full."""
        sample = pa.concat_tables(tables).sort_by([("key", "ascending"), ("id", "ascending")])
        filled = np.cumsum(pc.binary_length(sample.column("text")).to_numpy(), dtype=np.int64)
        count = int(np.searchsorted(filled, self.sample_bytes, side="left")) + 1
        sample = sample.slice(0, count).combine_chunks()
        full = len(filled) and filled[sample.num_rows - 1] >= self.sample_bytes
        return sample, sample.column("key")[-1] if full else None

    def _trained(self, texts: pa.Array) -> bytes:
        tokenizer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(self.pattern), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet: list[Any] = sorted(pre_tokenizers.ByteLevel.alphabet())
        size = self.vocabulary - len(self.special_tokens)
        if size < len(alphabet):
            msg = (
                f"vocabulary {self.vocabulary} has no room for 256 bytes and {len(self.special_tokens)} special tokens"
            )
            raise ValueError(msg)
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        pieces = pc.replace_substring_regex(texts, _ENDLESS, "\\1.\n")
        tokenizer.train_from_iterator((piece.as_py() for piece in pieces), trainer, length=len(pieces))
        added = [AddedToken(token, special=True, normalized=False) for token in self.special_tokens]
        tokenizer.add_special_tokens(added)
        return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False).encode()
