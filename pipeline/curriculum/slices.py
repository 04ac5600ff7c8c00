"""Slices: the pieces of token shards that each phase reads, every one a whole number of times.

`solution` says how many tokens, `supply` where files may be cut, `schedule` which stretch of the circle; here
stretches become rows of files. A trainer shuffles the epochs of a prefix jointly, so a slice read 1.9 times would
show some documents twice and others never: hence `reads` is whole, and 1.9 is two slices.

What a phase gets against its budget: with `concatenate`, half a block of its finest bucket more or less (a block is a
document, or 1/2048 to 1/4096 of a file with more documents than that); with `best_fit`, half a sequence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from pipeline.curriculum.schedule import Circle, Draw, Stretch, draw, end_of, ends, packed_stretches, stretches
from pipeline.curriculum.solver import whole_parts
from pipeline.schema import field
from pipeline.stage import Fold

PIECE = pa.struct(
    [
        field("path", pa.string(), "token shard, relative to the run"),
        field("first_row", pa.int64(), "first row of the piece"),
        field("end_row", pa.int64(), "row after its last one"),
        field("documents", pa.int64(), "rows of the piece"),
        field("tokens", pa.int64(), "tokens of the piece"),
    ]
)

SLICES = pa.schema(
    [
        field("phase", pa.string(), "phase of the curriculum"),
        field("phase_index", pa.int32(), "place of the phase, from 0"),
        field("dataset", pa.string(), "dataset that the phase mixes"),
        field("bucket", pa.string(), "bucket of the dataset"),
        field(
            "slice",
            pa.string(),
            "stretch of the bucket's circle, as fractions of its tokens; wraps where the end is not larger",
        ),
        field("reads", pa.int32(), "times that the phase reads the slice"),
        field("packing", pa.string(), "concatenate or best_fit"),
        field("sequence_length", pa.int64(), "tokens per training sequence"),
        field("sequences", pa.int64(), "packed sequences to write; null where documents are concatenated"),
        field("tokens_planned", pa.int64(), "tokens that one read should bring"),
        field("tokens", pa.int64(), "tokens of the pieces"),
        field("documents", pa.int64(), "documents of the pieces"),
        field("pieces", pa.list_(PIECE), "rows of token shards, in order"),
        field("digest", pa.string(), "8 hex digits over the pieces, their shards' digests, and how they are packed"),
    ]
)

Key = tuple[str, str]
"""Dataset and bucket."""


@dataclass(frozen=True)
class Shelf:
    """A bucket's files in path order and the circle of their blocks. `firsts` is int64[files + 1]: blocks before each."""

    files: list[dict[str, Any]]
    firsts: np.ndarray
    circle: Circle

    def pieces(self, stretch: Stretch) -> list[dict[str, Any]]:
        """Rows of files that the stretch covers, in order; neighbouring blocks of a file are one piece."""
        blocks = self.circle.blocks
        start = stretch.start % blocks
        end = start + stretch.end - stretch.start
        spans = [(start, min(end, blocks)), (0, end - blocks)]
        return [piece for first, last in spans if first < last for piece in self._span(first, last)]

    def _span(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        at = int(np.searchsorted(self.firsts, start, side="right")) - 1
        while start < end:
            file, first = self.files[at], int(self.firsts[at])
            stop = min(end, int(self.firsts[at + 1]))
            row = (start - first) * file["block_documents"]
            end_row = min((stop - first) * file["block_documents"], file["documents"])
            yield {"path": file["path"], "first_row": row, "end_row": end_row, "documents": end_row - row,
                   "tokens": int(self.circle.edges[stop] - self.circle.edges[start])}  # fmt: skip
            start, at = stop, at + 1

    def digests(self) -> dict[str, str]:
        """Digest of each file."""
        return {file["path"]: file["digest"] for file in self.files}


def shelves(supply: pa.Table) -> dict[Key, Shelf]:
    """The files of every bucket that holds tokens, in path order."""
    per_bucket: dict[Key, list[tuple[dict[str, Any], np.ndarray]]] = defaultdict(list)
    blocks = supply["block_tokens"]
    for at, file in enumerate(supply.drop_columns(["block_tokens"]).to_pylist()):
        if file["documents"] > 0:
            tokens = blocks[at].values.to_numpy()
            per_bucket[file["dataset"], file["bucket"]].append((file, tokens))
    found = {}
    for key, files in per_bucket.items():
        files.sort(key=lambda one: one[0]["path"])
        circle = Circle.of(np.concatenate([tokens for _, tokens in files]))
        firsts = np.concatenate([[0], np.cumsum([len(tokens) for _, tokens in files])])
        if circle.tokens > 0:
            found[key] = Shelf([file for file, _ in files], firsts, circle)
    return found


def slices(supply: pa.Table, solution: pa.Table, margin: float) -> pa.Table:
    """The slices of every phase, in the order of the solution."""
    shelf_of = shelves(supply)
    rows = sorted(solution.to_pylist(), key=lambda row: row["phase_index"])
    phases = [list(group) for _, group in groupby(rows, key=lambda row: row["phase_index"])]
    planned: dict[Key, list[int]] = defaultdict(lambda: [0] * len(phases))
    for at, phase in enumerate(phases):
        for row in phase:
            planned[row["dataset"], row["bucket"]][at] = row["tokens_planned"]
    cursors = dict.fromkeys(planned, 0)
    found: list[dict[str, Any]] = []
    for at, phase in enumerate(phases):
        keys = [(row["dataset"], row["bucket"]) for row in phase]
        draws = [draw(shelf_of[key].circle, cursors[key], planned[key], at) for key in keys]
        if phase[0]["packing"] == "best_fit":
            taken = packed(draws, [sum(planned[key][at + 1 :]) for key in keys], phase, margin)
        else:
            taken = [stretches(one.circle, one.cursor, end) for one, end in zip(draws, ends(draws), strict=True)]
        for key, row, mine in zip(keys, phase, taken, strict=True):
            found += described(shelf_of[key], row, mine)
            cursors[key] = end_of(shelf_of[key].circle, cursors[key], mine)
    return pa.Table.from_pylist(found, schema=SLICES)


def packed(
    draws: Sequence[Draw], later: Sequence[int], phase: Sequence[Mapping[str, Any]], margin: float
) -> list[list[Stretch]]:
    """Whole sequences for a best-fit phase, shared out over its datasets and then over their buckets."""
    length = phase[0]["sequence_length"]
    budget = sum(row["tokens_planned"] for row in phase)
    per_row: list[int] = []
    datasets = [[row["tokens_planned"] for row in group] for _, group in groupby(phase, key=lambda row: row["dataset"])]
    shares = whole_parts([sum(tokens) for tokens in datasets], max(1, round(budget / length)))
    for tokens, sequences in zip(datasets, shares, strict=True):
        per_row += whole_parts(tokens, sequences)
    return [
        packed_stretches(one, sequences, length, margin, rest) if sequences else []
        for one, sequences, rest in zip(draws, per_row, later, strict=True)
    ]


def described(shelf: Shelf, row: Mapping[str, Any], taken: Sequence[Stretch]) -> list[dict[str, Any]]:
    """Rows of the `slices` table for one bucket in one phase."""
    length = shelf.circle.tokens
    tokens = [shelf.circle.at(one.end) - shelf.circle.at(one.start) for one in taken]
    read = sum(one.reads * mine for one, mine in zip(taken, tokens, strict=True))
    digests = shelf.digests()
    found = []
    for one, mine in zip(taken, tokens, strict=True):
        pieces = shelf.pieces(one)
        planned = (
            row["tokens_planned"] * mine / read if one.sequences is None else one.sequences * row["sequence_length"]
        )
        found.append(
            {
                "phase": row["phase"],
                "phase_index": row["phase_index"],
                "dataset": row["dataset"],
                "bucket": row["bucket"],
                "slice": fractions(shelf.circle.at(one.start) % length, mine, length),
                "reads": one.reads,
                "packing": row["packing"],
                "sequence_length": row["sequence_length"],
                "sequences": one.sequences,
                "tokens_planned": round(planned),
                "tokens": mine,
                "documents": sum(piece["documents"] for piece in pieces),
                "pieces": pieces,
                "digest": digest(pieces, digests, row, one.sequences),
            }
        )
    return found


def fractions(start: int, tokens: int, circle: int) -> str:
    """`0.0000-0.4213`; `0.9000-0.1000` wraps, and so does a whole lap that does not begin at 0. More digits where four hide it."""
    end = start + tokens if start + tokens <= circle else start + tokens - circle
    for digits in range(4, 19):
        text = f"{start / circle:.{digits}f}-{end / circle:.{digits}f}"
        first, last = text.split("-")
        if first != last or start == end:
            break
    return text


def digest(
    pieces: Sequence[Mapping[str, Any]], digests: Mapping[str, str], row: Mapping[str, Any], sequences: int | None
) -> str:
    """What a file of this slice holds, in eight hex digits: it names the file, so that caches never serve an older one."""
    hashed = xxhash.xxh3_64()
    for piece in pieces:
        hashed.update(f"{piece['path']}\0{piece['first_row']}\0{piece['end_row']}\0{digests[piece['path']]}\n".encode())
    hashed.update(f"{row['packing']}\0{row['sequence_length']}\0{sequences}".encode())
    return str(hashed.hexdigest())[:8]


class Slices(Fold):
    """The pieces of token shards that each phase reads, from the tables `supply` and `solution`.

    Memory: the blocks of all shards (8 bytes each, at most 4096 per shard by default) and the pieces. Source: our own;
    why arcs and not random draws stands in `schedule`.
    """

    kind: ClassVar[str] = "slices"

    packing_margin: float = Field(default=0.02, ge=0, le=1)
    """Share by which a best-fit stretch is longer than its sequences, so that the packer can leave the emptiest bins out."""

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        return slices(self.table("supply"), self.table("solution"), self.packing_margin)
