"""How often each bucket of one dataset is seen: a concave problem with an exact answer, no iteration and no tolerance.

    maximise    sum_b value_b * D'(U_b, e_b)                worth of what is seen, e_b the total epochs of bucket b
    such that   sum_b e_b U_b = T,  e_b <= cap              budgets are met, nothing is seen too often
                sum_b a_b U_b = T_a,  a_b = pin_b           the same within the phases that pins speak of, a_b <= e_b
                a and e never fall from worst to best

D'(U, e) = U (e <= 1), else U + U R (1 - exp(-(e - 1) / R)): what e epochs of U tokens are worth in fresh tokens
(arXiv:2305.16264). With values that never fall from worst to best the optimum is water-filling: every bucket is read
until its next token is worth the same level, within bounds. Exposure is piecewise linear in the logarithm of that
level, so the level that spends the target is found on a path of at most 3 nodes per bucket and by one interpolation.
Sums are then right to rounding (1e-15), which `check` verifies to 1e-9. A solver for general programs would need
its own tolerance, and a second step to restore the sums.

Legend: arrays are float64[buckets], worst bucket first; `pinned` are the phases that pins speak of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

REPETITION_DECAY = 15.387756  # R*_D of the data-constrained scaling law, arXiv:2305.16264
TOLERANCE = 1e-9
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Problem:
    """One dataset: its buckets that hold tokens, worst to best, and what the phases ask of it."""

    buckets: tuple[str, ...]
    supply: np.ndarray
    values: np.ndarray
    pins: Mapping[str, float]
    cap: float
    pinned_target: float
    """Tokens over the phases that pins speak of."""
    other_target: float
    """Tokens over the other phases."""

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and most epochs over the pinned phases: a pin bounds worse buckets from above, better ones from below."""
        pins = [self.pins.get(bucket) for bucket in self.buckets]
        low = np.maximum.accumulate([0.0 if pin is None else pin for pin in pins])
        high = np.minimum.accumulate([self.cap if pin is None else pin for pin in pins][::-1])[::-1]
        return low, high

    def limits(self) -> tuple[float, float, float]:
        """Tokens: least and most over the pinned phases, most over all phases."""
        low, high = self.bounds()
        return float(low @ self.supply), float(high @ self.supply), float(self.cap * self.supply.sum())

    def pins_agree(self) -> bool:
        """Whether no bucket is pinned above a better one."""
        low, high = self.bounds()
        return bool(np.all(low <= high))

    def is_feasible(self) -> bool:
        """Whether some epochs meet every constraint."""
        if not self.pins_agree():
            return False
        least, most, most_in_all = self.limits()
        slack = 1 + _ROUNDING
        total = self.pinned_target + self.other_target
        return (
            least <= self.pinned_target * slack and self.pinned_target <= most * slack and total <= most_in_all * slack
        )


@dataclass(frozen=True)
class Exposure:
    """Epochs per bucket over the pinned phases, and over all phases."""

    pinned: np.ndarray
    total: np.ndarray


def repeated_value(epochs: np.ndarray) -> np.ndarray:
    """D'/D: what a token seen `epochs` times is worth per time, against fresh tokens; 1 up to one epoch."""
    beyond = np.maximum(epochs, 1.0) - 1
    return np.asarray((1 - REPETITION_DECAY * np.expm1(-beyond / REPETITION_DECAY)) / (1 + beyond))


def solve(problem: Problem) -> Exposure:
    """The best epochs of a feasible problem."""
    low, high = problem.bounds()
    cap = np.full_like(high, problem.cap)
    supply, values = problem.supply, problem.values
    if problem.other_target == 0:
        total = water_fill(supply, values, low, high, problem.pinned_target)
        return check(problem, Exposure(total, total))
    total = water_fill(supply, values, low, cap, problem.pinned_target + problem.other_target)
    if np.minimum(total, high) @ supply < problem.pinned_target:
        # The best total leaves too little below the pins: fill the room below and above them, each to a level of its
        # own. The lower room needs more than the joint level gave it and the upper less, so a bucket held down by a pin
        # rises less above it than any better one, and the order holds here too.
        below = water_fill(supply, values, low, high, problem.pinned_target)
        total = below + (water_fill(supply, values, high, cap, problem.other_target + high @ supply) - high)
    room = np.minimum(total, high) - low
    rest, room_tokens = problem.pinned_target - low @ supply, room @ supply
    pinned = low + room * (min(max(rest / room_tokens, 0.0), 1.0) if room_tokens > 0 else 0.0)
    return check(problem, Exposure(pinned, total))


def water_fill(supply: np.ndarray, values: np.ndarray, low: np.ndarray, high: np.ndarray, target: float) -> np.ndarray:
    """Epochs between `low` and `high` that spend `target` tokens to the greatest value.

    A bucket takes 1 + R ln(value / level) epochs where its value is above the level, and none where it is below; at the
    level itself it takes any part of its first epoch, and buckets of equal value take it together.
    """
    logs = np.log(values)
    tops = [log - (bound - 1) / REPETITION_DECAY for log, bounds in zip(logs, zip(low, high, strict=True), strict=True)
            for bound in bounds if bound > 1]  # fmt: skip
    path = [low]
    for level in sorted({*logs, *tops}, reverse=True):
        epochs = np.maximum(1 + REPETITION_DECAY * (logs - level), 1.0)
        path += [np.clip(np.where(started, epochs, 0.0), low, high) for started in (logs > level, logs >= level)]
    path.append(high)
    spent = np.maximum.accumulate([epochs @ supply for epochs in path])
    at = int(np.clip(np.searchsorted(spent, target), 1, len(path) - 1))
    step = spent[at] - spent[at - 1]
    share = min(max((target - spent[at - 1]) / step, 0.0), 1.0) if step > 0 else 1.0
    return np.asarray(np.clip(path[at - 1] + share * (path[at] - path[at - 1]), low, high))


def check(problem: Problem, found: Exposure) -> Exposure:
    """`found`, after every promise was verified to 1e-9 of its size."""
    low, high = problem.bounds()
    total_target = problem.pinned_target + problem.other_target
    promises = {
        "the pinned phases' target": abs(found.pinned @ problem.supply - problem.pinned_target) <= TOLERANCE * problem.pinned_target,
        "the total target": abs(found.total @ problem.supply - total_target) <= TOLERANCE * total_target,
        "pins": all(abs(found.pinned[at] - problem.pins[bucket]) <= TOLERANCE * problem.pins[bucket]
                    for at, bucket in enumerate(problem.buckets) if bucket in problem.pins),
        "the cap": bool(np.all(found.total <= problem.cap * (1 + TOLERANCE))),
        "never less of a better bucket": bool(np.all(np.diff(found.total) >= -TOLERANCE * problem.cap)
                                              and np.all(np.diff(found.pinned) >= -TOLERANCE * problem.cap)),
        "bounds": bool(np.all(found.pinned >= low * (1 - TOLERANCE)) and np.all(found.pinned <= high * (1 + TOLERANCE))
                       and np.all(found.pinned <= found.total * (1 + TOLERANCE))),
    }  # fmt: skip
    broken = [promise for promise, kept in promises.items() if not kept]
    if broken:
        msg = f"the solver broke its promise about {', '.join(broken)} for {problem}: {found}; this is a defect of tokenmill"
        raise RuntimeError(msg)
    return found
