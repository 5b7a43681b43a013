"""One look for every progress bar: what, how far, how fast, how long still."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return items per second."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "")


class Bar:
    """A bar under way."""

    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Move the bar on, and show a note such as the loss behind it."""
        self._progress.update(self._task, advance=steps, note=note)  # type: ignore[arg-type]


@contextmanager
def bar(what: str, total: int) -> Iterator[Bar]:
    """Show a progress bar on standard error while it is a terminal; say nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        yield Bar(progress, progress.add_task(what, total=total, note=""))


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield items and move a bar on after each."""
    with bar(what, total) as shown:
        for item in items:
            yield item
            shown.advance()
