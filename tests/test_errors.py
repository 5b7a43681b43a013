"""An error of any library in one line."""

from __future__ import annotations

import pytest

from tbr_lightning.errors import UserError, above, at_least, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one\n"), "one"),
        (ValueError("x" * 500), "x" * 200),
        (TimeoutError(), "TimeoutError"),
        (AssertionError(" \n"), "AssertionError"),
    ],
)
def test_an_error_in_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_whole_line() -> None:
    assert first_line(ValueError("x" * 500), None) == "x" * 500


def test_bounds_hold_for_what_is_given() -> None:
    at_least("a", None, 1)
    at_least("a", 1, 1)
    above("a", None, 0)
    above("a", 0.1, 0)
    with pytest.raises(UserError, match="a=0 is too small: give at least 1"):
        at_least("a", 0, 1)
    with pytest.raises(UserError, match="a=0 is too small: give a value above 0"):
        above("a", 0, 0)
