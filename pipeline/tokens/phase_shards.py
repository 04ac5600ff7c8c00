"""One slice of a bucket, written for one phase: documents as they are, or best-fit packed into whole sequences.

`concatenate` streams documents through, each one sequence that ends in the end-of-document token; the trainer joins and
cuts them. `best_fit` cuts only documents longer than the phase's sequence, packs the pieces into bins of exactly that
length (Ding et al., arXiv:2404.10830) and pads with end-of-document, which the trainer's loss mask covers; padding was
0.0003 % on 10 million log-normal lengths. Bins stand in hashed order and their pieces in shard order, since best fit
opens bins from the longest piece to the shortest, and a reader in file order must not meet them so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import model_validator

from pipeline.kernels.best_fit import best_fit, fitting_prefix
from pipeline.kernels.gather import copy_spans
from pipeline.schema import BUCKET, ID_TYPE, field
from pipeline.stage import RunFiles, Sink, random_keys
from pipeline.tokens.megatron import ArrowWriter, MegatronWriter, Sequences, SequenceWriter, Written
from pipeline.tokens.reading import Piece, ShardRows
from pipeline.tokens.shards import DATASET, file_name
from pipeline.tokens.tokenize import END_OF_DOCUMENT
from pipeline.tokens.tokenizer import stage_encoder

WINDOW_TOKENS = 4 << 20  # packed tokens that are gathered at a time: 16 MB

PHASE = field("phase", pa.string(), "the curriculum's phase")
PHASE_INDEX = field("phase_index", pa.int32(), "its place in the curriculum, from 0")
SLICE = field("slice", pa.string(), "which fraction of the bucket, as `first-last`")
READS = field("reads", pa.int32(), "how many times the trainer reads it, a whole number")
PACKING = field("packing", pa.string(), "concatenate or best_fit")
SEQUENCE_LENGTH = field("sequence_length", pa.int64(), "tokens of a training sequence")

SLICES = pa.schema(
    [
        *(PHASE, PHASE_INDEX, DATASET, BUCKET, SLICE, READS, PACKING, SEQUENCE_LENGTH),
        field("sequences", pa.int64(), "best_fit: bins to write; null for concatenate"),
        field("tokens_planned", pa.int64(), "tokens per read"),
        field(
            "pieces",
            pa.list_(
                pa.struct(
                    [
                        pa.field("path", pa.string()),
                        *(pa.field(name, pa.int64()) for name in ("first_row", "end_row", "documents", "tokens")),
                    ]
                )
            ),
            "row ranges of token shards, in order",
        ),
        field("digest", pa.string(), "8 hex digits of the slice's content, for the file name"),
    ]
)
"""Columns that each arriving row has: one slice to write."""

PREFIXES = pa.schema(
    [
        *(PHASE, PHASE_INDEX, DATASET, BUCKET, SLICE),
        field("path", pa.string(), "the file, relative to the run's folder (of megatron's pair the .bin)"),
        field("format", pa.string(), "megatron or arrow"),
        field(
            "sequences",
            pa.int64(),
            "documents, or packed sequences; fewer than asked for when the slice has too little",
        ),
        field("tokens", pa.int64(), "tokens in the file, padding included"),
        field("document_tokens", pa.int64(), "tokens in the file, padding left out"),
        field("documents", pa.int64(), "documents of which the file holds a piece"),
        field("bytes", pa.int64(), "size of the file"),
        field("checksum", pa.string(), "XXH3-64 of the file"),
        *(READS, SEQUENCE_LENGTH, PACKING),
    ]
)
"""Columns of the rows that describe the files: two rows per slice, megatron before arrow."""

_DIGEST = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class Slice:
    """One row of SLICES, checked."""

    phase: str
    phase_index: int
    dataset: str
    bucket: str
    slice: str
    reads: int
    packing: Literal["concatenate", "best_fit"]
    sequence_length: int
    sequences: int | None
    pieces: list[Piece]
    digest: str

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Slice:
        pieces = [Piece(**piece) for piece in row["pieces"]]
        job = cls(**{name: row[name] for name in cls.__dataclass_fields__ if name != "pieces"}, pieces=pieces)
        for what in ("phase", "dataset", "bucket", "slice"):
            file_name(str(getattr(job, what)), what)
        if not _DIGEST.fullmatch(str(job.digest)):
            msg = f"slice {job.name}: digest must be 8 hex digits"
            raise ValueError(msg)
        if job.packing not in ("concatenate", "best_fit"):
            msg = f"slice {job.name}: packing is {job.packing!r}, legal are 'concatenate' and 'best_fit'"
            raise ValueError(msg)
        if job.sequence_length < 1 or (job.sequences or 0) < 0:
            msg = f"slice {job.name}: sequence_length {job.sequence_length} and sequences {job.sequences} make no sense"
            raise ValueError(msg)
        return job

    @property
    def name(self) -> str:
        """File name without its ending. It begins with the dataset's name and holds three `-`: never a number, which
        Megatron would take for a weight."""
        return f"{self.dataset}-{self.bucket}-{self.slice}-{self.digest}"


class PhaseShards(Sink):
    """Writes `megatron/<phase>/<name>.bin/.idx` and `arrow/<phase>/<name>.arrow` for every arriving slice.

    Memory: for `concatenate` one record batch of a shard and 4 bytes a document; for `best_fit` about 80 bytes a
    document while packing, and 16 MB of packed tokens.
    """

    kind = "phase_shards"
    seeded = True

    arrow: bool = True
    megatron: bool = True
    path: str | None = None
    """The tokenizer's tokenizer.json; null takes table "tokenizer". It says the vocabulary's size and the token below."""
    end_of_document: str = END_OF_DOCUMENT

    @model_validator(mode="after")
    def _writes_something(self) -> PhaseShards:
        if not (self.arrow or self.megatron):
            msg = "phase_shards writes nothing with both arrow and megatron false"
            raise ValueError(msg)
        return self

    def needs(self) -> tuple[pa.Field, ...]:
        return tuple(SLICES)

    def files(self) -> tuple[str, ...]:
        return () if self.path is None else (self.path,)

    def output(self) -> pa.Schema:
        return PREFIXES

    def write(self, batches: Iterator[pa.RecordBatch], files: RunFiles, part: int) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():  # a few slices, never documents
                yield self._written(Slice.from_row(row), files)

    def _written(self, job: Slice, files: RunFiles) -> pa.RecordBatch:
        encoder = stage_encoder(self.path, self)
        end = encoder.special_id(self.end_of_document)
        rows = ShardRows(files, job.pieces)
        blocks = concatenated(rows, end) if job.packing == "concatenate" else packed(rows, job, end, self.seed)
        writers: list[SequenceWriter] = []
        totals = _Totals()
        try:
            if self.megatron:
                writers.append(MegatronWriter(files, f"megatron/{job.phase}/{job.name}", encoder.vocabulary))
            if self.arrow:
                writers.append(ArrowWriter(files, f"arrow/{job.phase}/{job.name}.arrow"))
            for block in blocks:
                _check_tokens(block, encoder.vocabulary, job)
                totals.add(block)
                for writer in writers:
                    writer.append(block)
        except BaseException:
            for writer in writers:
                writer.abandon()
            raise
        described = [_description(job, totals, writer.close()) for writer in writers]
        return pa.RecordBatch.from_pylist(described, schema=PREFIXES)


class _Totals:
    """Sums over blocks."""

    def __init__(self) -> None:
        self.sequences = self.tokens = self.document_tokens = self.documents = 0

    def add(self, block: Sequences) -> None:
        self.sequences += len(block.offsets) - 1
        self.tokens += len(block.values)
        self.document_tokens += int(block.lengths.sum(dtype=np.int64))
        self.documents += block.begun


def _description(job: Slice, totals: _Totals, file: Written) -> dict[str, Any]:
    own = {name: getattr(job, name) for name in ("phase", "phase_index", "dataset", "bucket", "slice")}
    more = {name: getattr(job, name) for name in ("reads", "sequence_length", "packing")}
    return {**own, **more, **vars(totals), **vars(file)}


def _check_tokens(block: Sequences, vocabulary: int, job: Slice) -> None:
    if block.values.size and not 0 <= int(block.values.min()) <= int(block.values.max()) < vocabulary:
        msg = f"slice {job.name}: token ids {block.values.min()}..{block.values.max()} leave the vocabulary of {vocabulary}"
        raise ValueError(msg)


def concatenated(rows: ShardRows, end: int) -> Iterator[Sequences]:
    """Every document a sequence of its own. Raises where one does not end in `end`."""
    for at, block in enumerate(rows):
        _check_ends(rows, at, block.values, block.offsets, end)
        count = len(block.ids)
        lengths = np.diff(block.offsets).astype(np.int32)
        yield Sequences(block.values, block.offsets, block.ids, lengths, np.arange(count + 1), count)


def _check_ends(
    rows: ShardRows, at: int, values: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], end: int
) -> None:
    empty = np.flatnonzero(np.diff(offsets) == 0)
    wrong = empty if empty.size else np.flatnonzero(values[offsets[1:] - 1] != end)
    if wrong.size:
        msg = f"{rows.path(at)}: document {wrong[0]} of block {at} does not end in the end-of-document token {end}"
        raise ValueError(msg)


@dataclass(frozen=True)
class Chunks:
    """All pieces of at most one sequence that the documents of a slice are cut into, in shard order."""

    lengths: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]  # in the slice's stream of tokens
    documents: npt.NDArray[np.int64]  # ordinal in the slice


def cut(document_lengths: npt.NDArray[np.int64], longest: int) -> Chunks:
    """Documents longer than `longest` in pieces of `longest` and a rest; the others whole."""
    counts = (document_lengths + longest - 1) // longest
    lengths = np.full(int(counts.sum()), longest, np.int32)
    lengths[np.cumsum(counts) - 1] = document_lengths - (counts - 1) * longest
    starts = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=starts[1:])
    return Chunks(lengths, starts, np.repeat(np.arange(len(document_lengths)), counts))


def bins_of(lengths: npt.NDArray[np.int32], capacity: int, bins: int | None, seed: int) -> npt.NDArray[np.int64]:
    """The bin of each of the first chunks, as many as go into exactly `bins` bins (all when null or when they need fewer).

    Bins are numbered in an order hashed from their first chunk's ordinal.
    """
    count = len(lengths) if bins is None else fitting_prefix(lengths, capacity, bins)
    bin_of = best_fit(lengths[:count], capacity)
    made = int(bin_of.max(initial=-1)) + 1
    if bins is not None and made < bins:  # the next chunk alone opens two bins: give each a bin of its own instead
        alone = min(bins - made, len(lengths) - count)
        bin_of = np.concatenate([bin_of, np.arange(made, made + alone)])
        made += alone
    first = np.empty(made, np.int64)
    first[bin_of[::-1]] = np.arange(len(bin_of))[::-1]  # the lowest ordinal is assigned last
    ordinals = np.zeros((made, 2), "<i8")
    ordinals[:, 0] = first
    ids = pa.FixedSizeBinaryArray.from_buffers(ID_TYPE, made, [None, pa.py_buffer(ordinals)])
    place = np.empty(made, np.int64)
    place[np.argsort(random_keys(ids, seed, "bin_order"), kind="stable")] = np.arange(made)
    return place[bin_of]


def packed(rows: ShardRows, job: Slice, end: int, seed: int) -> Iterator[Sequences]:
    """The slice's documents in bins of exactly `sequence_length` tokens, a window of bins at a time."""
    size = job.sequence_length
    token_starts, document_starts = np.zeros(len(rows) + 1, np.int64), np.zeros(len(rows) + 1, np.int64)
    document_lengths = [np.empty(0, np.int64)]
    for at, block in enumerate(rows):
        _check_ends(rows, at, block.values, block.offsets, end)
        document_lengths.append(np.diff(block.offsets))
        token_starts[at + 1] = token_starts[at] + len(block.values)
        document_starts[at + 1] = document_starts[at] + len(block.ids)
    chunks = cut(np.concatenate(document_lengths), size)
    bin_of = bins_of(chunks.lengths, size, job.sequences, seed)
    order = np.argsort(bin_of, kind="stable")  # by bin, and in a bin in shard order
    bounds = np.concatenate([[0], np.cumsum(np.bincount(bin_of))]).astype(np.int64)
    for first in range(0, len(bounds) - 1, window := max(1, WINDOW_TOKENS // size)):
        last = min(first + window, len(bounds) - 1)
        mine, pieces = order[bounds[first] : bounds[last]], bounds[first : last + 1] - bounds[first]
        lengths = chunks.lengths[mine]
        filled = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        bins = np.repeat(np.arange(last - first), np.diff(pieces))
        places = bins * size + filled[:-1] - filled[pieces[bins]]
        values = np.full((last - first) * size, end, np.int32)
        ids = np.empty((len(mine), 16), np.uint8)
        source = np.searchsorted(token_starts, chunks.starts[mine], side="right") - 1
        for at in np.unique(source):
            here, block = source == at, rows.block(int(at))
            starts = chunks.starts[mine[here]] - token_starts[at]
            copy_spans(block.values, starts, lengths[here].astype(np.int64), places[here], values)
            ids[here] = block.ids[chunks.documents[mine[here]] - document_starts[at]]
        begun = mine == 0
        begun |= chunks.documents[mine] != chunks.documents[np.maximum(mine - 1, 0)]
        yield Sequences(values, np.arange(last - first + 1) * size, ids, lengths, pieces, int(begun.sum()))
