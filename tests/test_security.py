"""SECURITY.md: every promise names a test that there is."""

from __future__ import annotations

import ast
import re

from .conftest import ROOT

TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def promises() -> list[list[str]]:
    """Return the cells of the rows of promises."""
    section = TEXT.partition("## What is promised")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_promise_names_a_test_that_exists() -> None:
    found = promises()
    assert len(found) >= 15
    for against, _, tests in found:
        named = _NAMED.findall(tests)
        assert named, f"no test is named for: {against}"
        # Nothing but tests stands in that cell.
        assert re.sub(_NAMED, "", tests).strip(" ,") == "", tests
        for file, function in named:
            assert (ROOT / file).is_file(), file
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            functions = {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}
            assert any(name.startswith("test_") for name in functions), file
            if function:
                assert function in functions, f"{file}::{function}"


def test_it_says_how_to_report_who_is_trusted_and_what_is_not_promised() -> None:
    headings = re.findall(r"^## (.+)$", TEXT, re.M)
    assert headings == [
        "Reporting",
        "Who is trusted",
        "What is protected",
        "What is promised",
        "What is not promised",
    ]
