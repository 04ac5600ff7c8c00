"""Problems made by programs: one file per group of topics, `source.py` for the stage, `wording.py` for the language."""

from pipeline.synth.procedural.source import (
    ANSWER,
    QUESTION,
    SOLUTION,
    TOPICS,
    VERIFIER,
    ProceduralQuestions,
    make_problem,
)

__all__ = ["ANSWER", "QUESTION", "SOLUTION", "TOPICS", "VERIFIER", "ProceduralQuestions", "make_problem"]
