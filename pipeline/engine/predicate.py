"""`when: "quality_rank < 12 and language == 'en'"`: a small expression over a batch's columns, compiled to Arrow kernels.

Parsed with `ast` and never evaluated as Python: only names, literals, comparisons, `in`, `and`, `or`, `not`,
`is None` and `is not None` are understood. A row for which the answer is null counts as false.
"""

from __future__ import annotations

import ast
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}


class Predicate:
    """A compiled `when`. `columns` are the names that it reads."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            msg = f"when: {text!r} is not an expression ({error.args[0] if error.args else error})"
            raise ValueError(msg) from None
        self.columns = sorted({node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)})
        self._check(self._tree)

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.BoolOp(values=values):
                for value in values:
                    self._check(value)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._check(operand)
            case ast.Compare(left=ast.Name(), ops=[op], comparators=[right]) if self._comparable(op, right):
                pass
            case ast.Name():
                pass
            case _:
                msg = (
                    f"when: cannot understand {ast.unparse(node)!r} in {self.text!r}; write comparisons of a column with a "
                    "value (==, !=, <, <=, >, >=, in [..], is None), joined by and, or, not"
                )
                raise ValueError(msg)

    @staticmethod
    def _comparable(op: ast.cmpop, right: ast.expr) -> bool:
        if isinstance(op, (ast.In, ast.NotIn)):
            return isinstance(right, (ast.List, ast.Tuple)) and all(_is_literal(e) for e in right.elts)
        if isinstance(op, (ast.Is, ast.IsNot)):
            return isinstance(right, ast.Constant) and right.value is None
        return type(op) in _COMPARISONS and _is_literal(right)

    def mask(self, docs: pa.RecordBatch) -> pa.BooleanArray:
        """bool[n], never null."""
        return pc.fill_null(self._evaluate(self._tree, docs), False)

    def _evaluate(self, node: ast.expr, docs: pa.RecordBatch) -> Any:
        match node:
            case ast.BoolOp(op=op, values=values):
                answers = [self._evaluate(value, docs) for value in values]
                combine = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                result = answers[0]
                for answer in answers[1:]:
                    result = combine(result, answer)
                return result
            case ast.UnaryOp(operand=operand):
                return pc.invert(self._evaluate(operand, docs))
            case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[right]):
                return _compare(docs.column(name), op, ast.literal_eval(right))
            case ast.Name(id=name):
                return docs.column(name).cast(pa.bool_())
        raise AssertionError(ast.dump(node))  # _check let nothing else pass


def _is_literal(node: ast.expr) -> bool:
    try:
        return isinstance(ast.literal_eval(node), (str, int, float, bool))
    except ValueError:
        return False


def _compare(column: pa.Array, op: ast.cmpop, value: Any) -> pa.Array:
    match op:
        case ast.In() | ast.NotIn():
            found = pc.is_in(column, value_set=pa.array(list(value)).cast(column.type))
            return pc.invert(found) if isinstance(op, ast.NotIn) else found
        case ast.Is():
            return column.is_null()
        case ast.IsNot():
            return column.is_valid()
    return pc.call_function(_COMPARISONS[type(op)], [column, pa.scalar(value)])
