"""Which stretch of a bucket each phase reads, and how often.

A bucket's documents stand in shuffled order on a circle. Phases take consecutive arcs of it, each as long as the tokens
planned: weight 1.9 from 0 covers nine tenths of the circle twice and one tenth once. Whatever the weights, all
documents of a bucket are then seen the floor or the ceiling of its total weight, and phases share nothing while that
total is below one. Drawing each phase at random would instead show 0.6 + 0.4 epochs' worth as 37 % of documents twice
and 13 % never (measured with megatron-core 0.16.1).

Arcs end between blocks of documents. Positions count blocks on the unrolled circle: block `laps * blocks + i` is block
`i` again, so that a cursor never loses how often it went round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Circle:
    """A bucket's blocks. `edges` is int64[blocks + 1]: tokens before each block, ending with all tokens."""

    edges: np.ndarray

    @classmethod
    def of(cls, block_tokens: np.ndarray) -> Circle:
        """The circle of blocks that hold `block_tokens`, at least one token in all."""
        return cls(np.concatenate([[0], np.cumsum(block_tokens, dtype=np.int64)]))

    @property
    def blocks(self) -> int:
        """Blocks of one lap."""
        return len(self.edges) - 1

    @property
    def tokens(self) -> int:
        """Tokens of one lap."""
        return int(self.edges[-1])

    def at(self, position: int) -> int:
        """Tokens before a position, laps included."""
        laps, block = divmod(position, self.blocks)
        return laps * self.tokens + int(self.edges[block])

    def at_or_after(self, tokens: int) -> int:
        """The first position with at least `tokens` before it."""
        laps, rest = divmod(tokens, self.tokens)
        return laps * self.blocks + int(np.searchsorted(self.edges, rest))

    def at_or_before(self, tokens: int) -> int:
        """The last position with at most `tokens` before it."""
        laps, rest = divmod(tokens, self.tokens)
        return laps * self.blocks + int(np.searchsorted(self.edges, rest, side="right")) - 1

    def nearest(self, tokens: int) -> int:
        """The position nearest to `tokens`; the earlier of two equally near."""
        before, after = self.at_or_before(tokens), self.at_or_after(tokens)
        return before if tokens - self.at(before) <= self.at(after) - tokens else after


@dataclass(frozen=True)
class Stretch:
    """Blocks [start, end) of the unrolled circle, at most one lap, that a phase reads `reads` times."""

    start: int
    end: int
    reads: int
    sequences: int | None = None
    """Packed sequences per read; null where documents are concatenated."""


def stretches(circle: Circle, start: int, end: int) -> list[Stretch]:
    """The arc from `start` to `end`: what it covers once more than the rest, then the rest, without empty ones."""
    laps, rest = divmod(end - start, circle.blocks)
    first = Stretch(start, start + rest, laps + 1)
    second = Stretch(start + rest, start + circle.blocks, laps)
    return [one for one in (first, second) if one.end > one.start and one.reads > 0]


def exposures(circle: Circle, taken: Sequence[Stretch]) -> np.ndarray:
    """int64[blocks]: how often each block is read in all. For checks; slices never need it."""
    steps = np.zeros(2 * circle.blocks + 1, np.int64)
    for one in taken:
        start = one.start % circle.blocks
        steps[start] += one.reads
        steps[start + one.end - one.start] -= one.reads
    reads = np.cumsum(steps[:-1])
    return reads[: circle.blocks] + reads[circle.blocks :]


# ------------------------------------------------------------------------------------------------ concatenate


@dataclass(frozen=True)
class Draw:
    """What a phase takes of one circle: `tokens` from `cursor` on, ending within [least, most]."""

    circle: Circle
    cursor: int
    tokens: int
    least: int
    most: int


def draw(circle: Circle, cursor: int, planned: Sequence[int], phase: int) -> Draw:
    """The draw of phase `phase` of a bucket whose phases plan `planned` tokens.

    No end lies past the ceiling of the total weight, and the last one not before its floor: rounding to blocks never
    costs a document an exposure, nor gives it one too many.
    """
    laps, rest = divmod(sum(planned), circle.tokens)
    is_last = not any(planned[phase + 1 :])
    least = max(cursor, laps * circle.blocks) if is_last else cursor
    return Draw(circle, cursor, planned[phase], least, max(cursor, (laps + (rest > 0)) * circle.blocks))


def ends(draws: Sequence[Draw]) -> list[int]:
    """Where a phase's arcs end: at the nearest blocks, each bucket making up for the error of those before it.

    Coarse buckets come first: what remains is at most half a block of the finest one, if it has the tokens to make
    up for the rest, and half of the largest block in any case, unless floors and ceilings leave no room. Then buckets
    that have room are asked once more.
    """
    order = sorted((at for at, one in enumerate(draws) if one.tokens > 0),
                   key=lambda at: (-draws[at].circle.tokens / draws[at].circle.blocks, at))  # fmt: skip
    found = [one.cursor for one in draws]
    error = 0
    for at in order:
        one = draws[at]
        error, found[at] = _nearest_end(one, one.circle.at(one.cursor) + one.tokens + error)
    for at in order:
        error, found[at] = _nearest_end(draws[at], draws[at].circle.at(found[at]) + error)
    return found


def _nearest_end(one: Draw, wanted: int) -> tuple[int, int]:
    """(tokens still missing, end)"""
    end = min(max(one.circle.nearest(max(wanted, 0)), one.least), one.most)
    return wanted - one.circle.at(end), end


# ------------------------------------------------------------------------------------------------ best fit


def packed_stretches(one: Draw, sequences: int, sequence_length: int, margin: float, later: int) -> list[Stretch]:
    """Stretches that hold at least `sequences` x `sequence_length` tokens over all their reads.

    Best-fit packing leaves holes at the ends of bins, so a stretch is `margin` and a block longer where that takes
    nothing from the `later` tokens of the phases to come: the packer then fills every bin and leaves the emptiest out.
    Tokens fill ceil(tokens / sequence_length) bins or more, so a stretch without margin still gives all its sequences.
    """
    circle, cursor = one.circle, one.cursor
    start = circle.at(cursor)
    lap = cursor + circle.blocks
    needed = circle.at_or_after(start + sequences * sequence_length)
    if needed <= lap:
        wanted = circle.at_or_after(start + int(sequences * sequence_length * (1 + margin))) + 1
        free = circle.at_or_before(max(circle.at(one.most) - later, 0))
        return [Stretch(cursor, max(needed, min(wanted, free, lap)), 1, sequences)]
    for per_lap in range(circle.tokens // sequence_length, 0, -1):
        laps, rest = divmod(sequences, per_lap)
        spare = circle.tokens - per_lap * sequence_length
        middle = circle.at_or_after(start + rest * sequence_length + spare * rest // per_lap) if rest else cursor
        if laps and circle.at(lap) - circle.at(middle) >= (per_lap - rest) * sequence_length:
            first, second = Stretch(cursor, middle, laps + 1, rest), Stretch(middle, lap, laps, per_lap - rest)
            return [first, second] if rest else [second]
    return [Stretch(cursor, lap, sequences, 1)]


def end_of(circle: Circle, cursor: int, taken: Sequence[Stretch]) -> int:
    """The cursor after `taken`: every block of theirs, as often as it is read."""
    return cursor + sum((one.end - one.start) * one.reads for one in taken)
