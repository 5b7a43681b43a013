"""The end of an ablation: rates by group of trials, by architecture and by size of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.ablation import hypotheses
from tbr_lightning.ablation.figures import figure
from tbr_lightning.ablation.models import Model, chooses_model, model_of_trial, values_of
from tbr_lightning.ablation.view import Row, as_table, lines, markdown
from tbr_lightning.evaluation.results import MEASURES
from tbr_lightning.evaluation.statistics import Estimate
from tbr_lightning.tracking.run import Run
from tbr_lightning.tuning.outcome import over_seeds
from tbr_lightning.tuning.space import Parameter

if TYPE_CHECKING:
    import optuna

    from tbr_lightning.tuning.study import Study

TABLE, CSV, FIGURE = "groups.json", "groups.csv", "figures/groups.png"
MARKDOWN, HYPOTHESES = "groups.md", "hypotheses.json"
"""Artifacts of the study's run."""

_THIRDS = 3  # classes of size


@dataclass(frozen=True)
class _Point:
    """A finished trial: its groups and its numbers, with ``_lo`` and ``_hi`` beside them."""

    model: Model
    of: str
    choice: str
    amount: str
    amount_of: str
    runs: int
    metrics: Mapping[str, float]


def log_groups(study: Study, storage_study: optuna.Study, parent_run_id: str) -> list[str]:
    """Log table and figure of a study's groups on its run, and return the table's lines.

    Args:
        study: Study whose ``groups`` name keys of its space.
        storage_study: Optuna's study.
        parent_run_id: ID of the study's run in MLflow.

    Returns:
        Lines to print; none if the study names no groups or no trial has finished.
    """
    if not study.groups:
        return []
    rows = grouped(study, storage_study.get_trials(deepcopy=False))
    if not rows:
        return []
    run, table = Run(parent_run_id), as_table(rows)
    run.log_table(table, TABLE)
    run.log_text(pd.DataFrame(table).to_csv(index=False), CSV)
    run.log_text(markdown(table), MARKDOWN)
    run.log_figure(figure(rows, study.about), FIGURE)
    told = [*lines(rows), f"groups: {TABLE}, {CSV} and {FIGURE} of run {parent_run_id}"]
    if study.hypotheses:
        found = hypotheses.answers(study, storage_study.get_trials(deepcopy=False))
        run.log_table(hypotheses.as_table(found), HYPOTHESES)
        told += ["", "hypotheses, each over models, p after Holm:", *(one.line for one in found)]
    return told


def grouped(study: Study, trials: Iterable[FrozenTrial]) -> list[Row]:
    """Return the rates of each group of finished trials, and their margins over the models.

    Means and intervals are those of :func:`tbr_lightning.tuning.outcome.over_seeds`, with trials
    for seeds: they allow for the trials' differences and for the prompts that all of them share.

    Args:
        study: Study whose ``groups`` name keys of its space.
        trials: Trials in any state; only finished ones count.
    """
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    points = _points(study, done)
    metrics = _metrics(study)
    rows = [
        _row("model", of, arm, metrics)
        for of, part in _parts(points, lambda point: point.of).items()
        for arm in _arms(part)
    ]
    models = {point.model for point in points}
    if len(models) == 1:
        return rows
    margins: list[tuple[str, Callable[[_Point], str]]] = []
    if len({model.architecture for model in models}) > 1:
        margins.append(("architecture", lambda point: point.model.architecture))
    classes = _size_classes(models)
    if classes:
        margins.append(("size", lambda point: classes[point.model]))
    margins.append(("all", lambda _: "all models"))
    for margin, of_point in margins:
        # Architectures by name, classes of size from small to large: as the points are ordered.
        for of, part in _parts(points, of_point).items():
            rows += [_row(margin, of, arm, metrics) for arm in _arms(part)]
    return rows


def _points(study: Study, done: Sequence[FrozenTrial]) -> list[_Point]:
    """Return the trials by architecture, size and arm, choices in the order of the space."""
    space = study.space
    ranked = []
    for trial in done:
        model = model_of_trial(study, trial)
        keys = [key for key in study.groups if key in trial.params]
        of_arm = [key for key in keys if not chooses_model(key)]
        numbers = [key for key in of_arm if _is_number(space[key])]
        point = _Point(
            model=model,
            of=values_of(trial, [k for k in keys if chooses_model(k)]) or model.name,
            choice=values_of(trial, [key for key in of_arm if key not in numbers]),
            amount=values_of(trial, numbers),
            amount_of=", ".join(numbers),
            runs=len(trial.user_attrs.get("runs", ())),
            metrics=_numbers(trial),
        )
        rank = [
            trial.params[key] if key in numbers else space[key].choices.index(trial.params[key])
            for key in of_arm
        ]
        # Trials of one place in the space may lack what is active in others only.
        place = (model.architecture, model.parameters or 0, point.of, len(rank), rank)
        ranked.append((place, point))
    return [point for _, point in sorted(ranked, key=lambda one: one[0])]


def _is_number(parameter: Parameter) -> bool:
    numbers = (isinstance(v, int | float) and not isinstance(v, bool) for v in parameter.choices)
    return all(numbers)  # a range has no choices


def _size_classes(models: Iterable[Model]) -> dict[Model, str]:
    """Return for each model its third by parameters; nothing where sizes are too few or unknown."""
    known = sorted(
        (model for model in set(models) if model.parameters),
        key=lambda model: model.parameters or 0,
    )
    if len(known) < _THIRDS or len(known) < len(set(models)):
        return {}
    classes: dict[Model, str] = {}
    for third in np.array_split(np.arange(len(known)), _THIRDS):
        part = [known[index] for index in third]
        low, high = part[0].size, part[-1].size
        classes |= dict.fromkeys(part, low if low == high else f"{low} to {high}")
    return classes


def _metrics(study: Study) -> list[str]:
    """Return the metrics of the rows: the three sides, and those that the study names."""
    named = [*study.objectives, *(bound.metric for bound in study.bounds)]
    return list(dict.fromkeys([*(measure.name for measure in MEASURES[:3]), *named]))


def _parts(points: Iterable[_Point], of: Callable[[_Point], Any]) -> dict[Any, list[_Point]]:
    parts: dict[Any, list[_Point]] = {}
    for point in points:
        parts.setdefault(of(point), []).append(point)
    return parts


def _arms(points: Iterable[_Point]) -> list[list[_Point]]:
    return list(_parts(points, lambda point: (point.choice, point.amount)).values())


def _row(margin: str, of: str, part: Sequence[_Point], metrics: Sequence[str]) -> Row:
    means, intervals = over_seeds([point.metrics for point in part])
    unknown = (math.nan, math.nan)
    rates = {
        name: Estimate(means[name], (*intervals.get(name, unknown),), len(part))
        for name in metrics
        if name in means
    }
    return Row(
        margin=margin,
        of=of,
        choice=part[0].choice,
        amount=part[0].amount,
        amount_of=part[0].amount_of,
        model=part[0].model if margin == "model" else None,
        trials=len(part),
        runs=sum(point.runs for point in part),
        rates=rates,
    )


def _numbers(trial: FrozenTrial) -> dict[str, float]:
    numbers: dict[str, float] = dict(trial.user_attrs.get("metrics", {}))
    for name, (low, high) in trial.user_attrs.get("intervals", {}).items():
        numbers |= {f"{name}_lo": low, f"{name}_hi": high}
    return numbers
