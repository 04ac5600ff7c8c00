"""The `curriculum` block of a recipe: phases, mixes, epoch rules, one scale for all budgets.

Everything that can be known without data is checked here, and every error is a sentence that names the legal values;
what depends on measured supply is the solver's business. A mistake costs seconds here and days there: the full
recipe is 23.1T tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([KMBT]?)")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LARGEST_TOKENS = 10**18  # leaves room for sums of phases in int64
_MIX_TOLERANCE = 1e-6


def quantity(value: Any) -> int:
    """A number of tokens from `15T`, `500B`, `2.5M`, `100K` or a whole number."""
    expected = "write a whole number above 0, or a number with K, M, B or T behind it, such as 500B or 2.5M"
    found = _QUANTITY.fullmatch(value.strip().upper()) if isinstance(value, str) else None
    if found:
        exact = Decimal(found[1]) * _UNITS[found[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        exact = Decimal(value)
    else:
        msg = f"{value!r} is not a number of tokens: {expected}"
        raise ValueError(msg)
    if exact != int(exact) or not 0 < exact <= _LARGEST_TOKENS:
        msg = f"{value!r} is {exact.normalize():f} tokens: {expected}, at most {readable(_LARGEST_TOKENS)}"
        raise ValueError(msg)
    return int(exact)


def readable(tokens: int) -> str:
    """A whole number with its unit and no digit lost: 1250000 is `1.25M`, 1234567 is `1.234567M`."""
    for unit, size in reversed(_UNITS.items()):
        if abs(tokens) >= size > 1:
            return f"{(Decimal(tokens) / size).normalize():f}{unit}"
    return str(tokens)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        msg = f"{value!r} is not a name: use letters A-Z a-z, digits, _ and - only"
        raise ValueError(msg)
    return value


Name = Annotated[str, AfterValidator(_name)]
Tokens = Annotated[int, BeforeValidator(quantity)]


def _no_twice(what: str, names: Iterable[str]) -> list[str]:
    seen = list(names)
    return [f"{what} {name!r} stands {seen.count(name)} times; each may stand once" for name in dict.fromkeys(seen)
            if seen.count(name) > 1]  # fmt: skip


def _raise(errors: list[str]) -> None:
    if errors:
        raise ValueError("; ".join(errors))


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Phase(_Block):
    """One step of the curriculum: token budget, sequence length, packing, mix."""

    name: Name
    tokens: Tokens
    """Budget at scale 1."""
    sequence_length: int = Field(ge=2, le=1 << 30)
    """Tokens per training sequence."""
    packing: Literal["concatenate", "best_fit"]
    mix: dict[Name, float]
    """Share of the budget per dataset; the shares sum to 1."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        errors = [f"mix of phase '{self.name}' gives dataset '{name}' the share {share:g}: leave it out, or give it more than 0"
                  for name, share in self.mix.items() if not (share > 0 and math.isfinite(share))]  # fmt: skip
        total = math.fsum(self.mix.values())
        if not errors and not abs(total - 1) <= _MIX_TOLERANCE:
            shares = " + ".join(f"{name} {share:g}" for name, share in self.mix.items()) or "it is empty"
            errors.append(f"mix of phase '{self.name}' sums to {total:.9g}, not to 1 ({shares})")
        _raise(errors)
        return self

    def budget(self, scale: float) -> int:
        """Tokens of this phase at `scale`, rounded to a whole number."""
        return round(Decimal(self.tokens) * Decimal(repr(scale)))

    def share(self, dataset: str) -> float:
        """The dataset's share, 0 when the phase does not mix it; shares of a phase sum to 1 exactly."""
        return self.mix.get(dataset, 0.0) / math.fsum(self.mix.values())


class EpochRule(_Block):
    """How often the buckets of one dataset may and must be seen."""

    pin: dict[Name, float] = {}
    """Epochs of a bucket over the phases in `over`, met exactly."""
    over: list[Name] | None = None
    """Phases that the pins speak of; all when null."""
    max: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Most epochs of any bucket over the whole curriculum. 4 epochs cost almost nothing: arXiv:2305.16264."""
    order: list[Name] | None = None
    """Buckets from worst to best, where the recipe's own order is not meant."""
    values: dict[Name, float] | None = None
    """Worth of a fresh token per bucket, never falling from worst to best; default 1.0 to 1.2."""

    @field_validator("over", "order")
    @classmethod
    def _not_empty(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            _raise(["an empty list says nothing: name at least one, or leave it out"] if not value else [])
            _raise(_no_twice("name", value))
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        errors = [f"pin of bucket '{name}' is {epochs:g} epochs: it must be a number from 0 to `max`, which is {self.max:g}"
                  for name, epochs in self.pin.items() if not 0 <= epochs <= self.max]  # fmt: skip
        errors += [f"value of bucket '{name}' is {worth:g}: it must be a number above 0"
                   for name, worth in (self.values or {}).items() if not (worth > 0 and math.isfinite(worth))]  # fmt: skip
        if self.order is not None:
            errors += unknown_buckets(self, self.order)
        _raise(errors)
        return self


def unknown_buckets(rule: EpochRule, order: list[str]) -> list[str]:
    """What is wrong with the buckets that `rule` names, given all buckets from worst to best."""
    legal = ", ".join(order)
    errors = [f"pin names bucket '{name}', which is none of: {legal}" for name in rule.pin if name not in order]
    if rule.values is not None and set(rule.values) != set(order):
        errors.append(f"values are given for {', '.join(rule.values)}, but must be given for each of: {legal}")
    elif rule.values is not None:
        worths = [rule.values[name] for name in order]
        errors += [f"value of bucket '{better}' ({high:g}) is below that of the worse bucket '{worse}' ({low:g})"
                   for worse, better, low, high in zip(order, order[1:], worths, worths[1:], strict=False)
                   if high < low]  # fmt: skip
    return errors


class Curriculum(_Block):
    """All phases in order, with the epoch rules of their datasets."""

    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Multiplies every budget."""
    epochs: dict[Name, EpochRule] = {}
    phases: list[Phase] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        errors = _no_twice("phase", (phase.name for phase in self.phases))
        errors += [f"phase '{phase.name}' has {readable(phase.tokens)} tokens x scale {self.scale:g}, less than one token: raise either"
                   for phase in self.phases if phase.budget(self.scale) < 1]  # fmt: skip
        for dataset, rule in self.epochs.items():
            errors += self._rule_errors(dataset, rule)
        _raise(errors)
        return self

    def _rule_errors(self, dataset: str, rule: EpochRule) -> list[str]:
        if dataset not in self.datasets():
            return [f"epochs name dataset '{dataset}', but no phase mixes it; mixed are: {', '.join(self.datasets())}"]
        phases = [phase.name for phase in self.phases]
        errors = [f"epochs of '{dataset}': `over` names phase '{name}', which is none of: {', '.join(phases)}"
                  for name in rule.over or [] if name not in phases]  # fmt: skip
        mixing = [phase.name for phase in self.phases if dataset in phase.mix]
        if not errors and rule.over is not None and not set(rule.over) & set(mixing):
            errors.append(
                f"epochs of '{dataset}': none of the phases in `over` mixes it; these do: {', '.join(mixing)}"
            )
        return errors

    def datasets(self) -> list[str]:
        """Every dataset that a phase mixes, in order of first use."""
        return list(dict.fromkeys(dataset for phase in self.phases for dataset in phase.mix))

    def rule(self, dataset: str) -> EpochRule:
        """The dataset's epoch rule, the default one when the recipe gives none."""
        return self.epochs.get(dataset, EpochRule())

    def target(self, phase: Phase, dataset: str) -> float:
        """Tokens that `phase` asks of `dataset`."""
        return phase.budget(self.scale) * phase.share(dataset)

    def is_pinned(self, phase: Phase, dataset: str) -> bool:
        """Whether the dataset's pins speak of this phase."""
        over = self.rule(dataset).over
        return over is None or phase.name in over
