"""What the token shards hold: documents and tokens per dataset, bucket and file, and where files may be cut.

A cut must fall between documents, but a list of all documents' lengths would be as large as the corpus's index. So
consecutive documents form blocks, at most `max_blocks` per file: the block size doubles whenever the file outgrows it.
A slice is then exact to half a block (1/8192 of a file), and a file costs at most 32 KiB here: 3.2 GB for 100,000
files, so lower `max_blocks` there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from pipeline.schema import BUCKET, NUM_TOKENS, field
from pipeline.stage import Fold

DATASET = field("dataset", pa.string(), "the dataset that was tokenized")
PATH = field("path", pa.string(), "token shard, relative to the run")
ROW = field("row", pa.int64(), "row of the document in its shard")
TOKEN_HASH = field("token_hash", pa.uint64(), "hash of the document's tokens")

SUPPLY = pa.schema(
    [
        DATASET,
        BUCKET,
        PATH,
        field("documents", pa.int64(), "rows of the shard"),
        field("tokens", pa.int64(), "tokens of the shard, end-of-document tokens included"),
        field("block_documents", pa.int64(), "consecutive rows per block, a power of two; the last block may be short"),
        field("block_tokens", pa.list_(pa.int64()), "tokens per block"),
        field("digest", pa.string(), "xxh3-64 over the documents' token hashes in order, 16 hex digits"),
    ]
)


class Blocks:
    """The blocks of one file, grown batch by batch. Memory: `max_blocks` integers."""

    def __init__(self, max_blocks: int) -> None:
        self.max_blocks = max_blocks
        self.documents = 0
        self.size = 1
        self._sums = np.zeros(max_blocks + max_blocks % 2, np.int64)  # even, so that pairs always merge
        self._hash = xxhash.xxh3_64()

    def add(self, num_tokens: np.ndarray, token_hashes: np.ndarray) -> None:
        """The next documents of the file."""
        end = self.documents + len(num_tokens)
        while end > self.size * self.max_blocks:
            pairs = self._sums.reshape(-1, 2).sum(axis=1)
            self._sums[:] = 0
            self._sums[: len(pairs)] = pairs
            self.size *= 2
        blocks = np.arange(self.documents, end) // self.size
        firsts = np.flatnonzero(np.diff(blocks, prepend=-1))
        self._sums[blocks[firsts]] += np.add.reduceat(num_tokens, firsts)
        self._hash.update(np.ascontiguousarray(token_hashes, "<u8").data)
        self.documents = end

    def tokens(self) -> np.ndarray:
        """int64[blocks]: tokens per block."""
        return self._sums[: -(-self.documents // self.size)]

    def digest(self) -> str:
        """Hash over all documents so far, 16 hex digits."""
        return str(self._hash.hexdigest())


class Supply(Fold):
    """Documents, tokens and block lengths of every token shard.

    Rows are the index that the token shard sink writes; each file's rows come from 0 upwards without a gap, and lie in
    one part. Files may interleave. Memory: 32 KiB per file of the part at the default `max_blocks`.
    """

    kind: ClassVar[str] = "supply"

    max_blocks: int = Field(default=4096, ge=2, le=1 << 20)

    def needs(self) -> tuple[pa.Field, ...]:
        return (DATASET, BUCKET, NUM_TOKENS, PATH, ROW, TOKEN_HASH)

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        files: dict[tuple[str, str, str], Blocks] = {}
        for batch in batches:
            if batch.num_rows:
                self._add(files, batch)
        columns = [
            pa.array([dataset for dataset, _, _ in files], pa.string()),
            pa.array([bucket for _, bucket, _ in files], pa.string()),
            pa.array([path for _, _, path in files], pa.string()),
            pa.array([blocks.documents for blocks in files.values()], pa.int64()),
            pa.array([int(blocks.tokens().sum()) for blocks in files.values()], pa.int64()),
            pa.array([blocks.size for blocks in files.values()], pa.int64()),
            pa.array([blocks.tokens() for blocks in files.values()], pa.list_(pa.int64())),
            pa.array([blocks.digest() for blocks in files.values()], pa.string()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SUPPLY)

    def _add(self, files: dict[tuple[str, str, str], Blocks], batch: pa.RecordBatch) -> None:
        """Route a batch's rows to their files: one step per file and batch, none per document."""
        num_tokens, rows, hashes = (batch.column(f.name).to_numpy() for f in (NUM_TOKENS, ROW, TOKEN_HASH))
        names = [batch.column(f.name).dictionary_encode() for f in (DATASET, BUCKET, PATH)]
        if any(name.null_count for name in names):
            msg = "supply: a row of the token index has no dataset, bucket or path"
            raise ValueError(msg)
        shape = tuple(max(len(name.dictionary), 1) for name in names)
        file_of_row = np.ravel_multi_index([name.indices.to_numpy() for name in names], shape)
        keys, file_of_row = np.unique(file_of_row, return_inverse=True)
        by_file = np.argsort(file_of_row, kind="stable")
        ends = np.cumsum(np.bincount(file_of_row, minlength=len(keys)))
        for key, mine in zip(keys, np.split(by_file, ends[:-1]), strict=True):
            code = np.unravel_index(key, shape)
            dataset, bucket, path = (name.dictionary[int(at)].as_py() for name, at in zip(names, code, strict=True))
            blocks = files.setdefault((dataset, bucket, path), Blocks(self.max_blocks))
            expected = np.arange(blocks.documents, blocks.documents + len(mine))
            wrong = np.flatnonzero(rows[mine] != expected)
            if len(wrong):
                msg = (f"supply: '{path}' (dataset '{dataset}', bucket '{bucket}') should go on with row {int(expected[wrong[0]])}, "
                       f"but the index has row {int(rows[mine[wrong[0]]])}")  # fmt: skip
                raise ValueError(msg)
            blocks.add(num_tokens[mine], hashes[mine])

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        table = pa.Table.from_batches(list(summaries), schema=SUPPLY)
        twice = sorted(path for path, times in Counter(table["path"].to_pylist()).items() if times > 1)
        if twice:
            msg = f"supply: {len(twice)} token shards are counted more than once, the first is '{twice[0]}'"
            raise ValueError(msg)
        return table.sort_by([(name, "ascending") for name in ("dataset", "bucket", "path")]).combine_chunks()
