"""Plants small wrong changes in the decision core and asks the mirrored tests to notice them.

``python -m tests.support.mutants [--each N] [--seed S] [--jobs J] [FILE …]`` works on copies of the
checkout, so that an interruption leaves nothing behind. It prints each change that no test noticed,
and the share that was noticed; the exit code is 1 below 90%.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600  # seconds of the tests of one change; beyond it the change counts as noticed
WANTED = 0.9

CORE = {
    "registry/rules.py": ["registry/test_rules.py", "registry/test_gate.py"],
    "registry/gate.py": ["registry/test_gate.py", "registry/test_rules.py"],
    "registry/entry.py": ["registry/test_ledger.py", "registry/test_rules.py"],
    "registry/ledger.py": ["registry/test_ledger.py"],
    "registry/alias_sync.py": ["registry/test_alias_moves.py", "registry/test_ledger.py"],
    "registry/sample_size.py": ["registry/test_gate.py", "registry/test_rules.py"],
    "evaluation/statistics.py": ["evaluation/test_statistics.py", "evaluation/test_comparison.py"],
    "evaluation/results.py": ["evaluation/test_results.py", "evaluation/test_content.py"],
    "evaluation/comparison.py": ["evaluation/test_comparison.py"],
    "evaluation/power.py": ["evaluation/test_power.py"],
    "evaluation/verdicts.py": ["evaluation/test_verdicts.py"],
    "evaluation/rationale.py": ["evaluation/test_rationale.py"],
    "evaluation/judges/content.py": ["evaluation/test_content.py", "evaluation/test_rules.py"],
    "evaluation/judges/safe_completion.py": [
        "evaluation/test_rules.py",
        "evaluation/test_content.py",
    ],
    "evaluation/judges/rules.py": ["evaluation/test_rules.py", "evaluation/test_content.py"],
    "evaluation/degenerate.py": ["evaluation/test_content.py"],
    "evaluation/contamination.py": ["evaluation/test_contamination.py"],
    "data/conclusions.py": ["reflection/test_conclusions.py"],
    "data/row_formats.py": ["data/test_row_formats.py"],
    "data/split.py": ["data/test_think_format.py", "data/test_tokens.py"],
    "reflection/checks.py": ["reflection/test_planted.py", "reflection/test_collect.py"],
    "data/tokens.py": ["data/test_tokens.py", "data/test_think_format.py"],
    "training/batches.py": ["training/test_batches.py"],
    "training/module.py": ["training/test_module.py"],
    "training/checkpoints.py": ["training/test_checkpoints.py"],
    "tuning/scheduling.py": ["tuning/test_scheduling.py"],
    "objectives/sft.py": ["objectives"],
    "objectives/dpo.py": ["objectives"],
    "objectives/kto.py": ["objectives"],
    "objectives/simpo.py": ["objectives"],
    "objectives/orpo.py": ["objectives"],
    "models/likelihood.py": ["models/test_likelihood.py"],
    "models/export.py": ["models/test_export.py"],
}
"""Files of the core, and the tests that are to notice what is wrong in them."""

_SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And,
}  # fmt: skip

_OTHERS = {"min": "max", "max": "min", "any": "all", "all": "any"}


def changes(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Yield line, description and tree of every change that can be planted.

    Comparisons, arithmetic, conditions, numbers, keyword arguments, members of literals and
    statements of effect; nothing in the text of a message, an annotation or a class body.
    """
    passive = {id(inner) for node in ast.walk(tree) for inner in _passive(node)}
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in passive or not _can_change(node):
            continue
        copy = deepcopy(tree)
        target = next(n for k, n in enumerate(ast.walk(copy)) if k == number)
        before = _short(target)
        _change(target)
        yield getattr(node, "lineno", 0), f"{before}  ->  {_short(target)}", copy


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) < 120 else text[:117] + "..."


def _passive(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in messages, annotations, decorators and class bodies."""
    parts: list[ast.AST | None] = []
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom):
        parts = [node]
    elif isinstance(node, ast.AnnAssign | ast.arg):
        parts = [node.annotation]
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


def _can_change(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return type(node.ops[0]) in _SWAPS
    if isinstance(node, ast.BinOp):
        return type(node.op) in _SWAPS
    if isinstance(node, ast.Call):
        return _swapped_call(node) or bool(node.keywords)
    if isinstance(node, ast.Dict | ast.Set):
        return len(_members(node)) > 1
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.AugAssign):
        return type(node.op) in _SWAPS
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    return negated or isinstance(node, ast.BoolOp | ast.IfExp)


def _swapped_call(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id in _OTHERS


def _members(node: ast.Dict | ast.Set) -> list[ast.expr]:
    return node.values if isinstance(node, ast.Dict) else node.elts


def _change(node: ast.AST) -> None:
    if isinstance(node, ast.Compare):
        node.ops[0] = _SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        node.op = _SWAPS[type(node.op)]()
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)  # not not
    elif isinstance(node, ast.Call) and _swapped_call(node):
        node.func = ast.Name(_OTHERS[_name(node.func)])
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


def _warm() -> None:
    """Import what the tests import and nothing of the product: each change starts from here."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in (
        "pytest",
        "torch",
        "transformers",
        "lightning",
        "peft",
        "mlflow",
        "optuna",
        "datasets",
    ):
        importlib.import_module(name)


def noticed(copy: Path, tests: list[str]) -> bool:
    """Return whether the tests fail in a copy of the checkout, in a process forked from here."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(_run_tests(copy, tests))
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _run_tests(copy: Path, tests: list[str]) -> int:
    code = 1
    try:
        os.setsid()
        os.chdir(copy)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        os.environ["PYTHONPATH"] = str(copy / "src")
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.path[:0] = [str(copy), str(copy / "src")]
        for name in [n for n in sys.modules if n == "tests" or n.startswith("tests.")]:
            del sys.modules[name]
        found = [str(copy / "tests" / test) for test in tests]
        words = ["-n0", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *found]
        code = int(pytest.main(words))
    finally:
        return code  # noqa: B012  a child must never come back into the parent's loop


def _planted(job: int, jobs: int, args: argparse.Namespace) -> tuple[int, int]:
    """Plant every ``jobs``-th change in a copy; return how many, and how many went unseen."""
    found = survived = 0
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "checkout"
        leave = shutil.ignore_patterns(".git", ".venv", ".tbr", "mlruns", "mlartifacts", "*.db")
        shutil.copytree(ROOT, copy, ignore=leave)
        for file in args.files:
            path = copy / "src" / "tbr_lightning" / file
            source = path.read_text()
            every = list(changes(ast.parse(source)))
            path.write_text(ast.unparse(ast.parse(source)))
            if noticed(copy, CORE[file]):
                raise SystemExit(f"the tests of {file} fail without any change: fix them first")
            drawn = random.Random(args.seed).sample(every, min(args.each, len(every)))
            for line, what, tree in drawn[job::jobs]:
                path.write_text(ast.unparse(tree))
                found += 1
                if not noticed(copy, CORE[file]):
                    survived += 1
                    print(f"NOT NOTICED  {file}:{line}  {what}", flush=True)
            path.write_text(source)
            print(f"{file}: {found - survived} of {found} noticed so far (job {job})", flush=True)
    return found, survived


def main() -> int:
    """Plant, ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=8, help="changes of a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="changes tested at once")
    parser.add_argument("files", nargs="*", default=list(CORE))
    args = parser.parse_args()
    _warm()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("fork")) as pool:
        counts = list(pool.map(_planted, range(args.jobs), repeat(args.jobs), repeat(args)))
    found, survived = (sum(column) for column in zip(*counts, strict=True))
    share = (found - survived) / found if found else 1.0
    print(f"{found - survived} of {found} changes were noticed ({100 * share:.1f}%)")
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
