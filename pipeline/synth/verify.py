"""`verify_answers`: finds every answer again, in another way than the one that made it, and reads it in the text.

Mathematics by substitution or by counting everything, algorithms by definition or a reference of another design, programs
by running them in the sandbox (the generator's evaluator never runs them). Rows are checked one by one: each is a small
computation of its own. Measured: about 9,000 rows a second for mathematics and algorithms, 180-290 for programs
(2-core virtual machine, busy with other work).
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from pipeline.schema import TEXT
from pipeline.stage import Filter
from pipeline.synth import checks_algorithms, checks_mathematics
from pipeline.synth.checks import Check, Task, UnusableTask
from pipeline.synth.procedural import ANSWER, VERIFIER
from pipeline.synth.procedural.wording import stated_answer
from pipeline.synth.sandbox import Limits, Sandbox

CHECKS: dict[str, Check] = {**checks_mathematics.CHECKS, **checks_algorithms.CHECKS}

PROGRAM_OUTPUT = "program_output"
"""The verifier whose data is {"program": source}: the answer is what it prints."""

_MOST_VERIFIER_CHARS = 100_000
_MOST_PROGRAM_CHARS = 20_000


class VerifyAnswers(Filter):
    """Drops rows whose answer is wrong, cannot be checked, or is not what the text states.

    Reasons: wrong_answer, unverifiable, verifier_failed, verifier_timeout, answer_not_in_text.
    Memory: the batch, and one sandbox server per batch that holds programs. Source: recipe-facts 8.2, GLM-4.5 section 3.1
    (answers are verified where they are objective).
    """

    kind: ClassVar[str] = "verify_answers"

    timeout_seconds: float = Field(default=5.0, gt=0, le=600)
    memory_mib: int = Field(default=256, ge=64, le=65536)
    max_output_bytes: int = Field(default=65536, ge=1, le=64 << 20)

    def needs(self) -> tuple[pa.Field, ...]:
        return (TEXT, ANSWER, VERIFIER)

    def reasons(self, docs: pa.RecordBatch) -> pa.StringArray:
        texts, answers = docs["text"].to_pylist(), docs["answer"].to_pylist()
        found: list[str | None] = []
        programs: dict[int, str] = {}
        for row, (answer, verifier) in enumerate(zip(answers, docs["verifier"].to_pylist(), strict=True)):
            name, data = _read(verifier)
            program = data.get("program") if name == PROGRAM_OUTPUT else None
            if answer is not None and isinstance(program, str) and len(program) <= _MOST_PROGRAM_CHARS:
                programs[row] = program
                found.append(None)
            else:
                found.append(judge(name, data, answer))
        for row, reason in zip(
            programs, self._outputs(list(programs.values()), [answers[r] for r in programs]), strict=True
        ):
            found[row] = reason
        for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
            if found[row] is None and (text is None or stated_answer(text) != answer):
                found[row] = "answer_not_in_text"
        return pa.array(found, pa.string())

    def _outputs(self, programs: list[str], answers: list[str]) -> list[str | None]:
        """Run the programs; null where one prints its answer."""
        if not programs:
            return []
        limits = Limits(
            wall_seconds=self.timeout_seconds,
            cpu_seconds=max(1, round(self.timeout_seconds)),
            memory_mib=self.memory_mib,
            max_output_bytes=self.max_output_bytes,
        )
        reasons: list[str | None] = []
        with Sandbox(limits) as sandbox:
            for outcome, answer in zip(sandbox.run_all(programs), answers, strict=True):
                if outcome.status == "timeout":
                    reasons.append("verifier_timeout")
                elif outcome.status != "ok":
                    reasons.append("verifier_failed")
                else:
                    reasons.append(None if outcome.stdout.rstrip("\n") == answer else "wrong_answer")
        return reasons


def judge(name: str, data: dict[str, Any], answer: str | None) -> str | None:
    """Null when the check called `name` finds the answer right, else the reason why the row goes."""
    check = CHECKS.get(name)
    if check is None or answer is None:
        return "unverifiable"
    try:
        return None if check(Task(data), answer) else "wrong_answer"
    except UnusableTask:
        return "unverifiable"
    except ValueError:  # the answer is not of the form that the task asks for
        return "wrong_answer"
    except (ArithmeticError, LookupError, TypeError, RecursionError):
        return "verifier_failed"


def _read(verifier: str | None) -> tuple[str, dict[str, Any]]:
    """Name and data of a verifier column; an unknown name where it is not one."""
    if verifier is None or len(verifier) > _MOST_VERIFIER_CHARS:
        return "", {}
    try:
        record = json.loads(verifier)
    except (ValueError, RecursionError):
        return "", {}
    if not isinstance(record, dict) or not isinstance(record.get("data"), dict):
        return "", {}
    name = record.get("verifier")
    return (name, record["data"]) if isinstance(name, str) else ("", {})
