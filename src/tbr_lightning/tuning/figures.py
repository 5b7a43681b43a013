"""The figure of a study: its front with intervals. Optuna's dashboard draws all other plots."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from optuna.trial import FrozenTrial

from tbr_lightning.evaluation.results import FALSE_REFUSAL, HARMFUL_COMPLIANCE, MEASURES
from tbr_lightning.reports import plane, style
from tbr_lightning.reports.names import listed
from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning.study import Study

_FRONT, _OTHER, _INFEASIBLE, _CHOSEN = "#0072B2", "#7799AA", "0.62", "#111111"
_PLANE = (HARMFUL_COMPLIANCE.name, FALSE_REFUSAL.name)  # across and up, as everywhere
_SHARES = frozenset(measure.name for measure in MEASURES)
_FEW = 8  # finished trials: so many can all be numbered and told apart in words
_LABELLED = 12  # trials on the front: with more, their numbers would hide them


def front_figure(
    study: Study, done: Sequence[FrozenTrial], chosen: FrozenTrial | None = None
) -> Any:
    """Return the finished trials, one panel for each pair of objectives, the front in colour.

    Bars are the 95% intervals of the trials on the front. With three objectives or more the front
    is that of all of them, so that a panel may show a trial on it behind another.
    """
    with style.styled():
        return _front_figure(study, done, chosen)


def _front_figure(study: Study, done: Sequence[FrozenTrial], chosen: FrozenTrial | None) -> Figure:
    names = list(study.objectives)
    pairs = [_turned(names, pair) for pair in combinations(range(len(names)), 2)]
    front = fronts.pareto_front(study, done)
    on_front = {trial.number for trial in front}
    feasible = [t for t in done if fronts.is_feasible(study, t) and t.number not in on_front]
    infeasible = [t for t in done if not fronts.is_feasible(study, t)]
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure = style.new_figure(6.8 * columns, 5.2 * rows + 0.6)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places[len(pairs) :]:
        axes.set_visible(False)
    for axes, (across, up) in zip(places, pairs, strict=False):
        for group, look in (
            (infeasible, {"marker": "x", "color": _INFEASIBLE, "label": "breaks a constraint"}),
            (
                feasible,
                {
                    "marker": "o",
                    "color": _OTHER,
                    "label": "worse than a trial on the front",
                    "alpha": 0.7,
                },
            ),
        ):
            if group:
                x, y = _at(group, across), _at(group, up)
                axes.scatter(x, y, s=26, lw=1.2, zorder=2, **look)
        if front:
            numbered = len(done) > _FEW and len(front) <= _LABELLED
            _draw_front(study, axes, front, (across, up), numbered=numbered)
        if chosen is not None:
            axes.plot(
                chosen.values[across],
                chosen.values[up],
                marker="*",
                ms=19,
                mfc="none",
                mec=_CHOSEN,
                mew=1.6,
                ls="none",
                zorder=5,
                label=f"chosen: trial {chosen.number}",
            )
        _bounds(study, axes, names[across], names[up])
        axes.set_xlabel(_axis(study, names[across]))
        axes.set_ylabel(_axis(study, names[up]))
        axes.grid(alpha=0.25)
        axes.margins(0.08)
        for name, axis, limits in (
            (names[across], axes.xaxis, axes.set_xlim),
            (names[up], axes.yaxis, axes.set_ylim),
        ):
            if name in _SHARES:
                axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            if name in _PLANE:
                limits(plane.LOW / 100, plane.HIGH / 100)
        if len(done) <= _FEW:
            _number(axes, done, on_front, (across, up))
    # Where it covers the fewest points: beneath the axes it would cover the caption.
    places[0].legend(loc="best", fontsize=8, markerscale=0.8, edgecolor="0.85")
    style.title(figure, finding(study, done, front, chosen), 6.8 * columns)
    told = [f"study {study.name}: {study.about}" if study.about else f"study {study.name}"]
    told += ["prompts of the dev half, which chooses; a trial is one configuration, trained"]
    told += ["bars: 95% intervals of the trials on the front"]
    told += _by_choice(done) if len(done) <= _FEW else ["numbers: those trials"]
    style.caption(figure, textwrap.fill("; ".join(told), 105 * columns))
    return figure


def finding(
    study: Study,
    done: Sequence[FrozenTrial],
    front: Sequence[FrozenTrial],
    chosen: FrozenTrial | None,
) -> str:
    """Return what a study came to: the chosen trial's numbers, and the size of the front."""
    many = f"{len(done)} trial{'s' * (len(done) != 1)}"
    if not front:
        return f"None of {many} keeps every constraint"
    told = f"{len(front)} of {many} on the Pareto front"
    if chosen is None:
        return told
    values = [
        f"{name.removesuffix('_rate').replace('_', ' ')} "
        + (f"{100 * value:.1f}%" if name in _SHARES else f"{value:.3g}")
        for name, value in zip(study.objectives, chosen.values, strict=True)
    ]
    words = [f"{key}={value}" for key, value in chosen.params.items() if isinstance(value, str)]
    which = f" ({', '.join(words)})" if words else ""
    return f"Trial {chosen.number}{which} is chosen, with {listed(values)}; {told}"


def _by_choice(done: Sequence[FrozenTrial]) -> list[str]:
    """Return in words which trials made which choice, of every key whose values are words."""
    made: dict[str, list[str]] = {}
    for trial in sorted(done, key=lambda one: one.number):
        for key, value in trial.params.items():
            if isinstance(value, str):
                made.setdefault(f"{key}={value}", []).append(str(trial.number))
    return [f"{choice}: trial{'s' * (len(n) > 1)} {listed(n)}" for choice, n in made.items()]


def _number(
    axes: Any, trials: Sequence[FrozenTrial], on_front: set[int], pair: tuple[int, int]
) -> None:
    """Number all trials, those on the front in black."""
    labels = [
        (
            str(trial.number),
            trial.values[pair[0]],
            trial.values[pair[1]],
            _CHOSEN if trial.number in on_front else style.MUTED,
        )
        for trial in trials
    ]
    style.label_points(axes, labels, plane.AXES)


def _turned(names: Sequence[str], pair: tuple[int, int]) -> tuple[int, int]:
    """Return a pair in the order of other figures' axes."""
    across, up = pair
    turn = names[up] == _PLANE[0] or (names[across] == _PLANE[1] and names[up] in _SHARES)
    return (up, across) if turn else pair


def _draw_front(
    study: Study,
    axes: Any,
    front: list[FrozenTrial],
    pair: tuple[int, int],
    *,
    numbered: bool,
) -> None:
    names = list(study.objectives)
    across, up = pair
    x, y = _at(front, across), _at(front, up)
    if len(names) == 2:
        order = np.argsort(x, kind="stable")
        goal = study.objectives[names[across]]
        where = "post" if goal == "minimize" else "pre"
        axes.step(x[order], y[order], where=where, color=_FRONT, lw=1, alpha=0.5, zorder=1)
    axes.errorbar(
        x,
        y,
        xerr=_arms(front, names[across], x),
        yerr=_arms(front, names[up], y),
        fmt="o",
        ms=6,
        color=_FRONT,
        ecolor=_FRONT,
        elinewidth=0.8,
        capsize=2,
        alpha=0.9 if len(front) <= _LABELLED else 0.5,
        zorder=4,
        label="Pareto front",
    )
    if not numbered:
        return
    # Trials on one spot share a label, so that none hides another.
    spots: dict[tuple[float, float], list[str]] = {}
    for trial, at in zip(front, zip(x, y, strict=True), strict=True):
        spots.setdefault(at, []).append(str(trial.number))
    for at, numbers in spots.items():
        axes.annotate(
            ", ".join(numbers), at, xytext=(-13, 9), textcoords="offset points", fontsize=8.5
        )


def _at(trials: Sequence[FrozenTrial], objective: int) -> Any:
    return np.array([trial.values[objective] for trial in trials])


def _arms(trials: Sequence[FrozenTrial], name: str, values: Any) -> Any:
    """Return the lengths of the intervals' arms, of shape (2, trials)."""
    ends = [
        trial.user_attrs.get("intervals", {}).get(name) or (value, value)
        for trial, value in zip(trials, values, strict=True)
    ]
    low, high = np.array(ends, float).T
    return np.nan_to_num(np.maximum([values - low, high - values], 0))


def _axis(study: Study, name: str) -> str:
    if name in _PLANE:
        return style.HARM_AXIS if name == _PLANE[0] else style.REFUSAL_AXIS
    better = "lower" if study.objectives[name] == "minimize" else "higher"
    return f"{name.replace('_', ' ')} ({better} is better)"


def _bounds(study: Study, axes: Any, across: str, up: str) -> None:
    for bound in study.bounds:
        look = {"color": "0.35", "ls": ":", "lw": 1.2, "zorder": 1}
        label = str(bound).replace("_", " ")
        if bound.metric in _SHARES:  # as the axis has it
            label = label.replace(f"{bound.bound:g}", f"{100 * bound.bound:g}%")
        if bound.metric == across:
            axes.axvline(bound.bound, label=label, **look)
        elif bound.metric == up:
            axes.axhline(bound.bound, label=label, **look)
