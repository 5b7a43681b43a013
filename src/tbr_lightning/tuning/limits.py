"""What is asked of one run of the runner, and who else takes part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.processes import cores
from tbr_lightning.tuning.folder import Spec
from tbr_lightning.tuning.scheduling import Budget, Claim
from tbr_lightning.tuning.study import Study


@dataclass(frozen=True)
class Limits:
    """What is asked of one run of the runner.

    Attributes:
        budget: Of the study, over all its runs and runners.
        workers: Trials at the same time here.
        timeout: Seconds that a trial may take.
        memory: GiB that a trial's processes may hold together.
        max_failures: Failed trials in a row that end the study.
        retries: How often a trial whose process died is run again.
        grace: Seconds of silence after which others take a trial over.
    """

    budget: Budget
    workers: int = 1
    timeout: float | None = None
    memory: float | None = None
    max_failures: int = 5
    retries: int = 1
    grace: float = 60.0


@dataclass(frozen=True)
class Hooks:
    """Who else takes part.

    Attributes:
        prepare: Writes the spec of a trial, and more that its entry reads, into its folder.
        ended: Hears of each trial whose process has ended: number, MLflow's status, reason.
        told: Hears when the storage knows of another finished trial.
        tick: Hears of the trials under way, often.
        said: Takes a line for people.
    """

    prepare: Callable[[Claim, int], Spec]
    ended: Callable[[int, str, str], None] = lambda number, status, reason: None
    told: Callable[[int], None] = lambda number: None
    tick: Callable[[Mapping[int, float], bool], None] = lambda running, changed: None
    said: Callable[[str], None] = print


def trials_root(paths: PathsConfig, study: Study) -> Path:
    """Return the folder of a study's trials' folders."""
    return Path(paths.runs).absolute() / "sweeps" / study.key


def threads_each(workers: int) -> int:
    """Return the cores of each of several trials at once."""
    return max(1, cores() // workers)
