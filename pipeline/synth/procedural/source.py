"""`procedural_questions`: problems made by programs, each with its derivation and what is needed to check it.

Every problem is a function of (seed, family, number) alone, so parts can be cut anyhow. Measured per second
of processor time: 4,500 problems of mathematics or algorithms, 350-500 of code execution; 120, 150 and 240 words each.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.schema import document_id, field, schema_of
from pipeline.stage import SOURCE_COLUMNS, Source, SourcePart, Unreadable, in_batches, random_keys
from pipeline.synth.procedural import arithmetic, code_execution, counting, numbers, sequences, structures
from pipeline.synth.procedural.wording import Problem, Topic, Voice

QUESTION = field("question", pa.large_string(), "the problem as it is put, without its solution")
SOLUTION = field("solution", pa.large_string(), "the derivation, step by step, without the final line")
ANSWER = field("answer", pa.large_string(), "the final answer, as the last `Answer:` of the text states it")
VERIFIER = field(
    "verifier", pa.large_string(), 'JSON {"verifier": name, "data": task data}: enough to find the answer again'
)

Family = Literal["mathematics", "algorithms", "code_execution"]

TOPICS: dict[Family, tuple[Topic, ...]] = {
    "mathematics": arithmetic.TOPICS + numbers.TOPICS + counting.TOPICS,
    "algorithms": sequences.TOPICS + structures.TOPICS,
    "code_execution": code_execution.TOPICS,
}

_SHARES = (30, 33, 20, 12, 5)  # our choice: of difficulties 1 to 5, so that about one problem in twenty is hard


class ProceduralQuestions(Source):
    """Mathematics, algorithms and code-execution problems with step-by-step solutions and verifier data.

    Families take turns, and within a family its topics do (24 of mathematics, 20 of algorithms, 13 program shapes).
    Memory: one batch. Source: our own generators; the need for verifiable answers is GLM-4.5 report section 3.1.
    """

    kind: ClassVar[str] = "procedural_questions"
    seeded: ClassVar[bool] = True

    count: int = Field(default=5000, ge=1, le=1_000_000_000)
    families: tuple[Family, ...] = ("mathematics", "algorithms", "code_execution")
    difficulty: tuple[int, int] = (1, 5)
    parts_wanted: int = Field(default=8, ge=1, le=100_000)

    @field_validator("families")
    @classmethod
    def _families(cls, families: tuple[Family, ...]) -> tuple[Family, ...]:
        if not families or len(set(families)) != len(families):
            msg = f"families must be different ones of {sorted(TOPICS)}, at least one; got {list(families)}"
            raise ValueError(msg)
        return families

    @field_validator("difficulty")
    @classmethod
    def _difficulty(cls, difficulty: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= difficulty[0] <= difficulty[1] <= 5:
            msg = f"difficulty must be [lowest, highest] within 1 to 5, got {list(difficulty)}"
            raise ValueError(msg)
        return difficulty

    def schema(self) -> pa.Schema:  # type: ignore[override]
        return schema_of((*SOURCE_COLUMNS, QUESTION, SOLUTION, ANSWER, VERIFIER))

    def parts(self) -> list[SourcePart]:
        pieces = min(self.parts_wanted, self.count)
        edges = [self.count * k // pieces for k in range(pieces + 1)]
        return [
            SourcePart(name=f"problems-{first:09d}", settings={"first": first, "end": end})
            for first, end in itertools.pairwise(edges)
        ]

    def batches(self, part: SourcePart) -> Iterator[pa.RecordBatch | Unreadable]:
        first, end = int(part.settings["first"]), int(part.settings["end"])
        yield from in_batches(self._rows(first, end), self.schema(), max_rows=2048)

    def _rows(self, first: int, end: int) -> Iterator[dict[str, Any]]:
        for at in range(first, end, 2048):
            places = [self._place(n) for n in range(at, min(at + 2048, end))]
            ids = [document_id("procedural", family, str(number), str(self.seed)) for family, number in places]
            keys = random_keys(pa.array(ids, pa.binary(16)), self.seed, "procedural_questions")
            for (family, number), identity, key in zip(places, ids, keys.tolist(), strict=True):
                yield self._row(family, number, identity, key)

    def _place(self, n: int) -> tuple[Family, int]:
        """Problem `n` of the source as (family, number within it)."""
        return self.families[n % len(self.families)], n // len(self.families)

    def _row(self, family: Family, number: int, identity: bytes, key: int) -> dict[str, Any]:
        problem, voice = make_problem(family, number, key, self.difficulty)
        solution = voice.solution(problem.steps)
        return {
            "id": identity,
            "origin": f"procedural:{family}#{number}",
            "text": voice.document(problem.question, solution, problem.answer),
            "language": "en",
            "licence": "CC0-1.0",
            "question": problem.question,
            "solution": solution,
            "answer": problem.answer,
            "verifier": json.dumps({"verifier": problem.verifier, "data": problem.data}, ensure_ascii=False),
        }


def make_problem(family: Family, number: int, key: int, difficulty: tuple[int, int] = (1, 5)) -> tuple[Problem, Voice]:
    """Problem `number` of a family, from a 64-bit random key; and the voice that tells it."""
    voice = Voice(random.Random(key))  # noqa: S311
    low, high = difficulty
    level = voice.rng.choices(range(low, high + 1), _SHARES[low - 1 : high])[0]
    topics = TOPICS[family]
    return topics[number % len(topics)](voice, level), voice
