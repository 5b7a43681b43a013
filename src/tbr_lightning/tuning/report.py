"""The report of a study, in Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.credentials import without_credentials
from tbr_lightning.errors import command_of
from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning.pareto_front import Choice
from tbr_lightning.tuning.study import Study

INTERVALS = (
    "Intervals are 95%. Of one training run they are over the prompts (Wilson's, for a rate); of "
    "several seeds the variance between seeds and that of the prompts, which all seeds share, are "
    "added. They do not account for the choice itself: the best "
    "of many trials on the dev half is flattered, which is why the chosen model alone is measured "
    "on the test half."
)
MEDIAN = (
    "Of several fresh seeds the model with the median of the first objective on the dev half is "
    "registered, of an even number the worse of the middle two; the test half chooses nothing."
)
_FRONT_ROWS = 50  # of the front's table; the run's artifact holds all
_CAUSES = 12  # reasons of failures that are listed separately


@dataclass(frozen=True)
class RetrainedModel:
    """A model of the chosen configuration."""

    seed: int  # seed that it was trained with
    train: str  # id of its training run
    model_uri: str  # the logged model
    dev: Mapping[str, float]  # metrics on the dev half
    test: Mapping[str, float] = field(default_factory=dict)  # empty if it was not measured
    evaluate: str = ""  # id of its evaluation run on the test half
    fresh: bool = False  # trained after the study, with a seed that the study has not used


@dataclass(frozen=True)
class StudyResult:
    """The result of a study."""

    choice: Choice | None  # the chosen trial; ``None`` if there is none
    instead: str = ""  # reason why there is none
    made: Sequence[RetrainedModel] = ()  # models of the chosen configuration
    failed: Mapping[int, str] = field(default_factory=dict)  # seeds, with the reason
    taken: RetrainedModel | None = None  # the model that was registered
    name: str = ""  # registered model
    version: str = ""  # version of the registered model
    gate: Sequence[str] = ()  # messages of the gate; empty if it was not asked


def summary(
    study: Study, front: Sequence[FrozenTrial], ending: StudyResult, most: int
) -> list[str]:
    """Return the result of a study, line by line; indented lines belong to the line above.

    Args:
        study: Study that was run.
        front: Pareto front of the study.
        ending: Result of the study.
        most: Maximum number of trials to list of the front; with 0 it is left out.
    """
    lines = []
    if front and most:
        what = "Pareto front" if len(study.objectives) > 1 else "best feasible trial"
        lines.append(f"{what} (dev half, 95% intervals):")
        lines += [f"  trial {t.number}: {fronts.point_text(study, t)}" for t in front[:most]]
        if len(front) > most:
            lines.append(f"  and {len(front) - most} more, in the artifact front.json")
    if ending.choice is None:
        return [*lines, f"nothing is registered: {ending.instead}"]
    trial = ending.choice.trial
    lines.append(f"chosen: trial {trial.number}, since {ending.choice.because}")
    if overrides := fronts.train_overrides(study, trial):
        lines.append(f"  to train it: {command_of('train')} {shlex.join(overrides)}")
    names = told_metrics(study)
    if any(made.fresh for made in ending.made):
        lines.append("fresh seeds (dev half; the median of the first objective is registered):")
        lines += [
            f"  seed {made.seed}: {measured(names, made.dev)}; test half: "
            f"{measured(names, made.test)}; {made.model_uri}"
            for made in ending.made
        ]
    lines += [f"  seed {seed} failed: {why}" for seed, why in ending.failed.items()]
    if ending.taken is not None:
        taken = ending.taken
        lines.append(f"test half, seed {taken.seed}: {measured(names, taken.test)}")
        lines += [
            f"  on the dev half it breaks {bound}, with "
            f"{fronts.measured(bound.metric, taken.dev[bound.metric])}"
            for bound in study.bounds
            if bound.metric in taken.dev and bound.excess(taken.dev[bound.metric]) > 0
        ]
        lines.append(
            f"registered: {ending.name} version {ending.version}, challenger ({taken.model_uri})"
        )
        if not ending.gate:
            gate = f"{command_of('promote')} model={taken.model_uri} name={ending.name}"
            lines.append(f"next: {gate} (and the study's suite)")
    if ending.gate:
        lines.append(f"gate: {ending.gate[0]}")
        lines += [f"  {line}" for line in ending.gate[1:]]
    return lines


def markdown(
    study: Study,
    trials: Sequence[FrozenTrial],
    ending: StudyResult,
    *,
    budget: str,
    figures: Sequence[str] = (),
) -> str:
    """Return the whole report.

    Args:
        study: Study that was run.
        trials: All trials, in any state.
        ending: Result of the study.
        budget: Budget, in words.
        figures: Names of the figures, which are in ``figures/`` beside the report.
    """
    front = fronts.pareto_front(study, trials)
    parts = [
        f"# Study {study.name}",
        study.about,
        _list(summary(study, front, ending, most=0)),
        "## Pareto front (dev half)",
        *_front(study, front, ending),
        "## Trials",
        *_states(study, trials, budget),
        "## What was searched",
        _settings(study),
        "## Figures" if figures else "",
        *(f"![{name.removesuffix('.png')}](figures/{name})" for name in figures),
        "## How it was done",
        *([fronts.METHOD] if len(study.objectives) > 1 else []),
        INTERVALS,
        *([MEDIAN] if any(made.fresh for made in ending.made) else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def description(
    study: Study, trials: Sequence[FrozenTrial], ending: StudyResult, budget: str
) -> str:
    """Return the short form, for the page of the study's run."""
    front = fronts.pareto_front(study, trials)
    parts = [
        study.about,
        f"{fronts.counted(trials)}; budget {budget}.",
        _list(summary(study, front, ending, most=10)),
        "The whole report is the artifact `report.md`, the figures lie in `figures/`.",
    ]
    return "\n\n".join(part for part in parts if part)


def measured(names: Iterable[str], metrics: Mapping[str, float]) -> str:
    """Return metrics with their intervals, where they have one, on one line."""
    told = []
    for name in names:
        if name not in metrics:
            continue
        low, high = metrics.get(f"{name}_lo"), metrics.get(f"{name}_hi")
        ends = [fronts.measured(name, end) for end in (low, high) if end is not None]
        interval = f" [{', '.join(ends)}]" if len(ends) == 2 else ""
        told.append(f"{name} {fronts.measured(name, metrics[name])}{interval}")
    return ", ".join(told)


def told_metrics(study: Study) -> list[str]:
    """Return the metrics that a study is about: objectives, constraints, and both rates."""
    names = [*study.objectives, *(bound.metric for bound in study.bounds)]
    names += ["false_refusal_rate", "harmful_compliance_rate", "general_accuracy"]
    return list(dict.fromkeys(names))


def _front(study: Study, front: Sequence[FrozenTrial], ending: StudyResult) -> list[str]:
    if not front:
        return ["No finished trial meets every constraint."]
    chosen = ending.choice.trial.number if ending.choice else None
    params = list(dict.fromkeys(key for trial in front for key in trial.params))
    rows = []
    for trial in front[:_FRONT_ROWS]:
        intervals = trial.user_attrs.get("intervals", {})
        cells = [f"**{trial.number}**" if trial.number == chosen else str(trial.number)]
        for name, value in zip(study.objectives, trial.values, strict=True):
            ends = [fronts.measured(name, end) for end in intervals.get(name) or ()]
            shown = f" [{', '.join(ends)}]" if ends else ""
            cells.append(fronts.measured(name, value) + shown)
        rows.append([*cells, *(_short(trial.params.get(key, "")) for key in params)])
    more = len(front) - _FRONT_ROWS
    told = [_table(["trial", *study.objectives, *params], rows)]
    return told + ([f"and {more} more, in the artifact `front.json`"] if more > 0 else [])


def _states(study: Study, trials: Sequence[FrozenTrial], budget: str) -> list[str]:
    seconds = sum(trial.user_attrs.get("seconds") or 0 for trial in trials)
    parts = [f"{fronts.counted(trials)}; budget {budget}; {seconds / 3600:.2f} hours of trials."]
    done = fronts.finished(trials)
    infeasible = sum(not fronts.is_feasible(study, trial) for trial in done)
    if study.bounds:
        bounds = ", ".join(f"`{bound}`" for bound in study.bounds)
        parts.append(f"{infeasible} of {len(done)} finished trials break {bounds}.")
    infinite = sum(trial.state == TrialState.COMPLETE for trial in trials) - len(done)
    if infinite:
        parts.append(f"{infinite} have an infinite objective and are left out of everything.")
    reused = sum(
        bool(run.get("reused")) for trial in trials for run in trial.user_attrs.get("runs", [])
    )
    if reused:
        parts.append(f"{reused} training runs were taken from earlier trials of the same config.")
    for state, word in ((TrialState.FAIL, "failed"), (TrialState.PRUNED, "pruned")):
        of_state = [trial for trial in trials if trial.state == state]
        causes: dict[str, list[int]] = {}
        for trial in of_state:
            reason = str(trial.user_attrs.get("reason") or "no reason was recorded")
            causes.setdefault(reason.splitlines()[0], []).append(trial.number)
        most = sorted(causes.items(), key=lambda item: -len(item[1]))
        lines = [f"{word}, trials {_numbers(numbers)}: {why}" for why, numbers in most[:_CAUSES]]
        if len(most) > _CAUSES:
            rest = sum(len(numbers) for _, numbers in most[_CAUSES:])
            lines.append(f"{word}: {rest} more, for other reasons")
        parts.append(_list(lines))
    return parts


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"


def _settings(study: Study) -> str:
    clean = without_credentials(dict(study.settings))
    return f"```yaml\n{yaml.safe_dump(clean, sort_keys=False).strip()}\n```"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _list(lines: Iterable[str]) -> str:
    """Return lines as a list; those that begin with blanks are one level below."""
    return "\n".join(re.sub(r"^( *)", r"\1- ", line) for line in lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
