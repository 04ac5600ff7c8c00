"""A small evaluator of a Python subset that tells what happens, line by line.

It walks the syntax tree itself and never hands the program to Python, so that running the program (in the sandbox) is an
independent check of the answer. It knows what the generated programs use and refuses everything else; steps are bounded.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Value = Any  # int, bool, str, None, and list, tuple, dict of them


@dataclass(frozen=True)
class Event:
    """One thing that happened: `kind`, the line, and texts that a narrator needs."""

    kind: str
    line: int
    about: str
    detail: str = ""
    value: str = ""


class Unsupported(ValueError):
    """The program uses something outside the subset, or runs too long."""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Return(Exception):
    def __init__(self, value: Value):
        self.value = value


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": len,
    "sum": sum,
    "max": max,
    "min": min,
    "sorted": sorted,
    "abs": abs,
    "str": str,
    "int": int,
    "list": list,
    "set": set,
    "range": lambda *a: list(range(*a)),
    "enumerate": lambda *a: list(enumerate(*a)),
    "zip": lambda *a: list(zip(*a, strict=False)),
    "reversed": lambda a: list(a)[::-1],
}
_METHODS: dict[type, list[str]] = {
    str: [
        "upper",
        "lower",
        "replace",
        "count",
        "find",
        "startswith",
        "endswith",
        "split",
        "join",
        "title",
        "strip",
        "index",
    ],
    list: ["append", "pop", "insert", "index", "count", "remove", "reverse"],
    dict: ["get", "items", "keys", "values", "pop"],
}


@dataclass
class Evaluator:
    """Runs one program. `events` tells the story, `output` is what was printed."""

    max_steps: int = 400
    events: list[Event] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    _functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    _steps: int = 0
    _depth: int = 0

    def run(self, source: str) -> str:
        """What the program prints, without the last line end."""
        self._block(ast.parse(source).body, {})
        return "\n".join(self.output)

    def _tell(self, kind: str, node: ast.AST, about: str, detail: str = "", value: str = "") -> None:
        self.events.append(Event(kind, getattr(node, "lineno", 0), about, detail, value))

    def _block(self, body: list[ast.stmt], names: dict[str, Value]) -> None:
        for statement in body:
            self._steps += 1
            if self._steps > self.max_steps:
                msg = f"more than {self.max_steps} steps"
                raise Unsupported(msg)
            self._statement(statement, names)

    def _statement(self, node: ast.stmt, names: dict[str, Value]) -> None:
        match node:
            case ast.FunctionDef():
                self._functions[node.name] = node
            case ast.Assign(targets=[target], value=value):
                shown = self._filled(value, names)
                result = self._value(value, names)
                self._bind(target, result, names)
                self._tell("assign", node, ast.unparse(target), shown, repr(result))
            case ast.AugAssign(target=target, op=op, value=value):
                reading = ast.parse(ast.unparse(target), mode="eval").body
                whole = ast.BinOp(reading, op, value)
                shown = self._filled(whole, names)
                result = self._value(whole, names)
                self._bind(target, result, names)
                self._tell("assign", node, ast.unparse(target), shown, repr(result))
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=args)):
                self.output.append(" ".join(str(self._value(a, names)) for a in args))
                self._tell("print", node, ast.unparse(node), "", self.output[-1])
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=place)) as call):
                shown = self._filled(call, names, keep=place)
                self._value(call, names)
                self._tell("change", node, shown, ast.unparse(place), repr(self._value(place, names)))
            case ast.If():
                shown, told = self._filled(node.test, names), ast.unparse(node.test)
                truth = bool(self._value(node.test, names))
                self._tell("test", node, told, shown, str(truth))
                self._block(node.body if truth else node.orelse, names)
            case ast.While():
                self._while(node, names)
            case ast.For():
                self._for(node, names)
            case ast.Return(value=value) if value is not None:
                shown = self._filled(value, names)
                result = self._value(value, names)
                self._tell("return", node, shown, "", repr(result))
                raise _Return(result)
            case ast.Break():
                self._tell("break", node, "break")
                raise _Break
            case ast.Continue():
                self._tell("continue", node, "continue")
                raise _Continue
            case ast.Pass():
                pass
            case _:
                msg = f"statement {type(node).__name__}"
                raise Unsupported(msg)

    def _while(self, node: ast.While, names: dict[str, Value]) -> None:
        while True:
            shown = self._filled(node.test, names)
            truth = bool(self._value(node.test, names))
            self._tell("loop_test", node, ast.unparse(node.test), shown, str(truth))
            if not truth:
                return
            try:
                self._block(node.body, names)
            except _Break:
                return
            except _Continue:
                continue

    def _for(self, node: ast.For, names: dict[str, Value]) -> None:
        for item in list(self._value(node.iter, names)):
            self._bind(node.target, item, names)
            self._tell("turn", node, ast.unparse(node.target), "", repr(item))
            try:
                self._block(node.body, names)
            except _Break:
                return
            except _Continue:
                continue
        self._tell("loop_end", node, ast.unparse(node.target))

    def _bind(self, target: ast.expr, value: Value, names: dict[str, Value]) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = value
            case ast.Tuple(elts=parts):
                for part, item in zip(parts, value, strict=True):
                    self._bind(part, item, names)
            case ast.Subscript(value=place, slice=index):
                self._value(place, names)[self._value(index, names)] = value
            case _:
                msg = f"target {type(target).__name__}"
                raise Unsupported(msg)

    def _value(self, node: ast.expr, names: dict[str, Value]) -> Value:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return names[name]
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](self._value(left, names), self._value(right, names))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand, names)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, names)
            case ast.BoolOp(op=op, values=values):
                result = None
                for part in values:
                    result = self._value(part, names)
                    if bool(result) == isinstance(op, ast.Or):
                        return result
                return result
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._comparison(left, ops, others, names)
            case ast.IfExp(test=test, body=body, orelse=other):
                return self._value(body if self._value(test, names) else other, names)
            case ast.List(elts=parts):
                return [self._value(part, names) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(self._value(part, names) for part in parts)
            case ast.Dict(keys=keys, values=values):
                pairs = zip(keys, values, strict=True)
                return {self._value(k, names): self._value(x, names) for k, x in pairs if k is not None}
            case ast.Subscript(value=place, slice=ast.Slice(lower=low, upper=high, step=step)):
                cut = slice(*(None if part is None else self._value(part, names) for part in (low, high, step)))
                return self._value(place, names)[cut]
            case ast.Subscript(value=place, slice=index):
                return self._value(place, names)[self._value(index, names)]
            case ast.ListComp(elt=what, generators=[one]):
                return [self._value(what, inner) for inner in self._chosen(one, names)]
            case ast.JoinedStr(values=pieces):
                return "".join(self._piece(piece, names) for piece in pieces)
            case ast.Call():
                return self._call(node, names)
            case _:
                msg = f"expression {type(node).__name__}"
                raise Unsupported(msg)

    def _comparison(
        self, left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr], names: dict[str, Value]
    ) -> bool:
        before = self._value(left, names)
        for op, other in zip(ops, others, strict=True):
            after = self._value(other, names)
            if not _COMPARE[type(op)](before, after):
                return False
            before = after
        return True

    def _chosen(self, one: ast.comprehension, names: dict[str, Value]) -> Iterator[dict[str, Value]]:
        for item in self._value(one.iter, names):
            inner = dict(names)
            self._bind(one.target, item, inner)
            if all(self._value(test, inner) for test in one.ifs):
                yield inner

    def _piece(self, piece: ast.expr, names: dict[str, Value]) -> str:
        return str(self._value(piece.value if isinstance(piece, ast.FormattedValue) else piece, names))

    def _call(self, node: ast.Call, names: dict[str, Value]) -> Value:
        args = [self._value(a, names) for a in node.args]
        match node.func:
            case ast.Name(id=name) if name in self._functions:
                return self._own(self._functions[name], args, node)
            case ast.Name(id=name) if name in _FUNCTIONS:
                options = {k.arg: self._value(k.value, names) for k in node.keywords if k.arg == "reverse"}
                return _FUNCTIONS[name](*args, **options)
            case ast.Attribute(value=place, attr=method):
                thing = self._value(place, names)
                if method in _METHODS.get(type(thing), ()):
                    result = getattr(thing, method)(*args)
                    return list(result) if type(thing) is dict and method in ("items", "keys", "values") else result
        msg = f"call of {ast.unparse(node.func)}"
        raise Unsupported(msg)

    def _own(self, function: ast.FunctionDef, args: list[Value], node: ast.Call) -> Value:
        self._depth += 1
        if self._depth > 30:
            msg = "recursion deeper than 30"
            raise Unsupported(msg)
        names = dict(zip((a.arg for a in function.args.args), args, strict=True))
        self._tell("call", node, f"{function.name}({', '.join(map(repr, args))})")
        try:
            self._block(function.body, names)
        except _Return as back:
            return back.value
        finally:
            self._depth -= 1
        return None

    def _filled(self, node: ast.expr, names: dict[str, Value], keep: ast.expr | None = None) -> str:
        """The expression as text, with names replaced by their values where those are short."""
        bound = {
            n.id
            for one in ast.walk(node)
            if isinstance(one, ast.comprehension)
            for n in ast.walk(one.target)
            if isinstance(n, ast.Name)
        }

        class Fill(ast.NodeTransformer):
            def visit_Name(self, one: ast.Name) -> ast.expr:
                value = names.get(one.id)
                if one.id in bound or value is None or len(repr(value)) > 40:
                    return one
                return ast.Constant(value) if isinstance(value, (int, str)) else ast.Name(repr(value), ast.Load())

            def visit_Call(self, one: ast.Call) -> ast.expr:
                func = one.func
                if isinstance(func, ast.Attribute) and func.value is not keep:
                    func = ast.Attribute(self.visit(func.value), func.attr, ast.Load())
                return ast.Call(func, [self.visit(a) for a in one.args], one.keywords)

            def visit_JoinedStr(self, one: ast.JoinedStr) -> ast.expr:
                return one

        return ast.unparse(ast.fix_missing_locations(Fill().visit(_copied(node) if keep is None else node)))


def _copied(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body
