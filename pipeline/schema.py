"""The columns that documents carry from stage to stage, as Arrow fields with unit and meaning.

Text columns have 64-bit offsets everywhere (`large_string`), so that a batch may hold more than 2 GiB. Columns with
few distinct values (`language`, `bucket`, `licence`) are plain `string` in memory: every batch would otherwise bring
a dictionary of its own, which Arrow's file format refuses and every kernel would have to unify. Parquet
dictionary-encodes them on disk all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import xxhash

ID_TYPE = pa.binary(16)
"""xxh3-128 digest, big endian; shown as 32 hex digits."""


def field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    """An Arrow field that says what it holds: the meaning travels in the schema's metadata."""
    return pa.field(name, kind, metadata={"meaning": meaning})


ID = field("id", ID_TYPE, "xxh3-128 of where the document came from, never of its text")
ORIGIN = field("origin", pa.large_string(), "that place, readable: URL, repository@commit:path, file#record")
TEXT = field("text", pa.large_string(), "the document, UTF-8")
LANGUAGE = field("language", pa.string(), "BCP-47, or the programming language for code; null when unknown")
LANGUAGE_CONFIDENCE = field("language_confidence", pa.float32(), "probability of `language`, 0..1")
LICENCE = field("licence", pa.string(), "SPDX id, `public-domain`, or null when unknown")
CREATED = field("created", pa.timestamp("s", tz="UTC"), "crawl, publication or commit time; null when unknown")
PARENT_ID = field("parent_id", ID_TYPE, "the document that an Expand made this one from")
PARENT_IDS = field(
    "parent_ids", pa.list_(ID_TYPE), "all documents joined into this one, in order (a repository's files)"
)

HTML = field("html", pa.large_binary(), "the page as it was captured, undecoded")
CONTENT_TYPE = field("content_type", pa.string(), "media type and charset that the server named")
REPOSITORY = field("repository", pa.string(), "repository name, unique within the dataset")
PATH = field("path", pa.large_string(), "path within the repository, `/` between folders")

QUALITY_RANK = field("quality_rank", pa.uint8(), "percentile rank of the ensemble, 0 (worst) to 19")
BUCKET = field("bucket", pa.string(), "the level, tier or class that the curriculum weighs")

SPECIALS = field(
    "specials",
    pa.list_(pa.struct([pa.field("at", pa.int64()), pa.field("token", pa.string())])),
    "special tokens that this document is meant to hold: each stands before byte `at` of `text`, ascending; "
    "text itself never holds one (what spells one there is ordinary text)",
)

TOKENS = field("tokens", pa.large_list(pa.int32()), "token ids, end-of-document token last")
NUM_TOKENS = field("num_tokens", pa.int64(), "length of `tokens`")
NUM_CHARS = field("num_chars", pa.int64(), "Unicode code points of `text`")
SHUFFLE_KEY = field("shuffle_key", pa.uint64(), "hash of (seed, id): the order in which shards hold documents")

GROUP_FIRST = field("group_first", ID_TYPE, "lowest id among the rows that share the exchange key")
GROUP_SIZE = field("group_size", pa.int64(), "number of rows that share the exchange key")

KEEPER_ID = field("keeper_id", ID_TYPE, "the document of this duplicate cluster that is kept")
CLUSTER_ID = field("cluster_id", ID_TYPE, "lowest id of the duplicate cluster")
CLUSTER_SIZE = field("cluster_size", pa.int64(), "documents in the duplicate cluster, the keeper included")
SIMILARITY = field(
    "similarity", pa.float32(), "similarity to the keeper, 0..1: 1 for equal text, else estimated Jaccard"
)
METHOD = field("method", pa.string(), "how the duplicate was found: exact, minhash")

EVIDENCE = (KEEPER_ID, CLUSTER_ID, CLUSTER_SIZE, METHOD, SIMILARITY)
"""Columns that a Filter may name in `evidence`; a drop keeps them, which is where the catalog's `duplicates` come from."""

DROPS = pa.schema(
    [
        field("id", ID_TYPE, "the dropped document"),
        field("origin", pa.large_string(), "where it came from"),
        field("stage", pa.string(), "name of the step that dropped it"),
        field("reason", pa.string(), "the defect, in words"),
        field("chars", pa.int64(), "code points of its text (bytes for html); null where there was none"),
        field("language", pa.string(), "language, where it was known by then"),
        field("text", pa.large_string(), "text of a seeded sample of the drops, else null"),
        *EVIDENCE,
    ]
)


def score_field(name: str) -> pa.Field:
    """The column of the scorer called `name`: float32, higher is better."""
    return field(f"score_{name}", pa.float32(), f"score of the scorer `{name}`, higher is better")


def document_id(*place: str) -> bytes:
    """The id of the document that came from `place` (URL and capture time; repository, commit, path; file, record).

    Parts are joined with NUL, which none of them may hold, so that ("ab", "c") and ("a", "bc") differ.
    """
    return xxhash.xxh3_128_digest("\0".join(part.replace("\0", "") for part in place).encode("utf-8", "surrogatepass"))


def child_id(parent: bytes, stage: str, ordinal: int) -> bytes:
    """The id of the `ordinal`-th child that `stage` made of `parent`."""
    return xxhash.xxh3_128_digest(parent + stage.encode() + b"\0" + ordinal.to_bytes(8, "big"))


def schema_of(fields: Iterable[pa.Field]) -> pa.Schema:
    """A schema whose fields are in order and unique by name; a later field replaces an earlier one of its name."""
    by_name: dict[str, pa.Field] = {}
    for one in fields:
        by_name[one.name] = one
    return pa.schema(list(by_name.values()))
