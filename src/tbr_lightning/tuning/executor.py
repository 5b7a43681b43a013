"""Where the process of a trial is started, and how its end is detected."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tbr_lightning.tuning.folder import Spec
from tbr_lightning.tuning.trial import TrialContext


def devices_asked(gpus: float | None, ranks: int) -> float:
    """Return the GPUs that a trial asks a scheduler for.

    Args:
        gpus: Value of ``sweep.gpus``; ``None`` for a study without GPUs.
        ranks: Processes of the trial's training; several need a GPU each.
    """
    if not gpus:
        return 0.0
    return gpus if ranks == 1 else max(gpus, float(ranks))


class Worker(Protocol):
    """A running trial, here or on another machine."""

    @property
    def begun(self) -> float:
        """Start time on the monotonic clock; the current time, while it waits for its turn."""

    @property
    def lost(self) -> str:
        """Reason why its end is not known from its own process; empty where it is."""

    def exit_code(self) -> int | None:
        """Return its exit code (negative: the signal), or ``None`` while it runs or waits."""

    def renew(self) -> None:
        """Show it, where it is on another machine, that its runner is alive."""

    def memory(self) -> float:
        """Return the memory of all its processes in GiB; 0 where a scheduler limits it."""

    def ask_to_stop(self) -> None:
        """Ask it to write a checkpoint and end."""

    def kill(self) -> None:
        """End it and all that it started, at once."""


class Executor(Protocol):
    """Starts trials."""

    def start(self, folder: Path, around: TrialContext, spec: Spec) -> Worker:
        """Start a trial whose folder is written, or hand it to a scheduler."""

    def close(self) -> None:
        """Disconnect from the scheduler."""
