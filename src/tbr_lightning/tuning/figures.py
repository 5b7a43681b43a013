"""Figures of a study: its front, and what Optuna draws of parameters and progress."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.evaluation.results import metric_name
from tbr_lightning.tuning import front as fronts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tbr_lightning.tuning.study import Study

_FRONT, _OTHER, _INFEASIBLE, _CHOSEN = "#c1272d", "#4a7fb5", "0.62", "#111111"
_LINES = (
    200  # of trials in a parallel plot: of more nothing can be seen, and Optuna takes 256 ranks
)
_LABELLED = 12  # trials on the front: of more, their numbers would hide them


def study_figures(
    study: Study, trials: Sequence[FrozenTrial], chosen: FrozenTrial | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the figures that can be drawn, by file name, and why the others cannot.

    Args:
        study: Objectives, constraints and space.
        trials: All trials, in any state.
        chosen: The trial that is marked on the front.
    """
    done = fronts.finished(trials)
    drawn: dict[str, Any] = {}
    missing: dict[str, str] = {}
    if len(study.objectives) == 1:
        missing["pareto.png"] = "one objective has no front but its best trial"
    elif not done:
        missing["pareto.png"] = "no trial has finished"
    else:
        drawn["pareto.png"] = front_figure(study, done, chosen)
    shown = _snapshot(study, trials)
    for file, draw, why_not in _library_figures(study, done):
        if why_not is not None:
            missing[file] = why_not
            continue
        with _quiet_pyplot():
            try:
                drawn[file] = draw(shown)
            except (ValueError, RuntimeError, ZeroDivisionError) as error:
                missing[file] = f"Optuna could not draw it: {str(error).splitlines()[0]}"
    return drawn, missing


def front_figure(
    study: Study, done: Sequence[FrozenTrial], chosen: FrozenTrial | None = None
) -> Any:
    """Return the finished trials, one panel for each pair of objectives, the front in colour.

    Bars are the 95% intervals of the trials on the front. With three objectives or more the front
    is that of all of them, so that a panel may show a trial on it behind another.
    """
    names = list(study.objectives)
    pairs = list(combinations(range(len(names)), 2))
    front = fronts.pareto_front(study, done)
    on_front = {trial.number for trial in front}
    feasible = [t for t in done if fronts.is_feasible(study, t) and t.number not in on_front]
    infeasible = [t for t in done if not fronts.is_feasible(study, t)]
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(6.4 * columns, 5.0 * rows + 0.5), dpi=110, layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places[len(pairs) :]:
        axes.set_visible(False)
    for axes, (across, up) in zip(places, pairs, strict=False):
        for group, look in (
            (infeasible, {"marker": "x", "color": _INFEASIBLE, "label": "breaks a constraint"}),
            (feasible, {"marker": "o", "color": _OTHER, "label": "dominated", "alpha": 0.7}),
        ):
            if group:
                x, y = _at(group, across), _at(group, up)
                axes.scatter(x, y, s=26, lw=1.2, zorder=2, **look)
        if front:
            _draw_front(study, axes, front, (across, up))
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
        axes.margins(0.08)
        axes.grid(alpha=0.25)
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 * columns, fontsize=9)
    figure.suptitle(f"{study.name}: {len(done)} finished trials, dev half", fontsize=11)
    return figure


def _draw_front(study: Study, axes: Any, front: list[FrozenTrial], plane: tuple[int, int]) -> None:
    names = list(study.objectives)
    across, up = plane
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
        label="Pareto front, 95% intervals",
    )
    if len(front) > _LABELLED:
        return
    # Trials on one spot share a label, so that none hides another.
    spots: dict[tuple[float, float], list[str]] = {}
    for trial, at in zip(front, zip(x, y, strict=True), strict=True):
        spots.setdefault(at, []).append(str(trial.number))
    for at, numbers in spots.items():
        axes.annotate(
            ", ".join(numbers), at, xytext=(7, 6), textcoords="offset points", fontsize=8.5
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
    better = "lower" if study.objectives[name] == "minimize" else "higher"
    return f"{name.replace('_', ' ')} ({better} is better)"


def _bounds(study: Study, axes: Any, across: str, up: str) -> None:
    for bound in study.constraints:
        look = {"color": "0.35", "ls": ":", "lw": 1.2, "zorder": 1}
        label = f"{bound.metric.replace('_', ' ')} {bound.op} {bound.bound:g}"
        if bound.metric == across:
            axes.axvline(bound.bound, label=label, **look)
        elif bound.metric == up:
            axes.axhline(bound.bound, label=label, **look)


def _snapshot(study: Study, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Return the trials as a study in memory that tells Optuna which are infeasible."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown = optuna.create_study(directions=list(study.objectives.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        shown.set_metric_names([name.replace("_", " ") for name in study.objectives])
    for trial in sorted(trials, key=lambda t: t.number):
        excess = trial.user_attrs.get("constraints") or []
        unknown = {} if excess or not study.constraints else {"unknown": 1.0}
        known = {str(i): 1.0 if np.isnan(v) else float(v) for i, v in enumerate(excess)}
        done = trial.state == TrialState.COMPLETE
        shown.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values if done else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                constraints=(unknown or known) if done else None,
            )
        )
    return shown


_Draw = Callable[[optuna.Study], Any]


def _library_figures(
    study: Study, done: Sequence[FrozenTrial]
) -> Iterator[tuple[str, _Draw, str | None]]:
    """Yield file, drawing and, where it cannot be drawn, the reason."""
    from optuna.visualization import matplotlib as library

    names = list(study.objectives)
    params = sorted({name for trial in done for name in trial.params})
    varied = [name for name in params if len({repr(t.params.get(name)) for t in done}) > 1]
    few = f"{len(done)} finished trials say nothing about it" if len(done) < 2 else None
    no_params = few or ("no parameter varies among the finished trials" if not varied else None)

    def importances(shown: optuna.Study) -> Any:
        axes = library.plot_param_importances(shown, params=varied)
        return _finish(axes, (8.5, 1.6 + 0.5 * len(varied)), f"{study.name}: importances")

    # Optuna takes the direction of a single objective only where no target is given.
    alone: dict[str, Any] = {"target_name": names[0].replace("_", " ")} if len(names) == 1 else {}
    constant = [n for i, n in enumerate(names) if len({t.values[i] for t in done}) == 1]
    same = f"every finished trial has the same {', '.join(constant)}"
    yield "importances.png", importances, no_params or (same if constant == names else None)

    def parallel(shown: optuna.Study) -> Any:
        title = f"{study.name}: each line a trial"
        if len(done) > _LINES:
            first = fronts.pareto_front(study, done)[:_LINES]
            on_front = {trial.number for trial in first}
            rest = [trial for trial in done if trial.number not in on_front]
            newest = sorted(rest, key=lambda t: -t.number)[: _LINES - len(first)]
            shown = _snapshot(study, [*first, *newest])
            title += f", the front and the newest, {_LINES} of {len(done)}"
        axes = library.plot_parallel_coordinate(shown, params=varied, **alone)
        return _finish(axes, (2.5 + 1.9 * (len(varied) + len(names)), 5.2), title)

    yield "parallel.png", parallel, no_params

    for index, name in enumerate(names):

        def target(trial: FrozenTrial, index: int = index) -> float:
            return float(trial.values[index])

        told = alone or {"target": target, "target_name": name.replace("_", " ")}

        def slices(shown: optuna.Study, told: Mapping[str, Any] = told) -> Any:
            axes = library.plot_slice(shown, params=varied, **told)
            size = (2.0 + 2.9 * len(varied), 4.2)
            return _finish(axes, size, f"{study.name}: one parameter at a time")

        def history(shown: optuna.Study, told: Mapping[str, Any] = told) -> Any:
            axes = library.plot_optimization_history(shown, **told)
            return _finish(axes, (8.5, 4.4), f"{study.name}: trial by trial")

        file = metric_name(name)
        yield f"slice_{file}.png", slices, no_params
        yield f"history_{file}.png", history, None if done else "no trial has finished"


def _finish(axes: Any, size: tuple[float, float], title: str) -> Any:
    """Return the figure of Optuna's axes at a size at which its labels can be read."""
    first = axes.ravel()[0] if isinstance(axes, np.ndarray) else axes
    figure = first.figure
    figure.set_size_inches(min(size[0], 24), size[1])
    if figure.get_suptitle():
        figure.suptitle(title, fontsize=11)
    else:
        first.set_title("")
        first.set_title(title, fontsize=11, loc="left")
    return figure


@contextmanager
def _quiet_pyplot() -> Iterator[None]:
    """Let Optuna draw by pyplot: without a display, a changed style or a figure left behind."""
    from matplotlib import pyplot as plt

    backend = mpl.get_backend()
    before = set(plt.get_fignums())
    # Set while it draws, since a colour bar made without it cannot be laid out later.
    layout: Any = {"figure.constrained_layout.use": True, "figure.dpi": 110}
    with mpl.rc_context(layout), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plt.switch_backend("agg")
        try:
            yield
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
            plt.switch_backend(backend)
