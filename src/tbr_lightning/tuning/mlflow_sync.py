"""A study in MLflow: one run for it, one beneath for each trial, updated while it goes on.

Optuna's storage is the truth; the runs are for people to look at. So a tracker that does not
answer stops no study: what it missed is sent once it answers again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
import yaml
from mlflow.exceptions import MlflowException
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.credentials import without_credentials
from tbr_lightning.errors import first_line
from tbr_lightning.tracking.open_run import child_run, start_run
from tbr_lightning.tracking.run import Point, Run
from tbr_lightning.tracking.search import runs_beneath
from tbr_lightning.tracking.store import connect
from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning.storage import Opened
from tbr_lightning.tuning.study import Study

FRONT = "front.json"
"""Artifact of the study's run: the Pareto front so far."""

_RUN = "mlflow_run"  # attribute of the study that names its run
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


@contextmanager
def parent_run(study: Study, config: SweepConfig, opened: Opened) -> Iterator[str]:
    """Open the study's run, the one that an earlier or another runner made if there is one.

    It ends as FINISHED if the block does, as KILLED after an interruption, and as FAILED with the
    reason. Where another runner goes on, its next trial marks the run as running again.

    Args:
        study: Study as its file describes it.
        config: Config of the command.
        opened: The study in its storage, where an attribute keeps the run's id.

    Yields:
        The run's id.
    """
    experiment_id = connect(config.tracking)
    tags = {
        "tbr.study": study.key,
        "tbr.study_name": study.name,
        "tbr.objectives": ", ".join(f"{goal} {name}" for name, goal in study.objectives.items()),
    }
    with ExitStack() as stack:
        with opened.locked("run"):  # of two runners that begin at once, one makes it
            known = opened.study.user_attrs.get(_RUN)
            if known is not None and not Run(known).is_open_to(experiment_id):
                known = None
            title = f"sweep {study.name}"
            run = stack.enter_context(
                start_run("sweep", title, config, config.tracking, tags, run_id=known)
            )
            opened.study.set_user_attr(_RUN, run.id)
        text = yaml.safe_dump(without_credentials(dict(study.settings)), sort_keys=False)
        run.log_text(text, "study.yaml")
        if known is not None:
            _end_orphans(run.id, experiment_id, opened.study)
        yield run.id


def _end_orphans(run_id: str, experiment_id: str, storage_study: optuna.Study) -> None:
    """End what a killed runner left open beneath the study's run."""
    left = runs_beneath(run_id, status="RUNNING")
    if not left:
        return
    states = {str(t.number): t.state for t in storage_study.get_trials(deepcopy=False)}
    for child, _, tags in left:
        state = states.get(tags.get("tbr.trial", ""))
        # A trial that runs may be another runner's.
        if state not in (TrialState.RUNNING, TrialState.WAITING):
            Run(child).end(_STATUS.get(state, "KILLED"))


@contextmanager
def trial_run(
    parent_run_id: str, study: str, number: int, params: Mapping[str, Any], config: Any
) -> Iterator[str]:
    """Open the run of a trial, in the process that runs it.

    Args:
        parent_run_id: ID of the study's run, open in the runner's process.
        study: Key of the study.
        number: Number of the trial.
        params: Parameters that the trial tries.
        config: Config of any command, whose ``tracking`` names the store.

    Yields:
        The run's id. Runs that are started within nest beneath it.
    """
    tags = {"tbr.study": study, "tbr.trial": str(number)}
    with child_run(
        Run(parent_run_id),
        "trial",
        f"trial {number}",
        config.tracking,
        params=params,
        tags=tags,
    ) as run:
        yield run.id


def close_child(parent_run_id: str, number: int, status: str, reason: str | None = None) -> None:
    """End a trial's run and what is open beneath it, whether or not its process still lives.

    Args:
        parent_run_id: ID of the study's run.
        number: Number of the trial.
        status: FINISHED, KILLED for a pruned or interrupted trial, or FAILED.
        reason: Reason, for people.
    """
    with _tolerant(f"the status of trial {number}"):
        found = runs_beneath(parent_run_id, {"tbr.trial": str(number)})
        # A trial that is run again has a run for each time; the last one has its result.
        for place, (child, was, _) in enumerate(found):
            if place == 0:
                Run(child).end(status, reason)
            elif was == "RUNNING":
                Run(child).end("FAILED", reason)


@dataclass
class _Shown:
    """What the run of a study shows already."""

    numbers: set[int] = field(default_factory=set)
    logged: set[int] = field(default_factory=set)  # by another runner, or by one before this
    front: list[FrozenTrial] = field(default_factory=list)


_shown: dict[str, _Shown] = {}  # of each study's run, in this process


def refresh(storage_study: optuna.Study, study: Study, parent_run_id: str) -> None:
    """Bring the study's run up to date after a trial: counts, best and front so far, numbers.

    Only what finished since the last call is looked at, so ten thousand trials cost no more to
    show than ten. Numbers of trial ``n`` are metrics ``trial/NAME`` at step ``n``, with the time
    at which it finished: sending them again changes nothing.
    """
    with _tolerant("the study's state"):
        _refresh(storage_study, study, parent_run_id)


def _refresh(storage_study: optuna.Study, study: Study, parent_run_id: str) -> None:
    run, shown = Run(parent_run_id), _shown.get(parent_run_id)
    if shown is None:
        first = next(iter(study.objectives))
        shown = _Shown(logged=run.steps_of(f"trial/{first}"))
    trials = storage_study.get_trials(deepcopy=False)
    new = [t for t in trials if t.state.is_finished() and t.number not in shown.numbers]
    front = fronts.pareto_front(study, new, shown.front)
    unlogged = [t for t in fronts.finished(new) if t.number not in shown.logged]
    points = [
        Point(f"trial/{name}", value, int(1000 * ended.timestamp()), trial.number)
        for trial in unlogged
        if (ended := trial.datetime_complete) is not None
        for name, value in _numbers(study, trial).items()
    ]
    changed = [t.number for t in front] != [t.number for t in shown.front]
    if changed:
        run.log_table(table(study, front), FRONT)
    run.log_points(points, _tags(study, trials, front))
    run.reopen()
    # Only now: what failed on the way is sent with the next trial.
    shown.numbers |= {trial.number for trial in new}
    shown.front = front
    _shown[parent_run_id] = shown


def table(study: Study, front: list[FrozenTrial]) -> list[dict[str, Any]]:
    """Return the front as rows: trial, objectives with their intervals, constraints, parameters."""
    rows = []
    for trial in front:
        row: dict[str, Any] = {"trial": trial.number}
        intervals = trial.user_attrs.get("intervals", {})
        for name, value in zip(study.objectives, trial.values, strict=True):
            row[name] = value
            if name in intervals:
                row[f"{name}_lo"], row[f"{name}_hi"] = intervals[name]
        for bound in study.bounds:
            row.setdefault(bound.metric, trial.user_attrs.get("metrics", {}).get(bound.metric))
        rows.append(row | trial.params)
    return rows


def _tags(study: Study, trials: list[FrozenTrial], front: list[FrozenTrial]) -> dict[str, str]:
    counts = Counter(trial.state for trial in trials)
    tags = {
        "tbr.trials_finished": str(counts[TrialState.COMPLETE]),
        "tbr.trials_running": str(counts[TrialState.RUNNING]),
        "tbr.trials_pruned": str(counts[TrialState.PRUNED]),
        "tbr.trials_failed": str(counts[TrialState.FAIL]),
        "tbr.front": ", ".join(str(trial.number) for trial in front),
    }
    choice = fronts.choose(study, front)
    if choice is not None:
        line = fronts.point_text(study, choice.trial)
        tags["tbr.best"] = f"trial {choice.trial.number}: {line}"
    return tags


def _numbers(study: Study, trial: FrozenTrial) -> dict[str, float]:
    numbers = dict(zip(study.objectives, trial.values, strict=True))
    metrics = trial.user_attrs.get("metrics", {})
    for bound in study.bounds:
        if bound.metric in metrics:
            numbers.setdefault(bound.metric, metrics[bound.metric])
    return numbers


@contextmanager
def _tolerant(what: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:
        print(f"the tracker does not answer ({first_line(error)}): {what} waits", file=sys.stderr)
