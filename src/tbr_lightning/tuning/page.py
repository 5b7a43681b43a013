"""``report.html`` of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mlflow.exceptions import MlflowException
from optuna.trial import FrozenTrial

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import pages
from tbr_lightning.evaluation.evaluation_result import RESPONSES
from tbr_lightning.evaluation.judged_response import Judged, from_table
from tbr_lightning.evaluation.results import MEASURES
from tbr_lightning.models.logged import called, find_model
from tbr_lightning.reports import style
from tbr_lightning.reports.page import Drawn, Listed, Measured, Number, Page
from tbr_lightning.tracking.run import Run
from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning.report import INTERVALS, StudyResult
from tbr_lightning.tuning.study import Study

_MOST = 200  # trials of the table; the run's artifacts hold all


def study_page(
    study: Study,
    trials: Sequence[FrozenTrial],
    ending: StudyResult,
    figures: Mapping[str, Any],
    facts: Sequence[tuple[str, str]],
) -> Page:
    """Return the page of a study: what was chosen and why, its numbers, the front, every answer.

    Args:
        study: Study that was run.
        trials: All trials, in any state.
        ending: Result of the study.
        figures: Figures, by what they show.
        facts: Pairs (name, value) on where it comes from.
    """
    taken = ending.taken
    rows = _answers(taken.evaluate) if taken is not None else []
    if ending.choice is None:
        told = f"Nothing is registered: {ending.instead}."
    else:
        told = f"Trial {ending.choice.trial.number} is chosen, since {ending.choice.because}."
        told += f" It is registered as {ending.name} v{ending.version}." if taken else ""
    name = _called(ending)
    numbers = pages.measured({name: rows}) if rows else []
    if not rows and taken is not None:
        numbers = _numbers(name, taken.test)
    return Page(
        title=f"Study {study.name}",
        verdict=told,
        tone="bad" if ending.choice is None else "plain",
        numbers=numbers,
        figures=[
            Drawn(style.svg(one, f"study{place}"), what)
            for place, (what, one) in enumerate(figures.items())
        ],
        tables=[_trials(study, trials, ending)],
        models=[name] if rows else [],
        samples=pages.samples({name: rows}) if rows else [],
        facts=[("about", study.about), *facts],
        notes=["The numbers are of the test half, which chose nothing."] if numbers else [],
    )


def _called(ending: StudyResult) -> str:
    """Return the chosen trial's number, and what its model is called in every other figure."""
    if ending.taken is None or ending.choice is None:
        return ""
    trial = f"trial {ending.choice.trial.number}"
    try:
        return f"{trial}: {called(find_model(ending.taken.model_uri))}"
    except (MlflowException, UserError):  # the model was deleted since
        return f"{trial}, seed {ending.taken.seed}"


def _answers(run_id: str) -> list[Judged]:
    with suppress(MlflowException, OSError):
        return from_table(Run(run_id).text(RESPONSES)) if run_id else []
    return []


def _numbers(name: str, test: Mapping[str, float]) -> list[Measured]:
    found = []
    for measure in MEASURES:
        ends = (test.get(f"{measure.name}_lo"), test.get(f"{measure.name}_hi"))
        if measure.name in test and ends[0] is not None and ends[1] is not None:
            prompts = int(test.get(f"{measure.name}_n", 0))  # not known of an earlier version's
            share = Number(test[measure.name], ends[0], ends[1], prompts)
            found.append(Measured(measure.heading, "of the test half", {name: share}))
    return found


def _trials(study: Study, trials: Sequence[FrozenTrial], ending: StudyResult) -> Listed:
    front = {trial.number for trial in fronts.pareto_front(study, trials)}
    chosen = ending.choice.trial.number if ending.choice else None
    done = fronts.finished(trials)
    shown = sorted(done, key=lambda trial: (trial.number != chosen, trial.number not in front))
    params = list(dict.fromkeys(key for trial in shown for key in trial.params))
    rows = []
    for trial in shown[:_MOST]:
        place = "chosen" if trial.number == chosen else "front" if trial.number in front else ""
        if not place and not fronts.is_feasible(study, trial):
            place = "breaks a constraint"
        intervals = trial.user_attrs.get("intervals", {})
        cells = []
        for objective, value in zip(study.objectives, trial.values, strict=True):
            ends = intervals.get(objective)
            cells.append(f"{value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""))
        values = [trial.params.get(key, "") for key in params]
        told = [f"{one:.4g}" if isinstance(one, float) else str(one) for one in values]
        rows.append((str(trial.number), place, *cells, *told))
    more = len(done) - len(rows)
    note = INTERVALS + (f" {more} more trials are in the run." if more else "")
    heads = ("trial", "", *study.objectives, *params)
    return Listed(f"Trials: {fronts.counted(trials)}", heads, rows, note=note)
