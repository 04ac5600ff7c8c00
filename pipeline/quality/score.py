"""A quality score for every document, from a fastText classifier that is trained inside the run or comes by path.

As in DCLM (arXiv:2406.11794 section 4.4): trusted prose against ordinary pages, the score is the probability of the
trusted side. Its absolute size means little; ranks of it do (`quality_ranks`). Scoring runs at about 45 MB/s of text
(what is cut off by `max_chars` costs nothing), training on 2 x 2000 documents takes a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.quality import fasttext_model
from pipeline.quality.sample import POSITIVE_SIDE, SAMPLE, LowestKeys, lowest
from pipeline.schema import ID, TEXT, field, score_field
from pipeline.stage import DATASET, INPUT, Annotate, Compound, Fold, Step, random_keys, uniforms

HELD_OUT = 0.1
"""Share of the sample that is kept from training, to measure with."""

MODEL = pa.schema(
    [
        field("scorer", pa.string(), "name of the scorer"),
        field("model", pa.large_binary(), "the fastText model file"),
        field("digest", pa.string(), "sha256 of the model file, 64 hex digits"),
        field("positives", pa.int64(), "documents of the trusted side that were trained on"),
        field("negatives", pa.int64(), "documents of the other side that were trained on"),
        field("documents", pa.int64(), "held-out documents of both sides"),
        field("precision", pa.float64(), "of the held-out documents called positive, the share that is"),
        field("recall", pa.float64(), "of the held-out positive documents, the share called so"),
        field("accuracy", pa.float64(), "share of held-out documents on their own side"),
    ]
)


class TrainSettings(BaseModel):
    """Which documents teach the two sides, and fastText's own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    positive: tuple[str, ...] = Field(min_length=1)
    """Datasets of trusted documents."""
    negative: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Datasets of ordinary documents; the step's own input when null."""
    sample_documents: int = Field(default=2000, ge=10)
    """Documents per side."""
    min_documents: int = Field(default=20, ge=1)
    """Documents per side below which nothing is trained."""
    dimension: int = Field(default=16, ge=1, le=1024)
    word_ngrams: int = Field(default=2, ge=1, le=5)
    epochs: int = Field(default=5, ge=1)
    learning_rate: float = Field(default=0.5, gt=0)
    hash_buckets: int = Field(default=200_000, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        both = sorted({*self.positive} & {*(self.negative or ())})
        if both:
            msg = f"train: {', '.join(both)} cannot be positive and negative at once"
            raise ValueError(msg)
        return self


class TrainScorer(Fold):
    """Trains the classifier: a bounded random sample of each side, one table row with the model and its metrics.

    The sample is the lowest keys by (seed, id), so neither parts nor order matter. Memory: twice `sample_documents`
    texts of `max_chars` per part, and a matrix of (words + hash buckets) x dimension floats. Source: DCLM.
    """

    kind: ClassVar[str] = "train_scorer"
    seeded: ClassVar[bool] = True

    scorer: str
    train: TrainSettings
    max_chars: int = Field(default=4000, ge=1)
    lower_case: bool = True

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, TEXT)

    def summary(self, batches: Iterator[pa.RecordBatch], label: str) -> pa.RecordBatch:
        positive = label in self.train.positive
        sample = LowestKeys(
            self.train.sample_documents, self.max_chars, self.seed, f"score/{self.scorer}/sample", positive
        )
        for docs in batches:
            sample.add(docs)
        columns = [column.combine_chunks() for column in sample.sample().columns]
        return pa.RecordBatch.from_arrays(columns, schema=SAMPLE)

    def fold(self, summaries: Iterator[pa.RecordBatch]) -> pa.Table:
        sides = [SAMPLE.empty_table(), SAMPLE.empty_table()]
        for part in summaries:
            rows = pa.Table.from_batches([part], schema=SAMPLE)
            both = [pa.concat_tables([kept, rows.filter(one)]) for kept, one in zip(sides, _sides(rows), strict=True)]
            sides = [lowest(one, self.train.sample_documents) for one in both]
        self._check(*(side.num_rows for side in sides))
        sample = pa.concat_tables(sides)
        sample = lowest(sample, sample.num_rows)  # both sides in one random order: fastText learns row by row
        held = uniforms(random_keys(_whole(sample[ID.name]), self.seed, f"score/{self.scorer}/held_out")) < HELD_OUT
        lines = fasttext_model.one_line(_whole(sample[TEXT.name]), self.max_chars, self.lower_case)
        positive = _whole(sample[POSITIVE_SIDE.name]).to_numpy(zero_copy_only=False)
        model = fasttext_model.trained(lines.filter(pa.array(~held)), positive[~held], self._training())
        tested = fasttext_model.evaluated(fasttext_model.opened(model), lines.filter(pa.array(held)), positive[held])
        row = {
            "scorer": self.scorer,
            "model": model,
            "digest": fasttext_model.digest(model),
            "positives": int(positive[~held].sum()),
            "negatives": int((~positive[~held]).sum()),
            "documents": tested.documents,
            "precision": tested.precision,
            "recall": tested.recall,
            "accuracy": tested.accuracy,
        }
        return pa.Table.from_pylist([row], schema=MODEL)

    def _training(self) -> fasttext_model.Training:
        given = self.train
        return fasttext_model.Training(
            dimension=given.dimension,
            word_ngrams=given.word_ngrams,
            epochs=given.epochs,
            learning_rate=given.learning_rate,
            hash_buckets=given.hash_buckets,
            seed=self.seed,
        )

    def _check(self, positives: int, negatives: int) -> None:
        least = self.train.min_documents
        if positives >= least and negatives >= least:
            return
        other = ", ".join(self.train.negative) if self.train.negative else "the step's own input"
        msg = (
            f"scorer '{self.scorer}' cannot be trained: {positives} positive documents (from "
            f"{', '.join(self.train.positive)}) and {negatives} negative ones (from {other}), at least {least} of each "
            "are needed. Name more datasets under train, lower train.min_documents, or give a trained model"
        )
        raise ValueError(msg)


def _sides(rows: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    positive = rows[POSITIVE_SIDE.name]
    return positive, pc.invert(positive)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else whole.chunk(0)


class ApplyScorer(Annotate):
    """Adds `score_<scorer>`: the probability of `positive_label`, null where the text is null.

    The model is the table `model` of its TrainScorer, or the file at `model`; loaded once per process. Memory: the
    model, and the first `max_chars` of each text of the batch as Python strings. Source: DCLM.
    """

    kind: ClassVar[str] = "apply_scorer"

    scorer: str
    model: str | None = None
    positive_label: str = fasttext_model.POSITIVE
    max_chars: int | None = Field(default=4000, ge=1)
    lower_case: bool = True

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (score_field(self.scorer),)

    def files(self) -> tuple[str, ...]:
        return () if self.model is None else (self.model,)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        lines = fasttext_model.one_line(docs[TEXT.name], self.max_chars, self.lower_case)
        valid = lines.is_valid().to_numpy(zero_copy_only=False)
        scores = fasttext_model.probabilities(self._loaded(), pc.fill_null(lines, ""), self.positive_label)
        return {score_field(self.scorer).name: pa.array(scores, pa.float32(), mask=~valid)}

    def _loaded(self) -> Any:
        if self.model is not None:
            return fasttext_model.loaded_file(self.model)
        table = self.table("model")
        return fasttext_model.loaded(table["digest"][0].as_py(), lambda: table["model"][0].as_py())


class Score(Compound):
    """Scores documents with a fastText classifier: `model` (a file) or `train` (in this run), never both.

    The column is `score_<name>`, from the step's `name`, or from `scorer` where that is set. `lower_case` defaults to
    what the model was trained with: true with `train`, false with `model` (DCLM's keeps its capitals).
    """

    kind: ClassVar[str] = "score"

    scorer: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    model: str | None = None
    train: TrainSettings | None = None
    positive_label: str = fasttext_model.POSITIVE
    max_chars: int | None = Field(default=4000, ge=1)
    lower_case: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.model is None) == (self.train is None):
            msg = "score takes model (a fastText file) or train: {positive: [datasets]}: exactly one of them"
            raise ValueError(msg)
        if self.train is not None and self.max_chars is None:
            msg = "score: max_chars bounds the training sample and cannot be null with train"
            raise ValueError(msg)
        return self

    @property
    def scorer_name(self) -> str:
        """What the column is called after: `scorer`, or the last part of the step's name."""
        return self.scorer or self.name.rpartition("/")[2]

    def needs(self) -> tuple[pa.Field, ...]:
        return (ID, TEXT)

    def adds(self) -> tuple[pa.Field, ...]:
        return (score_field(self.scorer_name),)

    def files(self) -> tuple[str, ...]:
        return () if self.model is None else (self.model,)

    def steps(self) -> list[Step]:
        lower = self.lower_case if self.lower_case is not None else self.train is not None
        apply = ApplyScorer(
            scorer=self.scorer_name,
            model=self.model,
            positive_label=self.positive_label,
            max_chars=self.max_chars,
            lower_case=lower,
        )
        if self.train is None or self.max_chars is None:
            return [Step("apply", apply, after=(INPUT,))]
        fold = TrainScorer(scorer=self.scorer_name, train=self.train, max_chars=self.max_chars, lower_case=lower)
        others = (*self.train.positive, *(self.train.negative or ()))
        read = tuple(DATASET + dataset for dataset in dict.fromkeys(others))
        own = () if self.train.negative else (INPUT,)
        return [
            Step("train", fold, after=(*own, *read)),
            Step("apply", apply, after=(INPUT,), tables={"model": "train"}),
        ]
