"""The tool that plants wrong changes: what it changes, and what it takes for noticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .support.asking import noticed
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
        ("raise OSError", "from tbr_lightning_x import level", "test_it.py"),
        ("def level(): return 3", "level = lambda: 3", "another checkout"),
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
