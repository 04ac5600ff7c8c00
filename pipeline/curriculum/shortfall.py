"""Why a curriculum cannot be met, by how many tokens, and which single change would make it feasible.

Every remedy with a number in it is tried on the problem before it is named, and left out where it would not do.
Numbers are rounded to the safe side, so the printed ones work when typed back into the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise

import numpy as np

from pipeline.curriculum.exposure import Problem
from pipeline.curriculum.spec import Curriculum, Phase, readable

_DIGITS = 5
_NUDGES = 4  # steps of the last digit that a whole-token budget may need


class InfeasibleCurriculum(ValueError):
    """No epoch weights meet the curriculum; the message says what is missing and what would help."""


@dataclass(frozen=True)
class Want:
    """What one dataset is asked for, and how the problem looks under another curriculum."""

    curriculum: Curriculum
    dataset: str
    problem: Problem
    problem_of: Callable[[Curriculum], Problem]

    def phases(self, which: str) -> list[Phase]:
        """The phases that mix the dataset: those that pins speak of, or all."""
        mixing = [phase for phase in self.curriculum.phases if self.dataset in phase.mix]
        return [phase for phase in mixing if which == "all" or self.curriculum.is_pinned(phase, self.dataset)]


def shortfall(want: Want) -> str | None:
    """The sentence, or None when the problem is feasible."""
    problem = want.problem
    if problem.is_feasible():
        return None
    if not problem.pins_agree():
        return _contradiction(want)
    least, most, most_in_all = problem.limits()
    total = problem.pinned_target + problem.other_target
    if problem.pinned_target > most:
        return _too_little(want, "pinned", problem.pinned_target, most)
    if total > most_in_all:
        return _too_little(want, "all", total, most_in_all)
    return _too_much(want, least)


def _contradiction(want: Want) -> str:
    problem = want.problem
    pinned = [bucket for bucket in problem.buckets if bucket in problem.pins]
    worse, better = next((a, b) for a, b in pairwise(pinned) if problem.pins[a] > problem.pins[b])
    return (f"dataset '{want.dataset}': bucket '{worse}' is pinned to {problem.pins[worse]:g} epochs and the better bucket '{better}' "
            f"to {problem.pins[better]:g}, but a better bucket is never seen less than a worse one: "
            f"change one of the pins, or their `order`")  # fmt: skip


def _too_little(want: Want, which: str, target: float, most: float) -> str:
    problem = want.problem
    names = [phase.name for phase in want.phases(which)]
    under = f"`max: {problem.cap:g}`"
    if which == "pinned" and problem.pins:
        under += f" and {_pins(problem)} (no bucket may be seen more often than a better one)"
    remedies = [*_more_data(want, target / most if most else math.inf, which), *_higher_cap(want),
                *_higher_pin(want), *_other_target(want, most / target, which)]  # fmt: skip
    return (f"dataset '{want.dataset}' cannot fill {_listed('phase', names)}: {_asked(target, names)} {_supply(problem)} gives at most "
            f"{_at_most(most)} under {under}: {_at_least(target - most)} are missing. {_choice(remedies)}")  # fmt: skip


def _too_much(want: Want, least: float) -> str:
    problem = want.problem
    target = problem.pinned_target
    names = [phase.name for phase in want.phases("pinned")]
    factor = target / least
    remedies = [*_lower_pins(want, factor), *_less_data(want, factor), *_other_target(want, least / target, "pinned")]
    return (f"dataset '{want.dataset}' is pinned to more than {_listed('phase', names)} can hold: {_asked(target, names)} {_supply(problem)} "
            f"comes to at least {_at_least(least)} under {_pins(problem)} (better buckets are seen no less than a pinned one): "
            f"{_at_least(least - target)} too many. {_choice(remedies)}")  # fmt: skip


# ------------------------------------------------------------------------------------------------ remedies


def _more_data(want: Want, factor: float, which: str) -> Iterator[str]:
    problem = want.problem
    if math.isfinite(factor):
        factor = _rounded(factor, up=True)
        if replace(problem, supply=problem.supply * factor).is_feasible():
            read = problem.bounds()[1] > 0 if which == "pinned" else np.ones(len(problem.supply), bool)
            yield f"{factor:g} times the supply (+{_at_least((factor - 1) * float(problem.supply[read].sum()))})"


def _less_data(want: Want, factor: float) -> Iterator[str]:
    factor = _rounded(factor, up=False)
    if factor > 0 and replace(want.problem, supply=want.problem.supply * factor).is_feasible():
        yield f"{factor:g} times the supply"


def _higher_cap(want: Want) -> Iterator[str]:
    """The least `max` that would do, if any: reach is piecewise linear in it, and bends only at pins."""
    problem = want.problem
    least = (problem.pinned_target + problem.other_target) / float(problem.supply.sum())
    _, unbounded = replace(problem, cap=math.inf).bounds()
    free = np.isinf(unbounded)
    if free.any():
        bound = float(unbounded[~free] @ problem.supply[~free])
        least = max(least, (problem.pinned_target - bound) / float(problem.supply[free].sum()))
    cap = _rounded(least, up=True)
    if cap > problem.cap and replace(problem, cap=cap).is_feasible():
        yield f"`max: {cap:g}`"


def _higher_pin(want: Want) -> Iterator[str]:
    """A higher pin of the best pinned bucket, where the pins stand in the way."""
    problem = want.problem
    pinned = [bucket for bucket in problem.buckets if problem.pins.get(bucket, 0) > 0]
    if not pinned:
        return
    best = pinned[-1]
    low, high = 0.0, problem.cap
    raised = replace(problem, pins={**problem.pins, best: high})
    if raised.limits()[1] < problem.pinned_target:
        return
    for _ in range(60):
        middle = (low + high) / 2
        enough = replace(problem, pins={**problem.pins, best: middle}).limits()[1] >= problem.pinned_target
        low, high = (low, middle) if enough else (middle, high)
    pin = _rounded(high, up=True)
    if (
        pin > problem.pins[best]
        and pin <= problem.cap
        and replace(problem, pins={**problem.pins, best: pin}).is_feasible()
    ):
        yield f"`pin: {{{best}: {pin:g}}}`"


def _lower_pins(want: Want, factor: float) -> Iterator[str]:
    pins = {bucket: _rounded(epochs * factor, up=False) for bucket, epochs in want.problem.pins.items()}
    if replace(want.problem, pins=pins).is_feasible():
        yield f"`pin: {{{', '.join(f'{bucket}: {epochs:g}' for bucket, epochs in pins.items())}}}`"


def _other_target(want: Want, factor: float, which: str) -> Iterator[str]:
    """Another scale, and other shares in the phases concerned."""
    up = factor > 1
    scale = want.curriculum.scale * factor
    for _ in range(_NUDGES):
        scale = _rounded(scale, up=up)
        if scale > 0 and _feasible_at(want, scale):
            yield f"`scale: {scale:g}` instead of {want.curriculum.scale:g}"
            break
        scale *= 1 + (1 if up else -1) * 10.0**-_DIGITS
    phases = want.phases(which)
    shares = {phase.name: _rounded(phase.share(want.dataset) * factor, up=up) for phase in phases}
    targets = sum(phase.budget(want.curriculum.scale) * shares[phase.name] for phase in phases)
    pinned = sum(
        phase.budget(want.curriculum.scale) * shares[phase.name]
        for phase in phases
        if want.curriculum.is_pinned(phase, want.dataset)
    )
    other = want.problem.other_target if which == "pinned" else targets - pinned
    possible = all(0 < share <= 1 for share in shares.values())
    if possible and replace(want.problem, pinned_target=pinned, other_target=other).is_feasible():
        bound = "at least" if up else "at most"
        yield f"a share of {bound} {' and '.join(f'{share:g} in {name}' for name, share in shares.items())}"


def _feasible_at(want: Want, scale: float) -> bool:
    try:
        curriculum = Curriculum.model_validate({**want.curriculum.model_dump(), "scale": scale})
    except ValueError:  # a phase would fall below one token
        return False
    return want.problem_of(curriculum).is_feasible()


# ------------------------------------------------------------------------------------------------ words


def _rounded(number: float, *, up: bool) -> float:
    """To five significant digits, up or down; numbers that have fewer stay as they are."""
    exact = Decimal(repr(number))
    if not exact:
        return 0.0
    last = Decimal(1).scaleb(exact.adjusted() - _DIGITS + 1)
    near = exact.quantize(last)
    if abs(near - exact) <= abs(exact) * Decimal("1e-12"):
        return float(near)
    return float(exact.quantize(last, rounding=ROUND_CEILING if up else ROUND_FLOOR))


def _at_most(tokens: float) -> str:
    return f"{readable(math.floor(round(tokens, 3)))} tokens"


def _at_least(tokens: float) -> str:
    return f"{readable(math.ceil(round(tokens, 3)))} tokens"


def _asked(target: float, names: list[str]) -> str:
    return f"{'they ask' if len(names) > 1 else 'it asks'} for {readable(round(target))} tokens, and"


def _listed(noun: str, names: list[str]) -> str:
    return f"{noun}{'s' if len(names) > 1 else ''} {' and '.join(names)}"


def _supply(problem: Problem) -> str:
    per_bucket = ", ".join(
        f"{bucket} {readable(int(tokens))}" for bucket, tokens in zip(problem.buckets, problem.supply, strict=True)
    )
    return f"its supply of {readable(int(problem.supply.sum()))} tokens ({per_bucket})"


def _pins(problem: Problem) -> str:
    return f"`pin: {{{', '.join(f'{bucket}: {epochs:g}' for bucket, epochs in problem.pins.items())}}}`"


def _choice(remedies: list[str]) -> str:
    if not remedies:
        return "No single change of supply, `max`, `pin`, scale or share would do: loosen the pins first."
    return f"{'Any one of these would do' if len(remedies) > 1 else 'This would do'}: {'; '.join(remedies)}."
