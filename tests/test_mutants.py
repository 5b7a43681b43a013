"""The tool that plants wrong changes: what it changes, and what it takes for noticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .support.asking import ANEW, ask, noticed
from .support.mutants import CORE, ROOT
from .support.mutations import places, planted

CODE = """
def level(n: int = 3, *, deep: bool = False) -> int:
    if TYPE_CHECKING:
        raise ValueError(1)
    if 0 < n <= 4 and not deep:
        log(n)
        return max(n + 1, key(n, way=2))
    if deep:
        raise UserError(f"{n + 1} is too deep")
    return {1: 2, 3: n}[n] if ready() else sum(zip(n, n, strict=True))
"""

CHANGES = {
    "3  ->  4",
    "0 < n <= 4  ->  0 <= n <= 4",
    "0 < n <= 4  ->  0 < n < 4",
    "0  ->  1",
    "4  ->  5",
    "0 < n <= 4 and (not deep)  ->  0 < n <= 4 or not deep",
    "not deep  ->  not not deep",
    "log(n)  ->  None",
    "max(n + 1, key(n, way=2))  ->  min(n + 1, key(n, way=2))",
    "n + 1  ->  n - 1",
    "1  ->  2",
    "key(n, way=2)  ->  key(n)",
    "2  ->  3",
    "if deep:  ->  if not deep:",
    "{1: 2, 3: n}  ->  {1: 2}",
    "{1: 2, 3: n}[n] if ready() else sum(zip(n, n, strict=True))  ->  "
    "sum(zip(n, n, strict=True)) if ready() else {1: 2, 3: n}[n]",
}


def test_what_is_changed_and_what_is_left() -> None:
    tree = ast.parse(CODE)
    made = [planted(tree, place) for place in places(tree)]
    assert {change.what for change in made} == CHANGES
    texts = [ast.unparse(change.tree) for change in made]
    assert len({*texts, ast.unparse(tree)}) == len(texts) + 1  # each differs from all others
    (one,) = (change for change in made if change.what.startswith("log"))
    assert (one.line, one.within) == (6, 2)


def test_the_files_of_the_core_and_their_tests_are_there() -> None:
    for file, tests in CORE.items():
        assert places(ast.parse((ROOT / "src" / "tbr_lightning" / file).read_text())), file
        assert all((ROOT / "tests" / test).exists() for test in tests), file


@pytest.mark.parametrize(
    ("source", "tests", "says"),
    [
        ("def level(): return 3", "from tbr_lightning_x import level", ""),
        ("def level(): return 4", "from tbr_lightning_x import level", "test_it.py::test_level"),
        pytest.param(
            *("raise OSError", "from tbr_lightning_x import level", "test_it.py"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("def level(): return 3", "level = lambda: 3", "another checkout"),
            marks=pytest.mark.slow,
        ),
        (
            "import time\ndef level(): time.sleep(9)",
            "from tbr_lightning_x import level",
            "TIMED OUT",
        ),
    ],
)
def test_what_is_noticed(tmp_path: Path, source: str, tests: str, says: str) -> None:
    copy = tmp_path / "checkout"
    (copy / "src").mkdir(parents=True)
    (copy / "tests").mkdir()
    (copy / "src" / "tbr_lightning_x.py").write_text(f"{source}\n")
    (copy / "tests" / "test_it.py").write_text(
        f"{tests}\n\ndef test_level():\n    assert level() == 3\n"
    )
    limit = 1 if says == "TIMED OUT" else 300
    found = noticed(copy, ["test_it.py"], limit, product="tbr_lightning_x")
    assert (says in found) if says else found == ""


MODULE = """
LEAST = 7


def level(n: int) -> int:
    return n + LEAST


def reached(n: int) -> bool:
    return n >= 3


def unused(n: int) -> int:
    return -n if n else LEAST
"""
USES = """
from tbr_lightning_y import level, reached

def test_level():
    assert level(4) == 11

def test_reached():
    assert reached(5) and not reached(1)
"""


def asked(folder: Path, tests: str) -> dict[str, str]:
    """Return what fails with each change of the module above."""
    copy, file = folder / "checkout", folder / "checkout" / "src" / "tbr_lightning_y.py"
    file.parent.mkdir(parents=True)
    (copy / "tests").mkdir()
    file.write_text(MODULE)
    (copy / "tests" / "test_it.py").write_text(tests)
    tree = ast.parse(MODULE)
    changes = [planted(tree, place) for place in places(tree)]
    answers = ask(copy, ["test_it.py"], file, changes)
    return {change.what: answer for change, answer in zip(changes, answers, strict=True)}


@pytest.mark.slow  # a process for each change
def test_a_change_is_asked_of_the_tests_that_enter_it(tmp_path: Path) -> None:
    found = asked(tmp_path, USES)
    (seen,) = (what for what, answer in found.items() if "test_level: " in answer)
    assert seen == "n + LEAST  ->  n - LEAST"
    assert {what for what, answer in found.items() if not answer} == {
        "n >= 3  ->  n > 3",  # only 3 tells them apart
        "3  ->  4",
    }
    # What is executed at import alone, and what no test enters.
    assert {what for what, answer in found.items() if answer == ANEW} == {
        "7  ->  8",
        "-n if n else LEAST  ->  LEAST if n else -n",
    }


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        pytest.param(
            *(
                f"{USES}\ndef test_more():\n    assert level(1) == 3",
                "without any change: .*test_more",
            ),
            marks=pytest.mark.slow,
        ),
        ("def test_it():\n    pass", "none of them imports it"),
        pytest.param(
            f"{USES}\nimport time\nMADE = []\n\ndef test_first():\n    time.sleep(0.3)\n"
            "    MADE.append(1)\n\ndef test_second():\n    assert MADE",
            "without any change: .*test_second",  # it passes behind the slower one alone
            marks=pytest.mark.slow,
        ),
        pytest.param("import absent", "before any test was run", marks=pytest.mark.slow),
    ],
)
def test_tests_that_say_nothing_of_a_change_are_refused(
    tmp_path: Path, tests: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        asked(tmp_path, tests)
