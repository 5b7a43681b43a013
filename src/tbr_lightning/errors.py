"""The one error that a person caused and can fix, and the exit codes."""

from __future__ import annotations

import difflib
import errno
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tbr_lightning.credentials import hidden

_ROOM = 100 * 2**20  # bytes; a disk that a model did not fit on has less, in most cases
_FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded")

USAGE_ERROR = 2
"""Exit code of wrong use or bad input."""

INTERRUPTED = 130
"""Exit code of an interruption, as shells have it."""


class UserError(Exception):
    """Bad input. Its text is shown as it is, without a traceback, and the exit code is 2.

    The text is one sentence (or one per line, where several things are missing) that names the
    field, the value and the fix. Credentials of URLs in it are hidden.
    """

    def __init__(self, text: str) -> None:
        super().__init__(hidden(text))


def command_of(verb: str) -> str:
    """Return how a person types a verb, in the form in which this process was started."""
    if Path(sys.argv[0]).stem == "tbr":
        return f"tbr {verb}"
    return f"python -m tbr_lightning.{verb}"


def first_line(error: BaseException, most: int | None = 200) -> str:
    """Return the first line of an error's text, or its type's name where it has no text.

    Credentials of URLs in it are hidden.

    Args:
        error: Error of any library.
        most: Characters that are kept; ``None`` for all.
    """
    return hidden((str(error).strip() or type(error).__name__).splitlines()[0])[:most]


def in_one_line(error: BaseException, most: int | None = None) -> str:
    """Return the whole text of an error without its line breaks, or its type's name if it has none.

    Args:
        error: Error of any library.
        most: Characters that are kept; ``None`` for all.
    """
    return hidden(" ".join(str(error).split()) or type(error).__name__)[:most]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def disk_full(error: BaseException) -> str | None:
    """Return a sentence if the cause of an error is a full disk, else ``None``.

    Libraries wrap the system's error, or pass on its text alone.
    """
    for cause in causes(error):
        text = str(cause)
        by_number = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if by_number or any(word in text for word in _FULL):
            where = _full_place(cause) or _fullest()
            return (
                f"the disk is full{f' at {where}' if where else ''}: free some space and give the "
                "same command again; what was written before is kept"
            )
    return None


def _full_place(error: BaseException) -> str | None:
    """Return the file of an error of the system's; of a copy, which names two, the full one."""
    if not isinstance(error, OSError):
        return None
    named = [one for one in (error.filename2, error.filename) if isinstance(one, str)]
    for one in named:
        with suppress(OSError):
            if shutil.disk_usage(Path(one).parent).free < _ROOM:
                return one
    return next(iter(named), None)


def _fullest() -> str | None:
    """Return which of the folders that are written to has next to no space left."""
    found = []
    for folder in (str(Path.cwd()), tempfile.gettempdir()):
        with suppress(OSError):
            found.append((shutil.disk_usage(folder).free, folder))
    free, folder = min(found, default=(_ROOM, ""))
    return folder if free < _ROOM else None


def near(word: str, known: Iterable[str]) -> str:
    """Return a suffix such as ``"; did you mean 'lr'?"``, or the known words if none is near."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if match:
        return f"; did you mean '{match[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def one_of(field: str, value: str, known: Iterable[str]) -> None:
    """Raise :class:`UserError` unless ``value`` is one of ``known``."""
    known = list(known)
    if value not in known:
        raise UserError(f"{field}='{value}' is not known{near(value, known)}")


def at_least(field: str, value: float | None, low: float) -> None:
    """Raise :class:`UserError` if ``value`` is given and below ``low``."""
    if value is not None and value < low:
        raise UserError(f"{field}={value} is too small: give at least {low}")


def above(field: str, value: float | None, low: float) -> None:
    """Raise :class:`UserError` if ``value`` is given and not above ``low``."""
    if value is not None and value <= low:
        raise UserError(f"{field}={value} is too small: give a value above {low}")


def within(field: str, value: float, low: float, high: float) -> None:
    """Raise :class:`UserError` unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise UserError(f"{field}={value} is out of range: give a value from {low} to {high}")
