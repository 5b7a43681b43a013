"""What a progress bar on a terminal shows, column by column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

_OTHERS = 56  # columns of bar, counts, rate, times and note


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return items per second."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "")


@contextmanager
def drawn() -> Iterator[tuple[Progress, int]]:
    """Draw bars on standard error; yield what draws them, and the columns left for their names."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12 if console.width < 100 else 30),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console,
        transient=True,
    ) as progress:
        yield progress, max(console.width - _OTHERS, 12)  # numbers are not to be cut
