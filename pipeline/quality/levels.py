"""From ranks or scores to the few classes that a curriculum weighs: `bucket`.

`quality_levels` maps the twenty ranks to named levels, `tiers` cuts one score at fixed values. Both know the order of
their names from worst to best (`bucket_order`), which the curriculum needs to give better buckets never less.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipeline.quality.sketch import RANKS
from pipeline.quality.threshold import numeric_field
from pipeline.schema import BUCKET, QUALITY_RANK
from pipeline.stage import Annotate

_RANGE = re.compile(r"(\d{1,2})(?:\s*-\s*(\d{1,2}))?")


def ranks_of(name: str, given: int | str) -> range:
    """The ranks that `18`, `"18"` or `"0-6"` stand for."""
    match = _RANGE.fullmatch(str(given).strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if low > high or high >= RANKS:
        msg = f"level '{name}': {given!r} is no rank or range of ranks; write 18 or 0-6, within 0-{RANKS - 1}"
        raise ValueError(msg)
    return range(low, high + 1)


class QualityLevels(Annotate):
    """Adds `bucket`: the level whose ranks hold the document's `quality_rank`; `unranked` (or null) without a rank.

    The levels must cover ranks 0 to 19 exactly once. Nemotron-CC's are low 0-6, medium_low 7-11, medium 12-17,
    medium_high 18, high 19 (arXiv:2412.02595 table 2). Memory: one column.
    """

    kind: ClassVar[str] = "quality_levels"

    levels: dict[str, int | str] = Field(min_length=1)
    unranked: str | None = None
    """Level of documents without a rank (no scorer could score them)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        counts = np.bincount(
            [rank for name, one in self.levels.items() for rank in ranks_of(name, one)], minlength=RANKS
        )
        faults = [
            f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} {what}"
            for ranks, what in ((np.flatnonzero(counts == 0), "missing"), (np.flatnonzero(counts > 1), "given twice"))
            if len(ranks)
        ]
        if faults:
            msg = f"levels must cover ranks 0-{RANKS - 1} exactly once: {'; '.join(faults)}"
            raise ValueError(msg)
        if self.unranked is not None and self.unranked not in self.levels:
            msg = f"unranked: {self.unranked!r} is no level; levels are {', '.join(self.levels)}"
            raise ValueError(msg)
        return self

    def needs(self) -> tuple[pa.Field, ...]:
        return (QUALITY_RANK,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (BUCKET,)

    def bucket_order(self) -> list[str]:
        """Names of the levels from worst to best."""
        return sorted(self.levels, key=lambda name: ranks_of(name, self.levels[name])[0])

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        by_rank = {rank: name for name, one in self.levels.items() for rank in ranks_of(name, one)}
        names = pa.array([by_rank[rank] for rank in range(RANKS)], pa.string())
        found = names.take(docs[QUALITY_RANK.name])
        return {BUCKET.name: found if self.unranked is None else pc.fill_null(found, self.unranked)}


class Tiers(Annotate):
    """Adds `bucket`: the tier with the highest cut point that the document's score reaches, else `lowest`.

    A document without a score gets `unscored`, or null. Memory: one column. Source: GLM-4.5 section 2.2 sorts code of
    each language into three tiers by a quality model.
    """

    kind: ClassVar[str] = "tiers"

    column: str
    cuts: dict[str, float] = Field(min_length=1)
    """Tier -> least score: `{medium: 0.3, high: 0.8}`."""
    lowest: str = "low"
    unscored: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        values = list(self.cuts.values())
        if len({*values}) < len(values) or not np.isfinite(values).all():
            msg = f"tiers: cut points must be finite and different, not {self.cuts}"
            raise ValueError(msg)
        if self.lowest in self.cuts:
            msg = f"tiers: '{self.lowest}' is the tier below all cut points and cannot have one; set `lowest`"
            raise ValueError(msg)
        if self.unscored is not None and self.unscored not in self.bucket_order():
            msg = f"unscored: {self.unscored!r} is no tier; tiers are {', '.join(self.bucket_order())}"
            raise ValueError(msg)
        return self

    def needs(self) -> tuple[pa.Field, ...]:
        return (numeric_field(self.column),)

    def adds(self) -> tuple[pa.Field, ...]:
        return (BUCKET,)

    def bucket_order(self) -> list[str]:
        """Names of the tiers from worst to best."""
        return [self.lowest, *sorted(self.cuts, key=lambda name: self.cuts[name])]

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        order = self.bucket_order()
        cuts = np.array([self.cuts[name] for name in order[1:]])
        scores = docs[self.column].cast(pa.float64()).to_numpy(zero_copy_only=False)
        reached = np.searchsorted(cuts.astype(np.float32), scores.astype(np.float32), side="right")
        names = pa.array(order, pa.string()).take(pa.array(reached, pa.int64(), mask=np.isnan(scores)))
        return {BUCKET.name: names if self.unscored is None else pc.fill_null(names, self.unscored)}
