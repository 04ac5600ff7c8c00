"""Every stage that a recipe may name: one import and one line each."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from pipeline.stage import AsItIs, Compound, Exchange, Stage, check_kind

_STAGES: tuple[type[Stage], ...] = (
    AsItIs,
    Exchange,
)

STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in _STAGES}


def _added(stage: Stage) -> set[str]:
    if isinstance(stage, Compound):
        return set().union(*(_added(step.stage) for step in stage.steps()))
    return {field.name for field in stage.adds()}


def producers(column: str) -> Sequence[str]:
    """Kinds that add `column` under their default settings, for error messages."""
    found = []
    for kind, cls in STAGES.items():
        try:
            stage = cls()
        except ValidationError:
            continue  # has required settings: cannot be asked without them
        if column in _added(stage):
            found.append(kind)
    return sorted(found)


for _stage in _STAGES:
    check_kind(_stage)
