"""One look for every progress bar: what, how far, how fast, how long still."""

from __future__ import annotations

import shutil
import sys
import textwrap
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:  # slow to import: a command that only composes a config needs no bar
    from rich.progress import Progress

T = TypeVar("T")

_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def plain(text: str) -> str:
    """Return a text without what would control a terminal: what others wrote must not do so.

    Control characters but line feed and tab, and those that turn the direction of writing, become
    U+FFFD.
    """
    return "".join(
        "\ufffd" if (unicodedata.category(c) == "Cc" and c not in "\n\t") or c in _TURNS else c
        for c in text
    )


def cell(text: str) -> str:
    """Return a text for rich's tables and titles, which shows as it is: it is no markup."""
    from rich.markup import escape

    return escape(plain(text))


def wrapped(text: str, indent: int = 2, stream: TextIO | None = None) -> list[str]:
    """Return a sentence as lines that fit the terminal, those after the first one indented.

    Where the output is a file it is one line, which programs read more easily.

    Args:
        text: Text of one line.
        indent: Blanks before further lines.
        stream: Stream that it is written to; ``None`` is the standard output.
    """
    if not (stream or sys.stdout).isatty():
        return [text]
    wide = max(min(shutil.get_terminal_size().columns, 120), 40)
    first = text[: len(text) - len(text.lstrip())]
    lines = textwrap.wrap(
        text.strip(),
        wide,
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [text]


def duration(seconds: float) -> str:
    """Return a time in words, in the unit that a person would take."""
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.2g} hours" if hours < 100 else f"{hours:,.0f} hours"


_FIRST, _EVERY = 5.0, 30.0  # seconds until the first line where there is no terminal, and between
_SLACK = 0.5  # seconds by which a bar's own line comes first


_last = [0.0]  # when a line was printed where there is no terminal, by the clock of this process


class Bar:
    """A bar under way; where there is no terminal, a line every half minute."""

    def __init__(self, what: str, total: int, progress: Progress | None = None) -> None:
        self._what, self._total, self._progress = what, total, progress
        self._task = progress.add_task(what, total=total, note="") if progress else None
        self._done, self._note, self._began = 0.0, "", time.monotonic()

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Move the bar on, and show a note such as the loss behind it."""
        self._done, self._note = self._done + steps, note
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=steps, note=note)

    def line(self) -> str:
        """Return in words how far it is, how fast it goes, and the time that is left."""
        seconds = time.monotonic() - self._began
        told = f"{self._what}: {self._done:.0f} of {self._total}"
        if not self._done:
            return f"{told} after {duration(seconds)}"
        rate = self._done / max(seconds, 1e-9)
        left = timedelta(seconds=round(max(self._total - self._done, 0) / rate))
        pace = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
        return ", ".join(filter(None, (told, pace, f"{left} left", self._note)))

    def tell(self, ended: threading.Event) -> None:
        """Print lines until it has ended, whether or not an item is done meanwhile."""
        wait = _FIRST
        while not ended.wait(wait):
            wait = _EVERY
            _last[0] = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)


@contextmanager
def alive(what: str) -> Iterator[None]:
    """Print how long it has taken, every half minute in which no bar prints a line.

    Libraries that are loaded, and models that are read or saved, have no bar. On a terminal, where
    somebody sees that the command is not done, nothing is printed.
    """
    if sys.stderr.isatty():
        yield
        return
    ended, began = threading.Event(), time.monotonic()
    _last[0] = began

    def tell() -> None:
        while not ended.wait(max(_last[0] + _EVERY + _SLACK - time.monotonic(), 0.0)):
            now = time.monotonic()
            if now - _last[0] >= _EVERY:
                _last[0] = now
                passed = timedelta(seconds=round(now - began))
                print(f"{what}: {passed} so far", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


@contextmanager
def bar(what: str, total: int) -> Iterator[Bar]:
    """Show a progress bar on standard error; lines with rate and time left where it is a file."""
    if not sys.stderr.isatty():
        shown, ended = Bar(what, total), threading.Event()
        # A thread: a batch of items may take minutes and then be done all at once.
        teller = threading.Thread(target=shown.tell, args=(ended,), daemon=True)
        teller.start()
        try:
            yield shown
        finally:
            ended.set()
            teller.join()
        return
    from tbr_lightning.progress_columns import drawn

    with drawn() as (progress, room):
        what = what if len(what) <= room else f"{what[: room - 1]}…"
        yield Bar(what, total, progress)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield items and move a bar on after each."""
    with bar(what, total) as shown:
        for item in items:
            yield item
            shown.advance()
