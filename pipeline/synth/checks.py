"""What checks share: reading task data that may say anything, and an evaluator of plain arithmetic.

Verifier data comes with the row and may be hostile: every number has bounds here, which bound the time of every check.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


class UnusableTask(ValueError):
    """The task data are missing, of the wrong type or out of bounds."""


@dataclass(frozen=True)
class Task:
    """Task data, read with bounds."""

    data: Mapping[str, Any]

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number within bounds."""
        return _integer(self.data.get(name), name, low, high)

    def integers(self, name: str, low: int, high: int, at_most: int = 64) -> list[int]:
        """A list of whole numbers within bounds."""
        return [_integer(x, name, low, high) for x in self._list(name, at_most)]

    def rows(self, name: str, low: int, high: int, at_most: int = 64) -> list[list[int]]:
        """A list of lists of whole numbers."""
        rows = self._list(name, at_most)
        if not all(isinstance(row, list) and 0 < len(row) <= at_most for row in rows):
            raise UnusableTask(name)
        return [[_integer(x, name, low, high) for x in row] for row in rows]

    def text(self, name: str, at_most: int) -> str:
        """A string of bounded length."""
        return _text(self.data.get(name), name, at_most)

    def texts(self, name: str, at_most: int = 64) -> list[str]:
        """A list of short strings."""
        return [_text(x, name, 64) for x in self._list(name, at_most)]

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.data.get(name)
        if not isinstance(value, bool):
            raise UnusableTask(name)
        return value

    def items(self, name: str, at_most: int = 64) -> list[int] | list[str]:
        """A list of whole numbers, or of strings: things that can be put in order."""
        values = self._list(name, at_most)
        return (
            self.texts(name, at_most) if isinstance(values[0], str) else self.integers(name, -(10**9), 10**9, at_most)
        )

    def _list(self, name: str, at_most: int) -> list[Any]:
        values = self.data.get(name)
        if not isinstance(values, list) or not 0 < len(values) <= at_most:
            raise UnusableTask(name)
        return values


Check = Callable[[Task, str], bool]
"""Whether the answer is right; finds out in another way than the generator does. ValueError: the answer is not one."""


def _integer(value: object, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UnusableTask(name)
    return value


def _text(value: object, name: str, at_most: int) -> str:
    if not isinstance(value, str) or len(value) > at_most:
        raise UnusableTask(name)
    return value


def fraction(answer: str) -> Fraction:
    """A whole number, a fraction or a decimal of sane length; ValueError otherwise."""
    if len(answer) > 60 or "e" in answer.lower() or "_" in answer:
        raise ValueError(answer)
    try:
        return Fraction(answer)
    except ZeroDivisionError as problem:
        raise ValueError(answer) from problem


def integer(answer: str) -> int:
    """A whole number of sane length; ValueError otherwise."""
    if not 0 < len(answer) <= 400 or not answer.isascii() or not answer.removeprefix("-").isdigit():
        raise ValueError(answer)
    return int(answer)


def arithmetic(text: str, names: Mapping[str, Fraction] | None = None) -> Fraction:
    """The value of an expression of whole numbers, names, + - * and brackets."""

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)) if abs(number) < 10**12:
                return Fraction(number)
            case ast.Name(id=name) if names and name in names:
                return names[name]
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -value(inner)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return value(left) - value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return value(left) * value(right)
        raise UnusableTask(text)

    if len(text) > 400:
        raise UnusableTask(text)
    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as problem:
        raise UnusableTask(text) from problem
