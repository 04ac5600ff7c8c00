"""Writers of the two forms in which a phase's tokens leave: Megatron's `.bin/.idx` and Arrow.

Both take the same sequences, a block at a time, and hash what they write. A `.bin` is the bare token ids; the `.idx`
(peers.md, section e) is written at the end from the sequence lengths, the only thing held: 4 bytes a sequence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.schema import ID_TYPE, field
from pipeline.stage import RunFiles

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES: dict[int, np.dtype[Any]] = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
"""Codes of the token types that we write (Megatron's DType; there is no uint32)."""
UINT16_BELOW = 65_500
"""Vocabularies below this are stored as uint16 (Megatron's DType.optimal_dtype)."""

_STEP = 1 << 20  # sequences per piece of the .idx

SEQUENCES = pa.schema(
    [
        field("tokens", pa.large_list(pa.int32()), "one document, or one packed sequence padded with end-of-document"),
        field("documents", pa.list_(ID_TYPE), "the documents in it, in order"),
        field(
            "lengths", pa.list_(pa.int32()), "tokens of each of them here, its end-of-document included where it ends"
        ),
    ]
)
"""Columns of a phase's Arrow files."""


@dataclass(frozen=True)
class Sequences:
    """A block of sequences, each one document or several packed ones."""

    values: npt.NDArray[np.int32]  # int32[tokens]
    offsets: npt.NDArray[np.int64]  # int64[sequences + 1], from 0
    ids: npt.NDArray[np.uint8]  # uint8[pieces, 16]: the document of each piece
    lengths: npt.NDArray[np.int32]  # int32[pieces]
    pieces: npt.NDArray[np.int64]  # int64[sequences + 1]: where each sequence's pieces begin, from 0
    begun: int  # documents whose first piece is here


@dataclass(frozen=True)
class Written:
    """A finished file."""

    path: str
    format: str
    bytes: int
    checksum: str


class SequenceWriter(Protocol):
    """Something that takes blocks of sequences and ends in a file."""

    def append(self, block: Sequences) -> None: ...

    def close(self) -> Written: ...

    def abandon(self) -> None: ...


class HashedFile:
    """A file that knows how much was written to it and its XXH3-64. Enough of a file object for pyarrow."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.bytes = file, xxhash.xxh3_64(), 0

    def write(self, data: bytes | memoryview | pa.Buffer) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._file.write(view)
        self.bytes += len(view)
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.bytes

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self._file.close()

    @property
    def checksum(self) -> str:
        return self._hash.hexdigest()


def token_type(vocabulary: int) -> np.dtype[Any]:
    """How Megatron stores ids of this vocabulary."""
    return DTYPE_CODES[8 if vocabulary < UINT16_BELOW else 4]


class MegatronWriter:
    """`<prefix>.bin` and `<prefix>.idx`. Memory: 4 bytes a sequence, and one block."""

    def __init__(self, files: RunFiles, prefix: str, vocabulary: int) -> None:
        self._prefix, self._dtype = prefix, token_type(vocabulary)
        self._bin, self._idx = HashedFile(files.create(f"{prefix}.bin")), files.create(f"{prefix}.idx")
        self._lengths: list[npt.NDArray[np.int32]] = []

    def append(self, block: Sequences) -> None:
        self._bin.write(np.ascontiguousarray(block.values.astype(self._dtype, copy=False)).data)
        lengths = np.diff(block.offsets)
        if lengths.size and int(lengths.max()) > np.iinfo(np.int32).max:
            msg = f"{self._prefix}: a sequence of {lengths.max()} tokens; Megatron's limit is {np.iinfo(np.int32).max}"
            raise ValueError(msg)
        self._lengths.append(lengths.astype("<i4"))

    def close(self) -> Written:
        self._bin.close()
        lengths = np.concatenate([np.empty(0, "<i4"), *self._lengths])
        for piece in index_bytes(lengths, self._dtype):
            self._idx.write(piece)
        self._idx.close()
        return Written(f"{self._prefix}.bin", "megatron", self._bin.bytes, self._bin.checksum)

    def abandon(self) -> None:
        self._bin.close()
        self._idx.close()


def index_bytes(lengths: npt.NDArray[np.int32], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The content of an `.idx` with one document per sequence, in bounded pieces."""
    code = next(code for code, known in DTYPE_CODES.items() if known == dtype)
    yield MAGIC + struct.pack("<QBQQ", VERSION, code, len(lengths), len(lengths) + 1)
    yield lengths.tobytes()
    pointer = 0
    for at in range(0, len(lengths), _STEP):
        sizes = lengths[at : at + _STEP].astype(np.int64) * dtype.itemsize
        ends = pointer + np.cumsum(sizes, dtype=np.int64)
        yield (ends - sizes).astype("<i8").tobytes()
        pointer = int(ends[-1])
    for at in range(0, len(lengths) + 1, _STEP):
        yield np.arange(at, min(at + _STEP, len(lengths) + 1), dtype="<i8").tobytes()


class ArrowWriter:
    """`<path>`, an uncompressed Arrow file with the columns of SEQUENCES."""

    def __init__(self, files: RunFiles, path: str) -> None:
        self._path, self._file = path, HashedFile(files.create(path))
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), SEQUENCES)

    def append(self, block: Sequences) -> None:
        ids = pa.FixedSizeBinaryArray.from_buffers(ID_TYPE, len(block.ids), [None, pa.py_buffer(block.ids)])
        places = pa.array(block.pieces.astype(np.int32))
        columns = [
            pa.LargeListArray.from_arrays(pa.array(block.offsets), pa.array(block.values)),
            pa.ListArray.from_arrays(places, ids),
            pa.ListArray.from_arrays(places, pa.array(block.lengths)),
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SEQUENCES))

    def close(self) -> Written:
        self._writer.close()
        self._file.close()
        return Written(self._path, "arrow", self._file.bytes, self._file.checksum)

    def abandon(self) -> None:
        self._file.close()
