"""Terminal display of a study under way: counts, the front so far, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tbr_lightning.progress import cell
from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning.storage import Opened
from tbr_lightning.tuning.study import Study

_REFRESH = 0.5  # seconds between two frames
_OTHERS = 5.0  # seconds between two checks of what other runners have done
_FRONT = 8  # lines of the front in the terminal


class View:
    """A live table on a terminal; elsewhere a line for each trial that ends.

    Args:
        study: Study as its file describes it.
        opened: The study in its storage.
        budget: Number of finished trials to reach.
        workers: Number of trials at the same time here.
    """

    def __init__(self, study: Study, opened: Opened, budget: int, workers: int) -> None:
        self.study, self.opened = study, opened
        self.budget, self.workers = budget, workers
        self.front: list[FrozenTrial] = []
        self.counts: dict[str, int] = {}
        self._seen: set[int] = set()
        self._seconds: list[float] = []
        self._looked = self._drawn = 0.0
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._tty = sys.stderr.isatty()

    def showing(self) -> AbstractContextManager[Any]:
        """Keep the table on the terminal, if there is one, until the context ends."""
        return self._live if self._tty else nullcontext()

    @property
    def done(self) -> int:
        """Number of finished trials."""
        return self.counts.get("COMPLETE", 0) + self.counts.get("PRUNED", 0)

    def look(self) -> list[FrozenTrial]:
        """Read what has happened since the last call; return the trials that have finished."""
        self._looked = time.monotonic()
        self.counts = self.opened.counts()
        trials = self.opened.study.get_trials(deepcopy=False)
        new = [t for t in trials if t.state.is_finished() and t.number not in self._seen]
        self._seen |= {trial.number for trial in new}
        self._seconds += [
            trial.user_attrs["seconds"]
            for trial in new
            if trial.state is not TrialState.FAIL and "seconds" in trial.user_attrs
        ]
        self.front = fronts.pareto_front(self.study, new, self.front)
        return new

    def told(self, number: int) -> None:
        """Print how a trial of this runner ended."""
        for trial in self.look():
            if trial.number == number:
                self.say(self._line(trial))

    def say(self, line: str) -> None:
        """Print a line above the live table."""
        if self._tty:
            self._live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def tick(self, running: Mapping[int, float], changed: bool) -> None:
        """Draw a frame if it is time."""
        now = time.monotonic()
        if now - self._looked > _OTHERS:
            self.look()
        if self._tty and (changed or now - self._drawn > _REFRESH):
            self._drawn = now
            self._live.update(self._frame(running), refresh=True)

    def eta(self, running: Mapping[int, float]) -> float | None:
        """Return the estimated seconds left, if the trials so far allow an estimate."""
        if not self._seconds:
            return None
        recent = self._seconds[-50:]
        each = sum(recent) / len(recent)
        left = max(self.budget - self.done - len(running), 0)
        under_way = sum(max(each - seconds, 0.0) for seconds in running.values())
        return (left * each + under_way) / max(self.workers, 1)

    def _line(self, trial: FrozenTrial) -> str:
        head = f"[{self.done}/{self.budget}] trial {trial.number}"
        if trial.state is TrialState.COMPLETE:
            reused = all(one.get("reused") for one in trial.user_attrs.get("runs") or [{}])
            note = ", taken from earlier runs" if reused else ""
            bad = ", breaks a constraint" if not fronts.is_feasible(self.study, trial) else ""
            return f"{head}: {fronts.point_text(self.study, trial)}{bad}{note}"
        word = "pruned" if trial.state is TrialState.PRUNED else "failed"
        reason = trial.user_attrs.get("reason", "")
        return f"{head} {word}: {reason}  ({fronts.params_text(trial.params)})"

    def _frame(self, running: Mapping[int, float]) -> Group:
        bar = Progress(
            TextColumn(f"study {self.study.key}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[note]}", markup=False),
        )
        left = self.eta(running)
        counts = [
            f"{count} {word}"
            for word, state in (("running", "RUNNING"), ("pruned", "PRUNED"), ("failed", "FAIL"))
            if (count := self.counts.get(state, 0))
        ]
        remaining = [] if left is None else [f"about {_duration(left)} left"]
        note = ", ".join([f"{self.done} of {self.budget} done", *counts, *remaining])
        bar.add_task("", total=self.budget, completed=self.done, note=note)
        parts: list[Progress | Text | Table] = [bar]
        if running:
            words = ", ".join(f"{n} ({_duration(s)})" for n, s in sorted(running.items()))
            parts.append(Text(f"under way here: trial {words}", style="dim"))
        if self.front:
            parts.append(self._front_table(self.front[:_FRONT]))
        return Group(*parts)

    def _front_table(self, front: Sequence[FrozenTrial]) -> Table:
        many = len(self.study.objectives) > 1
        table = Table(
            "trial",
            *map(cell, self.study.objectives),
            "point",
            title="front so far" if many else "best so far",
        )
        for trial in front:
            values = [
                fronts.measured(name, value)
                for name, value in zip(self.study.objectives, trial.values, strict=True)
            ]
            table.add_row(str(trial.number), *values, cell(fronts.params_text(trial.params)))
        return table


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
