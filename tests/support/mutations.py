"""Small changes of a Python file: where they can be planted, and the file with one of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

_SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And,
}  # fmt: skip

_OTHERS = {"min": "max", "max": "min", "any": "all", "all": "any"}


def places(tree: ast.Module) -> list[tuple[int, int]]:
    """Return where a change can be planted: the number of a node, and which part of it.

    Comparisons, arithmetic, conditions, numbers, keyword arguments, members of literals and
    statements of effect; nothing in the text of a message, an annotation or a class body.
    """
    passive = {id(inner) for node in ast.walk(tree) for inner in _passive(node)}
    return [
        (number, part)
        for number, node in enumerate(ast.walk(tree))
        if id(node) not in passive
        for part in range(_parts(node))
    ]


@dataclass(frozen=True)
class Change:
    """A file with one change.

    Attributes:
        line: Line of the change.
        what: Code before and after it.
        within: Line of the innermost function that holds it; 0 for none.
        tree: The file.
    """

    line: int
    what: str
    within: int
    tree: ast.Module


def planted(tree: ast.Module, place: tuple[int, int]) -> Change:
    """Return a copy of a file with the change at a place."""
    copy = deepcopy(tree)
    target = next(node for number, node in enumerate(ast.walk(copy)) if number == place[0])
    before, line = _short(target), getattr(target, "lineno", 0)
    holders = [
        node.lineno
        for node in ast.walk(copy)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(inner is target for inner in ast.walk(node))
    ]
    _change(target, place[1])
    what = f"{before}  ->  {_short(target)}"
    return Change(line, what, max(holders, default=0), ast.fix_missing_locations(copy))


def _short(node: ast.AST) -> str:
    shown = ast.If(node.test, [ast.Pass()], []) if isinstance(node, ast.If) else node
    text = " ".join(ast.unparse(shown).split()).removesuffix(" pass")
    return text if len(text) < 120 else text[:117] + "..."


def _passive(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in messages, annotations, decorators and class bodies, or is never executed."""
    parts: list[ast.AST | None] = []
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom):
        parts = [node]
    elif isinstance(node, ast.AnnAssign | ast.arg):
        parts = [node.annotation]
    elif isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
        parts = [node]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        parts = [*node.decorator_list, node.returns]
    elif isinstance(node, ast.ClassDef):
        parts = [*node.decorator_list, *(n for n in node.body if not hasattr(n, "args"))]
    elif isinstance(node, ast.Call) and _name(node.func) in {"UserError", "warning", "info"}:
        parts = [node]
    for part in parts:
        if part is not None:
            yield from ast.walk(part)


def _name(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _parts(node: ast.AST) -> int:
    """Return in how many ways a node can be changed."""
    if isinstance(node, ast.Compare):
        return sum(type(op) in _SWAPS for op in node.ops)
    if isinstance(node, ast.Call):
        return int(_swapped_call(node) or (bool(node.keywords) and not _guards(node)))
    if isinstance(node, ast.Dict | ast.Set):
        return int(len(_members(node)) > 1)
    if isinstance(node, ast.Constant):
        return int(type(node.value) in (int, float))
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return int(type(node.op) in _SWAPS)
    if isinstance(node, ast.Expr):
        return int(isinstance(node.value, ast.Call))
    if isinstance(node, ast.If):
        return int(isinstance(node.test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr))
    if isinstance(node, ast.UnaryOp):
        return int(isinstance(node.op, ast.Not))
    return int(isinstance(node, ast.BoolOp | ast.IfExp))


def _swapped_call(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id in _OTHERS


def _guards(node: ast.Call) -> bool:
    """Return whether the last keyword only raises an error, as ``strict`` of ``zip`` does."""
    return _name(node.func) == "zip" and node.keywords[-1].arg == "strict"


def _members(node: ast.Dict | ast.Set) -> list[ast.expr]:
    return node.values if isinstance(node, ast.Dict) else node.elts


def _change(node: ast.AST, part: int) -> None:
    if isinstance(node, ast.Compare):
        node.ops[part] = _SWAPS[type(node.ops[part])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        node.op = _SWAPS[type(node.op)]()
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    elif isinstance(node, ast.If):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)  # not not
    elif isinstance(node, ast.Call) and _swapped_call(node):
        node.func = ast.Name(_OTHERS[_name(node.func)], ast.Load())
    elif isinstance(node, ast.Call):
        node.keywords.pop()
    elif isinstance(node, ast.Dict):
        node.keys.pop()
        node.values.pop()
    elif isinstance(node, ast.Set):
        node.elts.pop()
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value += 1
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)
