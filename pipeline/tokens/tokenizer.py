"""Text to token ids: gigatoken's speed, with ids that always equal those of Hugging Face `tokenizers`.

gigatoken encodes 27-32 MB/s of text it has not met and 90-105 of words it has, `tokenizers` 1.0-1.6 (one thread, CPU
time, 151k and 32k entries, Nov 2026, 11 MB of books and pages in 30 languages: benchmarks/tokenization.py). They differ
in three ways, each handled here:

- Text that spells a special token (`<|endoftext|>`) would become that token. Both engines are loaded without the
  added tokens, so that such text is ordinary text; special tokens enter by id alone.
- gigatoken 0.10 knows Unicode 17; in `tokenizers` 0.23 the split patterns follow Unicode 16 and the NFC normaliser is
  older still. Every code point was tried in a dozen contexts, with a tokenizer whose merges reveal where text is
  split; those in DIFFERING were told apart. Documents that hold one go through `tokenizers`.
- Only the split patterns in SEARCHED were searched in that way. Under any other configuration everything goes through
  `tokenizers`: slower, never different (`Encoder.fast` says which).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import awkward as ak
import fsspec
import gigatoken
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from tokenizers import Tokenizer

from pipeline.kernels.code_points import code_point_table, hold_any
from pipeline.kernels.gather import gather_spans
from pipeline.stage import Stage

GLM_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Split pattern of GLM-4 and GLM-4.5, of Llama 3 and of OpenAI's cl100k."""

QWEN_PATTERN = GLM_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
"""Split pattern of Qwen 2 to 3: digits one by one."""

SEARCHED = frozenset({GLM_PATTERN, QWEN_PATTERN})
"""Split patterns under which both engines were compared on every code point (as was GPT-2's, which `ByteLevel` holds)."""

DIFFERING = (
    *((0x7FD, 0x7FD), (0x88F, 0x89F), (0x8CA, 0x8D3), (0x9FE, 0x9FE), (0xC3C, 0xC3C), (0xC5C, 0xC5C)),
    *((0xCDC, 0xCDC), (0xD3B, 0xD3C), (0xEBA, 0xEBA), (0x1715, 0x1715), (0x1ABF, 0x1AEB), (0x1DF6, 0x1DFA)),
    *((0xA7CE, 0xA7D4), (0xA7F1, 0xA7F1), (0xA82C, 0xA82C), (0x105C9, 0x105E4), (0x10940, 0x10959)),
    *((0x10D24, 0x10D27), (0x10D69, 0x10D6D), (0x10EAB, 0x10EAC), (0x10EC5, 0x10EC7), (0x10EFA, 0x10EFF)),
    *((0x10F46, 0x10F50), (0x10F82, 0x10F85), (0x11070, 0x11070), (0x1133B, 0x1133B), (0x11380, 0x113D0)),
    *((0x1145E, 0x1145E), (0x11839, 0x1183A), (0x11930, 0x11943), (0x119E0, 0x119E0), (0x11A34, 0x11A34)),
    *((0x11A47, 0x11A47), (0x11A99, 0x11A99), (0x11B60, 0x11B67), (0x11D42, 0x11D45), (0x11D97, 0x11D97)),
    *((0x11DB0, 0x11DE9), (0x11F41, 0x11F42), (0x16100, 0x1612F), (0x16D40, 0x16D6F), (0x16EA0, 0x16ED3)),
    *((0x16FF0, 0x16FF6), (0x187F8, 0x187FF), (0x18D09, 0x18D1E), (0x18D80, 0x18DF2), (0x1E08F, 0x1E08F)),
    *((0x1E130, 0x1E136), (0x1E2AE, 0x1E2AE), (0x1E2EC, 0x1E2EF), (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF)),
    *((0x1E6C0, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD), (0x323B0, 0x33479)),
)
"""Code points (first and last of each range) whose class, combining class or composition the engines see differently."""

MAX_CACHE_BYTES = 256 << 20
MAX_CACHE_TEXT_BYTES = 1 << 30
BLIND_CACHE_TEXT_BYTES = 64 << 20  # random letters, the worst text met, cost gigatoken 11 bytes of cache a byte

Ids = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""Token ids of all strings and where each string's begin: int32[tokens], int64[n + 1]."""


class Encoder:
    """One tokenizer, ready to encode Arrow strings on one thread.

    gigatoken remembers every word it meets, without end; it is loaded anew (0.1 s at 32k, 0.7 s at 151k entries)
    once that memory has grown by 256 MiB. Memory: that, the two engines, and the ids of one batch.
    """

    def __init__(self, tokenizer_json: bytes) -> None:
        config = json.loads(tokenizer_json)
        if not isinstance(config, dict) or "model" not in config:
            msg = "a tokenizer must be the content of a Hugging Face tokenizer.json: an object with 'model'"
            raise ValueError(msg)
        bare = {**config, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._bare = json.dumps(bare)
        self._reference = Tokenizer.from_str(self._bare)
        self._added = {str(one["content"]): int(one["id"]) for one in config.get("added_tokens") or []}
        ids = [*self._reference.get_vocab(with_added_tokens=False).values(), *self._added.values()]
        self.vocabulary = max(ids, default=-1) + 1
        """One more than the largest token id, added tokens included."""
        self.fast = engines_agree(config)
        """Whether gigatoken may encode; else everything goes through `tokenizers`."""
        self._engine: Any = None
        self._cache_bytes = self._cache_text_bytes = 0
        self._differing = code_point_table(DIFFERING)

    def special_id(self, token: str) -> int:
        """The id of an added token; an error names the ones there are."""
        if token not in self._added:
            known = ", ".join(sorted(self._added)) or "none at all"
            msg = f"{token!r} is not a single added token of the tokenizer, which has {known}"
            raise ValueError(msg)
        return self._added[token]

    def encode(self, texts: pa.Array) -> Ids:
        """Ids of every string (a null is an empty string), without any special token."""
        texts = plain_texts(texts)
        if not self.fast:
            return self._by_reference(texts)
        trapped = hold_any(texts, self._differing)
        if not trapped.any():
            return self._by_engine(texts)
        fast, slow = (
            self._by_engine(texts.filter(pa.array(~trapped))),
            self._by_reference(texts.filter(pa.array(trapped))),
        )
        starts, lengths = np.empty(len(texts), np.int64), np.empty(len(texts), np.int64)
        for rows, (_, offsets), base in ((~trapped, fast, 0), (trapped, slow, len(fast[0]))):
            starts[rows], lengths[rows] = offsets[:-1] + base, np.diff(offsets)
        return gather_spans(np.concatenate([fast[0], slow[0]]), starts, lengths)

    def reference_ids(self, text: str) -> list[int]:
        """What Hugging Face `tokenizers` makes of one string, without any special token."""
        ids: list[int] = self._reference.encode(text, add_special_tokens=False).ids
        return ids

    def _by_reference(self, texts: pa.Array) -> Ids:
        rows = [np.asarray(self.reference_ids(text), np.int32) for text in texts.to_pylist()]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return np.concatenate([*rows, np.empty(0, np.int32)]), offsets

    def _by_engine(self, texts: pa.Array) -> Ids:
        if len(texts) == 0:
            return np.empty(0, np.int32), np.zeros(1, np.int64)
        if self._engine is None:
            self._engine = gigatoken.Tokenizer.from_json(self._bare)
            self._cache_bytes = self._cache_text_bytes = 0
        before = _resident_bytes()
        result = self._engine.encode_batch(_borrowed(texts), parallel=False).layout
        offsets = np.asarray(result.offsets, np.int64)
        values = np.asarray(result.content.data).view(np.int32)[offsets[0] : offsets[-1]]
        self._note_cache(_resident_bytes() - before - values.nbytes, texts)
        return values, offsets - offsets[0]

    def _note_cache(self, growth: int, texts: pa.Array) -> None:
        """Forget the engine, and its cache with it, when that has grown enough."""
        self._cache_bytes += max(0, growth)
        self._cache_text_bytes += int(pc.sum(pc.binary_length(texts)).as_py() or 0)
        most_text = MAX_CACHE_TEXT_BYTES if _resident_bytes() else BLIND_CACHE_TEXT_BYTES
        if self._cache_bytes > MAX_CACHE_BYTES or self._cache_text_bytes > most_text:
            self._engine = None


def engines_agree(config: dict[str, Any]) -> bool:
    """Whether this tokenizer.json is of the kind on which gigatoken was found to equal `tokenizers`."""
    model, normaliser = config["model"], config.get("normalizer")
    plain_bpe = model.get("type") == "BPE" and not any(
        model.get(key)
        for key in (
            "dropout",
            "unk_token",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "byte_fallback",
            "ignore_merges",
        )
    )
    return (
        plain_bpe and normaliser in (None, {"type": "NFC"}) and _split_was_searched(config.get("pre_tokenizer") or {})
    )


def _split_was_searched(pre_tokenizer: dict[str, Any]) -> bool:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [step.get("type") for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]) or steps[-1].get("add_prefix_space", True):
        return False
    own_pattern = steps[-1].get("use_regex", True)  # of GPT-2
    if len(steps) == 1:
        return bool(own_pattern)
    split = steps[0]
    searched = split.get("pattern", {}).get("Regex") in SEARCHED
    return searched and not own_pattern and split.get("behavior") == "Isolated" and not split.get("invert")


def plain_texts(texts: pa.Array) -> pa.Array:
    """`texts` as large_string without nulls (a null becomes an empty string), copied only where it is otherwise."""
    if texts.type != pa.large_string():
        texts = texts.cast(pa.large_string())
    return pc.fill_null(texts, "") if texts.null_count else texts


def _borrowed(texts: pa.Array) -> ak.Array:
    """The same buffers as an awkward array: gigatoken reads them without a Python object per document."""
    _, offsets, data = texts.buffers()
    spans = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    content = ak.contents.NumpyArray(letters, parameters={"__array__": "char"})
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(spans), content, parameters={"__array__": "string"}))


def _resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say (no /proc)."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * 4096
    except OSError:
        return 0


# ------------------------------------------------------------------------------------- one per process and tokenizer

_encoders: dict[bytes, Encoder] = {}


def encoder_of(tokenizer_json: bytes) -> Encoder:
    """The process's encoder for this tokenizer; the four used last are kept."""
    key = xxhash.xxh3_128_digest(tokenizer_json)
    found = _encoders.pop(key, None) or Encoder(tokenizer_json)
    _encoders[key] = found
    while len(_encoders) > 4:
        del _encoders[next(iter(_encoders))]
    return found


@lru_cache(maxsize=8)
def _read(path: str, _version: tuple[int, int]) -> bytes:
    with fsspec.open(path, "rb") as file:
        return bytes(file.read())


def tokenizer_bytes(path: str | None, stage: Stage) -> bytes:
    """The tokenizer.json at `path`, or the one in the stage's table "tokenizer" where there is no path."""
    if path is None:
        column = stage.table("tokenizer").column("tokenizer_json")
        if len(column) != 1 or column[0].as_py() is None:
            msg = f"stage '{stage.name}': table 'tokenizer' must hold one row with 'tokenizer_json', not {len(column)}"
            raise ValueError(msg)
        return bytes(column[0].as_py())
    local = Path(path)
    if "://" in path or not local.exists():
        return _read(path, (0, 0))
    found = local.stat()
    return _read(path, (found.st_size, found.st_mtime_ns))


def stage_encoder(path: str | None, stage: Stage) -> Encoder:
    """The encoder of a stage with a `path` setting."""
    return encoder_of(tokenizer_bytes(path, stage))
