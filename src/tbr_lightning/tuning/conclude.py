"""The end of a study: figures and report, the chosen model, its registration, the gate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.logged import find_model
from tbr_lightning.processes import identity_of
from tbr_lightning.registry import alias_moves
from tbr_lightning.reports.page import FILE, render
from tbr_lightning.tracking.run import Point, Run
from tbr_lightning.tuning import mlflow_sync, report, retrain
from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning.figures import front_figure
from tbr_lightning.tuning.page import study_page
from tbr_lightning.tuning.report import StudyResult
from tbr_lightning.tuning.storage import Opened
from tbr_lightning.tuning.study import Study

REPORT = "report.md"
"""Artifact of the study's run."""

_ENDING = "ending"  # attribute of the study: what it ended in
_ENDED_BY = "ended_by"  # attribute of the study: the runner that ends it
_LINES = 15  # lines of the front, in the terminal


Summarise = Callable[["Study", "optuna.Study", str], list[str]]
"""Takes the study of the file, Optuna's study and the run's id; returns lines to print."""


def finish(
    study: Study,
    config: SweepConfig,
    opened: Opened,
    parent_run_id: str,
    summarise: Summarise | None = None,
) -> list[str]:
    """Conclude a study, and return the lines to print.

    The figure and a first report are logged before anything long begins. Of several runners one
    does this, and a study that has ended with the same choice is not trained, registered or gated
    again.

    Args:
        study: Study as its file describes it.
        config: Config of the command.
        opened: The study in its storage, with its budget reached.
        parent_run_id: ID of the study's run.
        summarise: Logs a summary of its own on the study's run and returns its lines.

    Returns:
        Lines: those of ``summarise``, the front on the dev half with intervals, the
        chosen trial and why, the registered version, the gate's verdict.

    Raises:
        UserError: The chosen configuration's models are gone, or no fresh seed could be trained.
    """
    with opened.locked("end", wait=False) as mine:
        if not mine:
            other = opened.study.user_attrs.get(_ENDED_BY, "another runner")
            return [f"{other} is concluding this study; its results will be in run {parent_run_id}"]
        opened.study.set_user_attr(_ENDED_BY, str(identity_of()))
        return _finish(study, config, opened.study, parent_run_id, summarise)


def _finish(
    study: Study,
    config: SweepConfig,
    storage_study: optuna.Study,
    parent_run_id: str,
    summarise: Summarise | None,
) -> list[str]:
    run = Run(parent_run_id)
    mlflow_sync.refresh(storage_study, study, parent_run_id)
    trials = storage_study.get_trials(deepcopy=False)
    front = fronts.pareto_front(study, trials)
    choice = fronts.choose(study, front)
    shown: list[str] = []
    drawn: dict[str, Any] = {}
    if len(study.objectives) > 1 and (done := fronts.finished(trials)):
        figure = front_figure(study, done, choice.trial if choice else None)
        run.log_figure(figure, "figures/pareto.png")
        drawn["Finished trials of the dev half, with their Pareto front."] = figure
        shown.append("pareto.png")
    groups = summarise(study, storage_study, parent_run_id) if summarise else []
    if groups:
        shown.append("groups.png")

    def write(ending: StudyResult) -> Path | None:
        budget = _budget(study, config)
        text = report.markdown(study, trials, ending, budget=budget, figures=shown)
        run.log_text(text, REPORT)
        note = report.description(study, trials, ending, budget)
        points, tags = _numbers(study, trials, front, ending)
        run.log_points(points, {"mlflow.note.content": note, **tags})
        facts = [("budget", budget), ("run", parent_run_id)]
        return run.log_page(render(study_page(study, trials, ending, drawn, facts)), FILE)

    ending = StudyResult(choice, instead="" if choice else fronts.why_none(study, trials))
    page = write(ending)
    if choice is not None:
        ending = _end(study, config, storage_study, choice, parent_run_id)
        page = write(ending)
    last = f"run {parent_run_id}; report, figures and front: its artifacts"
    lines = report.summary(study, front, ending, _LINES)
    where = f"report: {page or f'the artifact {FILE}'}"
    return [*groups, *([""] if groups else []), *lines, last, where]


def _end(
    study: Study,
    config: SweepConfig,
    storage_study: optuna.Study,
    choice: fronts.Choice,
    parent_run_id: str,
) -> StudyResult:
    """Make, measure and register the model, and ask the gate, each unless it was done before."""
    trial, settings = choice.trial, config.sweep
    failed: dict[int, str] = {}
    if settings.retrain_seeds:
        made, failed = retrain.retrain(study, config, storage_study, trial, parent_run_id)
        if not made:
            seed, why = next(iter(failed.items()))
            raise UserError(
                f"trial {trial.number} was chosen, and none of its {len(failed)} fresh seeds could "
                f"be trained, seed {seed} because: {why}; nothing is registered, and the front "
                f"stands in run {parent_run_id}"
            )
        taken = retrain.median(study, made)
    else:
        taken = retrain.own_model(study, config, trial)
        made = [taken]
    gated = retrain.as_evaluated(study, config, taken.model_uri)
    told = f"; {gated.note}" if gated.note else ""
    why = f"study {study.key}, trial {trial.number}: {choice.because}{told}"
    evidence = [run for run in (parent_run_id, taken.train, taken.evaluate) if run]
    before = storage_study.user_attrs.get(_ENDING) or {}
    same = (before.get("name"), before.get("model_uri")) == (settings.name, gated.uri)
    # What was challenger once is not made so again: another may have come since.
    if same:
        version = str(before["version"])
    else:
        version = alias_moves.challenge(
            settings.name,
            find_model(gated.uri),
            config.tracking,
            config.paths,
            why=why,
            evidence=evidence,
        )
    identity = {"name": settings.name, "model_uri": gated.uri, "version": version}
    gate: list[str] = list(before.get("gate", [])) if same else []
    if settings.promote and not gate:
        gate = retrain.gate(study, config, gated)
    storage_study.set_user_attr(_ENDING, {"trial": trial.number, **identity, "gate": gate})
    return StudyResult(
        choice,
        made=made,
        failed=failed,
        taken=taken,
        name=settings.name,
        version=version,
        gate=gate,
    )


def _budget(study: Study, config: SweepConfig) -> str:
    trials, hours = config.sweep.trials or study.trials, config.sweep.hours or study.hours
    return f"{trials} trials" + (f" or {hours:g} hours" if hours else "")


def _numbers(
    study: Study, trials: Sequence[FrozenTrial], front: Sequence[FrozenTrial], ending: StudyResult
) -> tuple[list[Point], dict[str, str]]:
    """Return what the end adds to the numbers and tags of the study's run."""
    counts = Counter(trial.state for trial in trials)
    numbers: dict[str, float] = {
        "trials": counts[TrialState.COMPLETE],
        "trials_failed": counts[TrialState.FAIL],
        "trials_pruned": counts[TrialState.PRUNED],
        "pareto_front": len(front),
    }
    tags: dict[str, str] = {}
    if ending.choice is not None:
        trial = ending.choice.trial
        tags["tbr.chosen"] = f"trial {trial.number}, since {ending.choice.because}"
        values = zip(study.objectives, trial.values, strict=True)
        numbers |= {f"chosen/{name}": value for name, value in values}
    if ending.taken is not None:
        told = {k: v for k, v in ending.taken.test.items() if not k.endswith("_n")}
        numbers |= {f"test/{name}": value for name, value in told.items()}
        tags["tbr.registered"] = f"{ending.name} version {ending.version}"
    if ending.gate:
        tags["tbr.gate"] = ending.gate[0]
    now = int(time.time() * 1000)
    return [Point(name, value, now, len(trials)) for name, value in numbers.items()], tags
