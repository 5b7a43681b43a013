"""An error of any library in one line."""

from __future__ import annotations

import pytest

from tbr_lightning.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one\n"), "one"),
        (ValueError("x" * 500), "x" * 160),
        (TimeoutError(), "TimeoutError"),
        (AssertionError(" \n"), "AssertionError"),
    ],
)
def test_an_error_in_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_whole_line() -> None:
    assert first_line(ValueError("x" * 500), None) == "x" * 500
