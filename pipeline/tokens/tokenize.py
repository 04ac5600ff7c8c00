"""Documents to token ids, and the row that a token shard keeps of each.

`tokenize` works on whole batches: text is cut at special tokens by offsets alone (no copy), all pieces are encoded in
one call, and one compiled loop puts the special ids and the end-of-document token between them. About 27 MB/s on one
thread for a 151k vocabulary, held to Hugging Face `tokenizers` by a seeded sample in every batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.kernels.gather import append_each
from pipeline.kernels.hashing import hash_strings
from pipeline.schema import (
    BUCKET,
    ID,
    LANGUAGE,
    NUM_CHARS,
    NUM_TOKENS,
    ORIGIN,
    SHUFFLE_KEY,
    TEXT,
    TOKENS,
    field,
)
from pipeline.stage import Annotate, random_keys
from pipeline.tokens.tokenizer import Encoder, plain_texts, stage_encoder

END_OF_DOCUMENT = "<|endoftext|>"

TOKEN_HASH = field("token_hash", pa.uint64(), "XXH64 of the bytes of `tokens` (little-endian int32, the last included)")
SCORE = field("score", pa.float32(), "the document's first score, for the bucket table; null where nothing scored it")


class Tokenize(Annotate):
    """Adds `tokens` (end-of-document token last), their number and their hash.

    Text between the special tokens of column `specials` is encoded piece by piece; text itself never gives a special
    token. `check_sample` documents of every batch are encoded again with Hugging Face `tokenizers`, and a difference is
    an error. Memory: the batch's tokens twice, plus the engines' (see `Encoder`).
    """

    kind = "tokenize"
    seeded = True

    path: str | None = None
    """A Hugging Face tokenizer.json; null takes table "tokenizer" (of `train_tokenizer`)."""
    end_of_document: str = END_OF_DOCUMENT
    check_sample: int = Field(default=4, ge=0)
    """Documents per batch that are checked against `tokenizers`."""
    check_max_bytes: int = Field(default=256 << 10, gt=0)
    """Longer documents are not chosen for the check, which runs at 2 MB/s."""

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, TEXT)

    def adds(self) -> tuple[pa.Field, ...]:
        return (TOKENS, NUM_TOKENS, TOKEN_HASH)

    def files(self) -> tuple[str, ...]:
        return () if self.path is None else (self.path,)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        encoder = stage_encoder(self.path, self)
        texts, follow, last = cut_at_specials(docs, encoder, encoder.special_id(self.end_of_document))
        values, offsets = append_each(*encoder.encode(texts), follow)
        rows = offsets[last]
        self._check(docs, encoder, texts, follow, last, values, rows)
        tokens = pa.LargeListArray.from_arrays(pa.array(rows), pa.array(values))
        return {"tokens": tokens, "num_tokens": pa.array(np.diff(rows)), "token_hash": token_hashes(values, rows)}

    def _check(
        self,
        docs: pa.RecordBatch,
        encoder: Encoder,
        texts: pa.Array,
        follow: npt.NDArray[np.int32],
        last: npt.NDArray[np.int64],
        values: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int64],
    ) -> None:
        """Encode the sample again with `tokenizers`; raises at the first difference."""
        sizes = pc.fill_null(pc.binary_length(docs.column("text")), 0).to_numpy()
        able = np.flatnonzero(sizes <= self.check_max_bytes)
        order = np.argsort(random_keys(docs.column("id"), self.seed, "check_tokens")[able], kind="stable")
        for row in able[order[: self.check_sample]].tolist():
            expected: list[int] = []
            for piece in range(last[row], last[row + 1]):
                expected += [*encoder.reference_ids(texts[piece].as_py()), int(follow[piece])]
            found = values[rows[row] : rows[row + 1]].tolist()
            if found != expected:
                at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), -1)
                at = min(len(found), len(expected)) if at < 0 else at
                msg = (
                    f"stage '{self.name}': token {at} of document {docs.column('id')[row].as_py().hex()} is "
                    f"{found[at : at + 1]}, but Hugging Face tokenizers gives {expected[at : at + 1]}"
                )
                raise ValueError(msg)


def cut_at_specials(
    docs: pa.RecordBatch, encoder: Encoder, end: int
) -> tuple[pa.Array, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The pieces of text between special tokens, the token behind each piece, and where each document's pieces begin.

    large_string[pieces] over the batch's own buffers, int32[pieces], int64[documents + 1]. The last piece of every
    document is followed by `end`.
    """
    texts = plain_texts(docs.column("text"))
    pieces = np.arange(len(texts) + 1, dtype=np.int64)
    if "specials" not in docs.schema.names:
        return texts, np.full(len(texts), end, np.int32), pieces
    specials = docs.column("specials")
    counts = pc.fill_null(pc.list_value_length(specials), 0).to_numpy().astype(np.int64)
    if not counts.any():
        return texts, np.full(len(texts), end, np.int32), pieces
    pieces[1:] += np.cumsum(counts)
    flat = specials.flatten()
    row = np.repeat(np.arange(len(texts)), counts)
    cuts = _cuts(docs, texts, row, flat.field("at"))
    behind = np.arange(len(row)) + row  # each special stands behind the piece that ends where it is
    follow = np.full(len(texts) + len(row), end, np.int32)
    follow[behind] = _special_ids(encoder, flat.field("token"))
    starts = np.empty(len(texts) + len(row) + 1, np.int64)
    offsets = _offsets(texts)
    starts[pieces[:-1]], starts[-1] = offsets[:-1], offsets[-1]
    starts[behind + 1] = cuts
    data = texts.buffers()[2]
    cut = pa.LargeStringArray.from_buffers(len(starts) - 1, pa.py_buffer(starts), data or pa.py_buffer(b""))
    return cut, follow, pieces


def _offsets(texts: pa.Array) -> npt.NDArray[np.int64]:
    return np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]


def _cuts(docs: pa.RecordBatch, texts: pa.Array, row: npt.NDArray[np.int64], at: pa.Array) -> npt.NDArray[np.int64]:
    """Where in the batch's bytes each special stands; raises unless ascending, within the text, between characters."""
    offsets = _offsets(texts)
    missing = at.null_count > 0
    places = pc.fill_null(at, -1).to_numpy()
    cuts = offsets[row] + places
    bad = (places < 0) | (cuts > offsets[row + 1])
    bad[1:] |= (row[1:] == row[:-1]) & (cuts[1:] < cuts[:-1])
    inside = ~bad & (cuts < offsets[row + 1])
    data = texts.buffers()[2]
    letters = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    bad[inside] |= letters[cuts[inside]] & 0xC0 == 0x80
    if missing or bad.any():
        first = int(np.flatnonzero(bad)[0])
        document = docs.column("id")[int(row[first])].as_py().hex()
        msg = (
            f"specials of document {document}: byte {places[first]} must be ascending, within the text's "
            f"{offsets[row[first] + 1] - offsets[row[first]]} bytes and the beginning of a character"
        )
        raise ValueError(msg)
    return np.asarray(cuts, np.int64)


def _special_ids(encoder: Encoder, tokens: pa.Array) -> npt.NDArray[np.int32]:
    coded = pc.dictionary_encode(tokens)
    if coded.null_count:
        msg = "specials: a special token without a name"
        raise ValueError(msg)
    ids = np.array([encoder.special_id(name) for name in coded.dictionary.to_pylist()], np.int32)
    indices: npt.NDArray[np.int32] = coded.indices.to_numpy()
    return ids[indices]


def token_hashes(values: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]) -> pa.Array:
    """uint64[n]: XXH64 of the bytes of each row of tokens."""
    letters = pa.py_buffer(np.ascontiguousarray(values, "<i4"))
    packed = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(rows) - 1, [None, pa.py_buffer(rows * 4), letters])
    return pa.array(hash_strings(packed), pa.uint64())


class PrepareShards(Annotate):
    """The columns by which shards are ordered, split and described; removes the text.

    `bucket` is `all` where the dataset has none; `score` is the first column named `score_*`. Memory: a few bytes a row.
    """

    kind = "prepare_shards"
    seeded = True

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, TEXT)

    def adds(self) -> tuple[pa.Field, ...]:
        return (ORIGIN, LANGUAGE, BUCKET, NUM_CHARS, SCORE, SHUFFLE_KEY)

    def removes(self) -> tuple[str, ...]:
        return ("text", "specials")

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        scorer = next((name for name in docs.schema.names if name.startswith("score_")), "")
        return {
            "origin": _column(docs, "origin", pa.large_string()),
            "language": _column(docs, "language", pa.string()),
            "bucket": pc.fill_null(_column(docs, "bucket", pa.string()), "all"),
            "num_chars": pc.fill_null(pc.utf8_length(docs.column("text")), 0).cast(pa.int64()),
            "score": _column(docs, scorer, pa.float32()),
            "shuffle_key": pa.array(random_keys(docs.column("id"), self.seed, "shuffle"), pa.uint64()),
        }


def _column(docs: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    return docs.column(name).cast(kind) if name in docs.schema.names else pa.nulls(docs.num_rows, kind)
