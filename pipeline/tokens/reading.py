"""Reading token files back: row ranges of token shards, and Megatron's `.idx` with every rule of the format checked.

Shards are read through memory-mapped record batches, so a range costs what it holds and nothing is copied.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.stage import RunFiles
from pipeline.tokens.megatron import DTYPE_CODES, MAGIC, VERSION

_HEADER = struct.Struct("<9sQBQQ")


@dataclass(frozen=True)
class Piece:
    """Rows `first_row` to `end_row` (excluded) of the token shard at `path`."""

    path: str
    first_row: int
    end_row: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class Block:
    """Consecutive documents of one record batch, as views of it."""

    values: npt.NDArray[np.int32]  # int32[tokens]
    offsets: npt.NDArray[np.int64]  # int64[documents + 1], from 0
    ids: npt.NDArray[np.uint8]  # uint8[documents, 16]


class ShardRows:
    """The documents of several pieces, as blocks that can be read in any order, any number of times.

    Memory: one entry per block (a record batch of about 16 MB); the tokens stay in the files. Where files are not
    memory-mapped (an object store), every access reads its record batch anew.
    """

    def __init__(self, files: RunFiles, pieces: Sequence[Piece]) -> None:
        self._readers: dict[str, Any] = {}
        self._places: list[tuple[str, int, int, int]] = []
        for piece in pieces:
            if piece.path not in self._readers:
                self._readers[piece.path] = pa.ipc.open_file(files.open(piece.path))
            before = len(self._places)
            self._places += self._find(piece)
            found = [self.block(at) for at in range(before, len(self._places))]
            documents = sum(len(block.ids) for block in found)
            tokens = sum(len(block.values) for block in found)
            if (documents, tokens) != (piece.documents, piece.tokens):
                msg = (
                    f"{piece.path} rows {piece.first_row} to {piece.end_row}: expected {piece.documents} documents with "
                    f"{piece.tokens} tokens, found {documents} with {tokens}; the slice was made for other shards"
                )
                raise ValueError(msg)

    def _find(self, piece: Piece) -> Iterator[tuple[str, int, int, int]]:
        reader, row = self._readers[piece.path], 0
        for number in range(reader.num_record_batches):
            rows = reader.get_batch(number).num_rows
            first, end = max(piece.first_row - row, 0), min(piece.end_row - row, rows)
            if first < end:
                yield piece.path, number, first, end
            row += rows

    def __len__(self) -> int:
        return len(self._places)

    def path(self, at: int) -> str:
        """The shard in which block `at` lies."""
        return self._places[at][0]

    def block(self, at: int) -> Block:
        """The documents of block `at`."""
        path, number, first, end = self._places[at]
        rows = self._readers[path].get_batch(number).slice(first, end - first)
        tokens, ids = rows.column("tokens"), rows.column("id")
        bounds = np.frombuffer(tokens.buffers()[1], np.int64)[tokens.offset : tokens.offset + len(tokens) + 1]
        values = tokens.values.slice(bounds[0], bounds[-1] - bounds[0]).to_numpy()
        letters = np.frombuffer(ids.buffers()[1], np.uint8)[ids.offset * 16 : (ids.offset + len(ids)) * 16]
        return Block(values, bounds - bounds[0], letters.reshape(-1, 16))

    def __iter__(self) -> Iterator[Block]:
        return (self.block(at) for at in range(len(self)))


@dataclass(frozen=True)
class MegatronIndex:
    """What an `.idx` says."""

    dtype: np.dtype[Any]
    lengths: npt.NDArray[np.int32]
    pointers: npt.NDArray[np.int64]
    document_indices: npt.NDArray[np.int64]


def idx_lengths(path: str | os.PathLike[str]) -> MegatronIndex:
    """Read `<prefix>.idx` from a local disk and hold it, and the size of its `.bin`, to the format.

    Raises ValueError that names the file, what was expected and what was found.
    """
    path = os.fspath(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or header[:9] != MAGIC:
            msg = f"{path}: not a Megatron index: expected {MAGIC!r} first, found {header[:9]!r}"
            raise ValueError(msg)
        _, version, code, sequences, documents = _HEADER.unpack(header)
        _expect(path, "version", VERSION, version)
        if code not in DTYPE_CODES:
            msg = f"{path}: token type code {code}, expected one of {sorted(DTYPE_CODES)}"
            raise ValueError(msg)
        _expect(path, "size in bytes", _HEADER.size + 12 * sequences + 8 * documents, size)
        lengths = np.fromfile(file, "<i4", sequences)
        pointers = np.fromfile(file, "<i8", sequences)
        indices = np.fromfile(file, "<i8", documents)
    dtype = DTYPE_CODES[code]
    ends = np.cumsum(lengths, dtype=np.int64) * dtype.itemsize
    if sequences and int(lengths.min()) < 1:
        msg = f"{path}: sequence {int(np.argmin(lengths))} has {lengths.min()} tokens, expected one at least"
        raise ValueError(msg)
    if not np.array_equal(pointers, ends - lengths.astype(np.int64) * dtype.itemsize):
        msg = f"{path}: pointers are not the running sum of lengths in bytes"
        raise ValueError(msg)
    if not (documents and indices[0] == 0 and indices[-1] == sequences and (np.diff(indices) >= 0).all()):
        msg = f"{path}: document indices must ascend from 0 to {sequences}, found {indices[:1]} to {indices[-1:]}"
        raise ValueError(msg)
    data = path.removesuffix(".idx") + ".bin"
    _expect(data, "size in bytes", int(ends[-1]) if sequences else 0, os.path.getsize(data))
    return MegatronIndex(dtype, lengths, pointers, indices)


def _expect(path: str, what: str, expected: int, found: int) -> None:
    if expected != found:
        msg = f"{path}: {what} is {found}, expected {expected}"
        raise ValueError(msg)


def digest_of(path: str | os.PathLike[str]) -> str:
    """XXH3-64 of a local file, as `phase_shards` writes it into `checksum`."""
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
