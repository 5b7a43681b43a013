"""Asks tests whether they notice a change of a file, each time in a process forked for it.

Importing costs far more than most tests. So :func:`ask` collects the tests of a file once, forks
for each change, exchanges the code of the file's functions there, and runs the tests that enter the
changed one. What is executed while a module is imported cannot be changed so: :func:`noticed`
imports all of it anew.
"""

from __future__ import annotations

import ast
import builtins
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from .mutations import Change

LONGEST = 600  # seconds of all tests of a file without a change
LIMIT = 60, 10  # seconds, and times the time without a change: beyond both a change has hung
ANEW = "?"
"""Of a change that no test executes once its module is imported."""


def noticed(
    copy: Path, tests: Sequence[str], limit: float = LONGEST, product: str = "tbr_lightning"
) -> str:
    """Return what fails in a copy of the checkout; empty if nothing.

    Args:
        copy: Folder of the copy.
        tests: Files and folders below its ``tests``.
        limit: Seconds until the tests have hung, which counts as a failure.
        product: Package that the tests must have imported from the copy.
    """

    def run(first: Path) -> None:
        code = _pytest(copy, tests, _First(first))
        imported = getattr(sys.modules.get(product), "__file__", None) or ""
        if not code and not imported.startswith(str(copy)):
            first.write_text("the tests import another checkout, or nothing of the product")
        elif code and not first.exists():
            first.write_text(f"exit code {code}")

    return _forked(run, copy, limit)


def ask(copy: Path, tests: Sequence[str], file: Path, changes: Sequence[Change]) -> list[str]:
    """Return of each change of a file what fails with it, empty if nothing, or :data:`ANEW`.

    Raises:
        ValueError: The tests fail without any change, or do not import the file.
    """
    answers = copy.parent / "answers"
    answers.unlink(missing_ok=True)

    def run(first: Path) -> None:
        code = _pytest(copy, tests, _Asking(copy, file, changes, answers))
        if not answers.exists():
            first.write_text(f"pytest ended with {code} before any test was run")

    told = _forked(run, copy, LONGEST * (2 + len(changes)))
    if told:
        raise ValueError(told)
    found, libraries = json.loads(answers.read_text())
    if isinstance(found, str):
        raise ValueError(f"its tests without any change: {found}")
    for name in libraries:  # the next file's tests find them imported
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)
    return list(found)


class _First:
    """A plug-in of pytest that keeps what failed first."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._keep(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._keep(report)

    def _keep(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.file.exists():
            said = report.longreprtext.splitlines() or [""]
            self.file.write_text(f"{report.nodeid}: {said[-1]}")


class _Asking:
    """A plug-in of pytest that runs the collected tests once for each change."""

    def __init__(self, copy: Path, file: Path, changes: Sequence[Change], answers: Path) -> None:
        self.copy, self.file, self.changes, self.answers = copy, file, changes, answers
        self.first = copy.parent / "first"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _First(self.first).pytest_runtest_logreport(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Ask without a change, then with each."""
        if session.testsfailed or not session.items:
            return None
        gc.unfreeze()
        functions = [
            one
            for one in gc.get_objects()
            if isinstance(one, FunctionType) and one.__code__.co_filename == str(self.file)
        ]
        gc.freeze()
        libraries = [
            name
            for name, module in list(sys.modules.items())
            if "site-packages" in (getattr(module, "__file__", None) or "")
        ]
        if not functions:
            self.answers.write_text(json.dumps(("none of them imports it", libraries)))
            return True
        tree = ast.parse(self.file.read_text())
        original = compile(tree, str(self.file), "exec", dont_inherit=True)
        entered = self.copy.parent / "entered"

        def unchanged(_: Path) -> None:
            _exchange(functions, compile(_recording(tree), str(self.file), "exec"))
            entered.write_text(json.dumps(list(_traced(session.items))))

        answers: list[str] | str = _forked(unchanged, self.copy, LONGEST)
        if not answers:
            runs = [(seconds, set(lines)) for seconds, lines in json.loads(entered.read_text())]
            fastest = sorted(range(len(runs)), key=lambda n: runs[n][0])
            tests = [(session.items[n], runs[n][1]) for n in fastest]
            limit = max(LIMIT[0], LIMIT[1] * sum(seconds for seconds, _ in runs))
            # In another order they must pass as well: what fails then would count as noticed.
            answers = _forked(_until_one_fails([test for test, _ in tests]), self.copy, limit) or [
                self._of_change(tests, functions, original, change, limit)
                for change in self.changes
            ]
        self.answers.write_text(json.dumps((answers, libraries)))
        return True

    def _of_change(
        self,
        tests: Sequence[tuple[pytest.Item, set[int]]],
        functions: Sequence[FunctionType],
        original: CodeType,
        change: Change,
        limit: float,
    ) -> str:
        code = compile(change.tree, str(self.file), "exec", dont_inherit=True)
        if _bare(code) != _bare(original):
            return ANEW
        some = [test for test, lines in tests if not change.within or change.within in lines]
        if not some:
            return ANEW

        def run(first: Path) -> None:
            if _exchange(functions, code):
                _until_one_fails(some)(first)
            else:
                first.write_text(ANEW)

        return _forked(run, self.copy, limit)


def _until_one_fails(tests: Sequence[pytest.Item]) -> Callable[[Path], None]:
    def run(first: Path) -> None:
        for test in _each(tests):
            if first.exists():
                test.session._setupstate.teardown_exact(None)  # what it has started is to end
                return

    return run


def _each(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    """Run tests; yield each when it has been run."""
    for number, item in enumerate(items):
        following = items[number + 1] if number + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        yield item


def _traced(items: Sequence[pytest.Item]) -> Iterator[tuple[float, list[int]]]:
    """Yield of each test its seconds, and the lines of the functions that it entered."""
    lines = set[int]()
    builtins.__entered__ = lines.add  # type: ignore[attr-defined]
    begun = time.monotonic()
    for _ in _each(items):
        yield time.monotonic() - begun, sorted(lines)
        lines.clear()
        begun = time.monotonic()


def _recording(tree: ast.Module) -> ast.Module:
    """Return a file whose functions report that they are entered."""
    recording = deepcopy(tree)
    for node in ast.walk(recording):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            call = ast.parse(f"__entered__({node.lineno})").body[0]
            for inner in ast.walk(call):
                ast.copy_location(inner, node)
            node.body.insert(0, call)
    return recording


def _codes(code: CodeType) -> dict[tuple[str, int], list[CodeType]]:
    """Return the functions of a module by name and first line, nested ones too."""
    found: dict[tuple[str, int], list[CodeType]] = {}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found.setdefault((inner.co_qualname, inner.co_firstlineno), []).append(inner)
            for key, more in _codes(inner).items():
                found.setdefault(key, []).extend(more)
    return found


def _bare(code: CodeType) -> list[Any]:
    """Return what is executed when a module is imported: its own code and that of its classes."""
    found: list[Any] = [code.co_code, code.co_names]
    for inner in code.co_consts:
        if not isinstance(inner, CodeType):
            found.append((type(inner), inner))
        elif not inner.co_flags & 2:  # CO_NEWLOCALS: a function has it, the body of a class not
            found.append(_bare(inner))
    return found


def _exchange(functions: Sequence[FunctionType], code: CodeType) -> bool:
    """Give functions the code that a module has for them; return whether that can be done."""
    wanted = _codes(code)
    for one in functions:
        own = one.__code__
        new = wanted.get((own.co_qualname, own.co_firstlineno), [own])
        if len(new) > 1:
            return False  # two in one line
        try:
            one.__code__ = new[0]
        except ValueError:  # it has another number of variables from outside
            return False
    return True


def _forked(work: Callable[[Path], None], copy: Path, limit: float) -> str:
    """Run something in a process of its own; return what it wrote to the file that it is given.

    The cache is empty then but for the base models, which cost a minute: a change is to be
    executed, and not to be hidden by what was kept without it.
    """
    first = copy.parent / "first"
    first.unlink(missing_ok=True)
    for path in (copy / ".tbr" / "cache").glob("*"):
        if path.is_dir() and not path.name.startswith("microworld-base-"):
            shutil.rmtree(path)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            work(first)
            code = 0
        finally:
            os._exit(code)  # never back into the parent's loop
    end, told = time.monotonic() + limit, "TIMED OUT"
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            told = first.read_text() if first.exists() else f"exit code {code}" if code else ""
            break
        time.sleep(0.02)
    with suppress(ProcessLookupError):  # also what a failed test left running
        os.killpg(child, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(child, 0)
    first.unlink(missing_ok=True)
    return told


def _pytest(copy: Path, tests: Sequence[str], plugin: object) -> int:
    """Run pytest in a copy of the checkout; whoever calls it is a process of its own."""
    os.chdir(copy)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.environ["PYTHONPATH"] = str(copy / "src")
    os.environ["TBR_CACHE"] = str(copy / ".tbr" / "cache")
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.path[:0] = [str(copy), str(copy / "src")]
    for name in [n for n in sys.modules if n == "tests" or n.startswith("tests.")]:
        del sys.modules[name]
    found = [str(copy / "tests" / test) for test in tests]
    words = ["-n0", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    words.append(f"--basetemp={copy.parent / 'tmp'}")
    return int(pytest.main([*words, *found], plugins=[plugin]))
