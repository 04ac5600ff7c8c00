"""What is true of a source file, from its syntax tree: the ground truth that simulated agents are judged by.

Each file is parsed once per process and only the facts are kept (a tree is fifty times its source in memory). Agents
never see any of this.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pipeline.synth.tools import Library

_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Facts:
    """Of one file. `top level` means not indented."""

    classes: int
    """top-level classes"""
    functions: int
    """top-level functions (`def`, not `async def`)"""
    defaults: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """top-level functions -> parameters with a plain default and that default as Python writes it"""
    bases: tuple[tuple[str, str], ...]
    """top-level classes -> their base classes, joined by commas"""
    constants: tuple[tuple[str, str], ...]
    """top-level names in capitals -> their plain value as Python writes it"""
    raises: Mapping[str, tuple[str, ...]]
    """exception name -> the functions whose own body raises it, one entry per raise statement; "" outside any"""
    imports: frozenset[str]
    """modules named in plain top-level import statements"""


@lru_cache(maxsize=2048)
def facts_of(library: Library, path: str) -> Facts:
    """The facts of one file."""
    tree = ast.parse(library.text(path))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    imports = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    return Facts(
        classes=len(classes),
        functions=len(functions),
        defaults=tuple((node.name, plain) for node in functions if (plain := _plain_defaults(node))),
        bases=tuple((c.name, ", ".join(map(ast.unparse, c.bases))) for c in classes if c.bases and not c.keywords),
        constants=tuple(found for node in tree.body if (found := _constant(node))),
        raises=_raises(tree),
        imports=frozenset(imports),
    )


def _plain_defaults(node: ast.FunctionDef) -> tuple[tuple[str, str], ...]:
    pairs = zip(reversed(node.args.args), reversed(node.args.defaults), strict=False)
    return tuple(
        (argument.arg, repr(x.value)) for argument, x in pairs if isinstance(x, ast.Constant) and x.value is not ...
    )


def _constant(node: ast.stmt) -> tuple[str, str] | None:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)) if name.isupper():
            return (name, repr(value)) if len(repr(value)) < _LONGEST_VALUE else None
    return None


def _raises(tree: ast.Module) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}

    def visit(node: ast.AST, function: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):  # raise is a statement
                continue
            if isinstance(child, ast.Raise) and child.exc is not None:
                what = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
                if isinstance(what, ast.Name):
                    found[what.id] = (*found.get(what.id, ()), function)
            visit(child, child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function)

    visit(tree, "")
    return found
