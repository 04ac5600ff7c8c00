"""Token shards: one uncompressed Arrow file per bucket and part, rows in shuffled order, read memory-mapped.

Rows are cut into chunks of 4 million tokens by their sequence alone, and each chunk gives one record batch to every
bucket that it holds; the bytes of a shard therefore do not depend on how rows arrive, and no more than one chunk is in
memory however many buckets there are. Splitting and writing three buckets: 340 MB/s of CPU time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from pipeline.schema import BUCKET, ID, LANGUAGE, NUM_CHARS, NUM_TOKENS, ORIGIN, SHUFFLE_KEY, TOKENS, field
from pipeline.stage import RunFiles, Sink
from pipeline.tokens.tokenize import SCORE, TOKEN_HASH

CHUNK_TOKENS = 4 << 20  # 16 MB of int32
CHUNK_ROWS = 1 << 16

DATASET = field("dataset", pa.string(), "the dataset's name in the recipe")
SHARD_PATH = field("path", pa.string(), "token shard that holds the document, relative to the run's folder")
SHARD_ROW = field("row", pa.int64(), "ordinal of the document within its shard")

SHARD = pa.schema([ID, TOKENS])
"""Columns of a token shard."""

INDEX = pa.schema(
    [
        *(ID, DATASET, ORIGIN, LANGUAGE, BUCKET, NUM_CHARS, NUM_TOKENS, SCORE, SHUFFLE_KEY, TOKEN_HASH),
        *(SHARD_PATH, SHARD_ROW),
    ]
)
"""Columns of the rows that describe a shard's documents."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def file_name(word: str, what: str) -> str:
    """`word`, if it is safe as a part of a file name; `what` says in the error what it names."""
    if not _NAME.fullmatch(word):
        msg = f"{what} {word!r} must be letters, digits, '_', '.' and '-', and not begin with '.': it names files"
        raise ValueError(msg)
    return word


class TokenShards(Sink):
    """Writes `tokens/<dataset>/<bucket>/part-<nnnnn>.arrow` and yields one row per document.

    Rows must arrive in the order in which shards are to hold them (shuffle_key, id). Memory: one chunk of 4 Mi tokens
    (or one longer document) twice, and the arriving batch.
    """

    kind = "token_shards"

    dataset: str

    @field_validator("dataset")
    @classmethod
    def _names_files(cls, value: str) -> str:
        return file_name(value, "dataset")

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, ORIGIN, LANGUAGE, BUCKET, NUM_CHARS, NUM_TOKENS, SCORE, SHUFFLE_KEY, TOKENS, TOKEN_HASH)

    def output(self) -> pa.Schema:
        return INDEX

    def write(self, batches: Iterator[pa.RecordBatch], files: RunFiles, part: int) -> Iterator[pa.RecordBatch]:
        shards: dict[str, _Shard] = {}
        try:
            for chunk in chunks(batches):
                yield self._written(chunk, shards, files, part)
        finally:
            for shard in shards.values():
                shard.close()

    def _written(self, chunk: pa.Table, shards: dict[str, _Shard], files: RunFiles, part: int) -> pa.RecordBatch:
        """Append the chunk's rows to their shards; the rows that describe them."""
        coded = pc.dictionary_encode(chunk.column("bucket").combine_chunks(), null_encoding="encode")
        codes = coded.indices.to_numpy()
        rows = np.empty(chunk.num_rows, np.int64)
        paths: list[str] = []
        for code, bucket in enumerate(coded.dictionary.to_pylist()):
            if bucket not in shards:
                path = f"tokens/{self.dataset}/{file_name(str(bucket), 'bucket')}/part-{part:05d}.arrow"
                shards[bucket] = _Shard(path, files.create(path))
            mine = np.flatnonzero(codes == code)
            rows[mine] = shards[bucket].append(chunk.take(mine))
            paths.append(shards[bucket].path)
        described = {
            "dataset": pa.repeat(pa.scalar(self.dataset), chunk.num_rows),
            "path": pa.array(paths, pa.string()).take(coded.indices),
            "row": pa.array(rows),
        }
        columns = [described[f.name] if f.name in described else _whole(chunk, f) for f in INDEX]
        return pa.RecordBatch.from_arrays(columns, schema=INDEX)


class _Shard:
    """An Arrow file under construction."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path, self._file, self._rows = path, file, 0
        self._writer = pa.ipc.new_file(file, SHARD)

    def append(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """The ordinals that `rows` got."""
        batch = pa.RecordBatch.from_arrays([_whole(rows, f) for f in SHARD], schema=SHARD)
        self._writer.write_batch(batch)
        self._rows += len(batch)
        return np.arange(self._rows - len(batch), self._rows)

    def close(self) -> None:
        self._writer.close()
        self._file.close()


def _whole(table: pa.Table, wanted: pa.Field) -> pa.Array:
    found = table.column(wanted.name).combine_chunks()
    return found if found.type == wanted.type else found.cast(wanted.type)


def chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows cut anew, by their own sequence: as many as make CHUNK_TOKENS or CHUNK_ROWS, one at least."""
    waiting: list[pa.Table] = []
    rows, tokens = 0, 0
    for batch in batches:
        table, at = pa.Table.from_batches([batch]), 0
        filled = np.cumsum(batch.column("num_tokens").to_numpy(), dtype=np.int64)
        while at < table.num_rows:
            done = int(filled[at - 1]) if at else 0
            count = int(np.searchsorted(filled[at:] - done, CHUNK_TOKENS - tokens, side="right"))
            count = max(min(count, CHUNK_ROWS - rows), 0 if rows else 1)
            if count:
                waiting.append(table.slice(at, count))
                rows, tokens = rows + count, tokens + int(filled[at + count - 1]) - done
                at += count
            if at < table.num_rows or rows >= CHUNK_ROWS or tokens >= CHUNK_TOKENS:
                yield pa.concat_tables(waiting)
                waiting, rows, tokens = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)
