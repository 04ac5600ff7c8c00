"""Percentile ranks 0 to 19 per scorer and language, and the best of them per document.

A fold counts scores in exact histograms (`sketch.py`), from which come 19 edges per scorer and language, each rank
holding a twentieth of the documents or of the characters; a second pass looks every score up. The ensemble is the
maximum over scorers, as in Nemotron-CC (arXiv:2412.02595 section 3.2), so the top rank holds more than a twentieth:
measure supply afterwards, do not assume it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.kernels import spans
from pipeline.quality import sketch
from pipeline.schema import LANGUAGE, QUALITY_RANK, TEXT, field, score_field
from pipeline.stage import INPUT, Annotate, Compound, Fold, Step

OTHER = "*"
"""Stands for every language without edges of its own."""

COUNTS = pa.schema(
    [
        field("scorer", pa.string(), "name of the scorer"),
        field("language", pa.string(), "language of the documents; null when unknown"),
        field("bin", pa.uint32(), "leading bits of the score"),
        field("documents", pa.int64(), "documents whose score lies in the bin"),
        field("weight", pa.int64(), "documents, or characters of them"),
    ]
)
EDGES = pa.schema(
    [
        field("scorer", pa.string(), "name of the scorer"),
        field("language", pa.string(), f"language; '{OTHER}' for all that have too few documents"),
        field("documents", pa.int64(), "documents with a score"),
        field(
            "edges", pa.list_(pa.float32(), sketch.RANKS - 1), "least score of ranks 1 to 19; NaN when none reaches it"
        ),
    ]
)

_GROUP = ["scorer", "language", "bin"]
_MANY_ROWS = 100_000


class QualitySketch(Fold):
    """Counts scores per scorer and language, and makes the 19 edges of each.

    Languages with fewer than `min_documents` scores share one set of edges, made of all of them together, or of all
    documents when even these are too few. Null and NaN scores count nowhere. Memory: one row per filled bin, see
    `sketch.py`.
    """

    kind: ClassVar[str] = "quality_sketch"

    scores: tuple[str, ...] = Field(min_length=1)
    weight: Literal["documents", "chars"] = "documents"
    by_language: bool = True
    min_documents: int = Field(default=200, ge=1)
    precision_bits: int = Field(default=22, ge=12, le=32)

    def needs(self) -> tuple[pa.Field, ...]:
        columns = tuple(score_field(scorer) for scorer in self.scores)
        language = (LANGUAGE,) if self.by_language else ()
        return (*columns, *language, *((TEXT,) if self.weight == "chars" else ()))

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        counted = _total(self._counts(docs, scorer) for docs in batches for scorer in self.scores)
        return pa.RecordBatch.from_arrays([_whole(column) for column in counted.columns], schema=COUNTS)

    def _counts(self, docs: pa.RecordBatch, scorer: str) -> pa.Table:
        scores, known = _known(docs, scorer)
        rows = pa.array(np.flatnonzero(known))
        language = (
            docs[LANGUAGE.name].cast(pa.string()).take(rows) if self.by_language else pa.nulls(len(rows), pa.string())
        )
        ones = np.ones(len(rows), np.int64)
        weight = ones if self.weight == "documents" else spans.code_points(*spans.buffers(docs[TEXT.name]))[known]
        numbers = sketch.bins(scores[known], self.precision_bits)
        arrays = [
            pa.array([scorer]).take(pa.array(ones - 1)),
            language,
            pa.array(numbers),
            pa.array(ones),
            pa.array(weight),
        ]
        return _summed(pa.Table.from_arrays(arrays, schema=COUNTS))

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        counted = _total(pa.Table.from_batches([part], schema=COUNTS) for part in summaries)
        rows = [row for scorer in self.scores for row in self._edges(counted, scorer)]
        return pa.Table.from_pylist(rows, schema=EDGES)

    def _edges(self, counted: pa.Table, scorer: str) -> Iterator[dict[str, object]]:
        mine = counted.filter(pc.equal(counted["scorer"], scorer))
        sizes = mine.group_by("language").aggregate([("documents", "sum")]).sort_by("language").to_pylist()
        large = [
            one["language"]
            for one in sizes
            if one["language"] is not None and one["documents_sum"] >= self.min_documents and one["language"] != OTHER
        ]
        for language in large:
            yield self._row(scorer, language, mine.filter(pc.equal(mine["language"], language)))
        small = mine.filter(pc.invert(pc.is_in(mine["language"], value_set=pa.array(large, pa.string()))))
        enough = (pc.sum(small["documents"]).as_py() or 0) >= self.min_documents
        yield self._row(scorer, OTHER, small if enough else mine)

    def _row(self, scorer: str, language: str, counted: pa.Table) -> dict[str, object]:
        by_bin = counted.group_by("bin").aggregate([("weight", "sum"), ("documents", "sum")]).sort_by("bin")
        weights = by_bin["weight_sum"].to_numpy()
        found = sketch.edges(by_bin["bin"].to_numpy(), weights, self.precision_bits)
        documents = pc.sum(by_bin["documents_sum"]).as_py() or 0
        return {"scorer": scorer, "language": language, "documents": documents, "edges": found.tolist()}


class QualityRank(Annotate):
    """Adds `quality_rank`: the highest of the document's ranks over all scorers; null when it has no score.

    Reads the table `edges` of its QualitySketch. Memory: 20 floats per document and scorer.
    """

    kind: ClassVar[str] = "quality_rank"

    scores: tuple[str, ...] = Field(min_length=1)
    combine: Literal["max"] = "max"
    by_language: bool = True

    def needs(self) -> tuple[pa.Field, ...]:
        return (*(score_field(scorer) for scorer in self.scores), *((LANGUAGE,) if self.by_language else ()))

    def adds(self) -> tuple[pa.Field, ...]:
        return (QUALITY_RANK,)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        best = np.zeros(docs.num_rows, np.uint8)
        ranked = np.zeros(docs.num_rows, np.bool_)
        table = self.table("edges")
        for scorer in self.scores:
            scores, known = _known(docs, scorer)
            mine = table.filter(pc.equal(table["scorer"], scorer))
            rank = sketch.ranks(scores, self._edges_by_row(docs, mine))
            best = np.maximum(best, np.where(known, rank, 0).astype(np.uint8))
            ranked |= known
        return {QUALITY_RANK.name: pa.array(best, pa.uint8(), mask=~ranked)}

    def _edges_by_row(self, docs: pa.RecordBatch, mine: pa.Table) -> npt.NDArray[np.float32]:
        values = np.array(mine["edges"].to_pylist(), np.float32).reshape(-1, sketch.RANKS - 1)
        languages = _whole(mine["language"])
        other = languages.index(OTHER).as_py()
        if not self.by_language:
            return np.broadcast_to(values[other], (docs.num_rows, sketch.RANKS - 1))
        place = pc.fill_null(pc.index_in(docs[LANGUAGE.name].cast(pa.string()), value_set=languages), other)
        by_row: npt.NDArray[np.float32] = values[place.to_numpy(zero_copy_only=False)]
        return by_row


class QualityRanks(Compound):
    """`quality_rank` 0..19 from one or several scores: ranks per language, the maximum over scorers.

    With `weight: chars` each rank holds a twentieth of the characters instead of the documents. Source: Nemotron-CC,
    arXiv:2412.02595 section 3.2.
    """

    kind: ClassVar[str] = "quality_ranks"

    scores: tuple[str, ...] = Field(min_length=1)
    combine: Literal["max"] = "max"
    weight: Literal["documents", "chars"] = "documents"
    by_language: bool = True
    min_documents: int = Field(default=200, ge=1)
    precision_bits: int = Field(default=22, ge=12, le=32)

    def needs(self) -> tuple[pa.Field, ...]:
        return self._sketch().needs()

    def adds(self) -> tuple[pa.Field, ...]:
        return (QUALITY_RANK,)

    def _sketch(self) -> QualitySketch:
        return QualitySketch(
            scores=self.scores,
            weight=self.weight,
            by_language=self.by_language,
            min_documents=self.min_documents,
            precision_bits=self.precision_bits,
        )

    def steps(self) -> list[Step]:
        rank = QualityRank(scores=self.scores, combine=self.combine, by_language=self.by_language)
        return [
            Step("sketch", self._sketch(), after=(INPUT,)),
            Step("rank", rank, after=(INPUT,), tables={"edges": "sketch"}),
        ]


def _known(docs: pa.RecordBatch, scorer: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The scores (0 where there is none), and where there is one."""
    column = docs[score_field(scorer).name].cast(pa.float32())
    scores = column.to_numpy(zero_copy_only=False).astype(np.float32)  # null becomes NaN
    known = ~np.isnan(scores)
    return np.where(known, scores, np.float32(0)), known


def _total(tables: Iterable[pa.Table]) -> pa.Table:
    """The sum of all counts; added up whenever what waits has outgrown the sum so far."""
    total, waiting, rows = COUNTS.empty_table(), list[pa.Table](), 0
    for one in tables:
        waiting.append(one)
        rows += one.num_rows
        if rows > max(total.num_rows, _MANY_ROWS):
            total, waiting, rows = _summed(pa.concat_tables([total, *waiting])), [], 0
    return _summed(pa.concat_tables([total, *waiting]))


def _summed(counts: pa.Table) -> pa.Table:
    summed = counts.group_by(_GROUP).aggregate([("documents", "sum"), ("weight", "sum")])
    return pa.Table.from_arrays(
        [summed[name] for name in (*_GROUP, "documents_sum", "weight_sum")], schema=COUNTS
    ).sort_by([(name, "ascending") for name in _GROUP])


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else whole.chunk(0)
