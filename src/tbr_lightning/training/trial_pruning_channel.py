"""Reports of a run to the pruner that may end it early, and its answers, as files in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tbr_lightning.data.cache import write_whole

_LOOK = 0.02  # seconds between two checks for an answer


class Pruned(KeyboardInterrupt):
    """The run was asked to stop; like every run that is stopped, it ends as KILLED."""


@dataclass(frozen=True)
class PruningChannel:
    """Questions and answers in a folder, which outlive either side and need no connection.

    Attributes:
        folder: Folder shared with the side that answers.
        metric: Name of the metric that training reports; empty where others ask, or only look.
        patience: Seconds to wait for an answer; without one the run goes on.
    """

    folder: Path
    metric: str = ""
    patience: float = 60.0

    @property
    def _questions(self) -> Path:
        return self.folder / "reports.jsonl"

    @property
    def _answers(self) -> Path:
        return self.folder / "answers"

    @property
    def pruned(self) -> bool:
        """Whether an answer was to stop."""
        return (self.folder / "pruned").exists()

    def clear(self) -> None:
        """Delete the questions of an earlier attempt."""
        for file in (self._questions, self.folder / "pruned", *self._answers.glob("*")):
            file.unlink(missing_ok=True)

    def ask(self, values: Mapping[int, float]) -> bool:
        """Report numbers by step and return whether to stop; waits for the answer."""
        self._answers.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in self.reports())
        with self._questions.open("a") as file:
            file.write(json.dumps([number, sorted(values.items())]) + "\n")
        answer = self._answers / str(number)
        until = time.monotonic() + self.patience
        while not answer.exists():
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK)
        if answer.read_text() != "stop":
            return False
        (self.folder / "pruned").touch()
        return True

    def reports(self, after: int = 0) -> Iterator[tuple[int, dict[int, float]]]:
        """Yield (number, values by step) of each question after the first ``after`` ones."""
        try:
            lines = self._questions.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for line in lines[after:]:
            if line.endswith("\n"):  # else it is still being written
                number, values = json.loads(line)
                yield number, {int(step): float(value) for step, value in values}

    def answer(self, number: int, *, stop: bool) -> None:
        """Answer a question."""
        write_whole(self._answers / str(number), "stop" if stop else "go on")
