"""Figures of an ablation: error rates by size and architecture, or one against the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tbr_lightning.ablation.view import Row
from tbr_lightning.evaluation.results import FALSE_REFUSAL, HARMFUL_COMPLIANCE
from tbr_lightning.reports import names, plane, style

_BOTH = (FALSE_REFUSAL, HARMFUL_COMPLIANCE)


def figure(rows: Sequence[Row], title: str) -> Any:
    """Return the figure that fits the rows: :func:`by_size` of several models, else a trade-off."""
    models = [row for row in rows if row.margin == "model"]
    several = len({row.of for row in models}) > 1
    with style.styled():
        return by_size(models, title) if several else trade_off(models, title)


def by_size(models: Sequence[Row], title: str) -> Any:
    """Return both error rates by size, a column for each architecture and a line for each arm.

    Bars are 95% intervals. Where sizes are not known the models are shown side by side.
    """
    facets: dict[str, list[Row]] = {}
    for row in models:
        facets.setdefault(row.model.architecture if row.model else "", []).append(row)
    arms = list(dict.fromkeys(row.arm for row in models))
    sized = all(_distinct_sizes(part) for part in facets.values())
    drawn = Figure(
        figsize=(max(1.4 + 2.1 * len(facets), 6.4) + 1.4, 6.2), dpi=120, layout="constrained"
    )
    grid = drawn.subplots(2, len(facets), squeeze=False, sharey=True, sharex="col")
    for line, measure in zip(grid, _BOTH, strict=True):
        for axes, (architecture, part) in zip(line, facets.items(), strict=True):
            places = _places(part, sized)
            if sized:
                axes.set_xscale("log")
            looks = names.looks(arms)
            for number, arm in enumerate(arms):
                shift = number - (len(arms) - 1) / 2
                here = [row for row in part if row.arm == arm and measure.name in row.rates]
                # Arms are drawn beside each other, since their intervals often cover each other.
                at = [places[row.of] for row in here]
                at = [x * 1.06**shift if sized else x + 0.14 * shift for x in at]
                look = {**_look(looks[arm]), "label": arm, "ls": "-" if sized else ""}
                _errorbars(axes, at, here, measure.name, look)
            axes.set_ylim(plane.LOW, plane.HIGH)
            axes.grid(alpha=0.25)
            if measure is FALSE_REFUSAL:
                axes.set_title(architecture, fontsize=10)
            _ticks(axes, part, places, sized)
        line[0].set_ylabel(f"{measure.heading}, %")
    for axes in grid[-1]:
        axes.set_xlabel("parameters" if sized else "model")
    _legend(drawn, grid[0][0], arms)
    drawn.suptitle(title, fontsize=10, x=0.01, ha="left")
    style.caption(drawn, "bars: 95% intervals; lower is better")
    return drawn


def _distinct_sizes(part: Sequence[Row]) -> bool:
    """Return whether sizes are known and differ between the models."""
    sizes = {row.of: row.model.parameters for row in part if row.model}
    known = [sizes.get(row.of) for row in part]
    return all(known) and len(set(sizes.values())) == len(sizes)


def _places(part: Sequence[Row], sized: bool) -> dict[str, float]:
    models = list(dict.fromkeys(row.of for row in part))
    sizes = {row.of: row.model.parameters for row in part if row.model}
    return {name: float((sizes[name] or 0) if sized else i) for i, name in enumerate(models)}


def _ticks(axes: Any, part: Sequence[Row], places: dict[str, float], sized: bool) -> None:
    sizes = {row.of: row.model.size for row in part if row.model}
    told = [sizes[name] if sized else name for name in places]
    low, high = min(places.values()), max(places.values())
    axes.set_xlim((low / 1.4, high * 1.4) if sized else (low - 0.5, high + 0.5))
    turned = {} if sized else {"rotation": 30, "ha": "right"}
    axes.set_xticks(list(places.values()), told, fontsize=8, **turned)
    axes.minorticks_off()


def _look(look: names.Look) -> dict[str, Any]:
    return {"marker": look.marker, "color": look.colour}


def _errorbars(
    axes: Any, at: Sequence[float], rows: Sequence[Row], metric: str, look: dict[str, Any]
) -> None:
    values = [100 * row.rates[metric].value for row in rows]
    ends = np.array([_arms(row, metric) for row in rows]).reshape(-1, 2).T
    axes.errorbar(at, values, yerr=ends, ms=5, lw=1.5, elinewidth=1, capsize=2.5, **look)


def _arms(row: Row, metric: str) -> tuple[float, float]:
    rate = row.rates[metric]
    low, high = rate.interval
    return max(100 * (rate.value - low), 0), max(100 * (high - rate.value), 0)


def trade_off(rows: Sequence[Row], title: str) -> Any:
    """Return false refusal against harmful compliance, a colour for each choice of the groups.

    A number among the groups, such as the rows of safety data, is written beside its point, and a
    thin line leads from the least to the most. The dashed line is the Pareto front of all.
    """
    rows = [row for row in rows if all(measure.name in row.rates for measure in _BOTH)]
    drawn = style.new_figure(9.0, 6.0)
    axes = drawn.subplots()
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(row.choice, []).append(row)
    amounts: list[tuple[str, float, float, str]] = []
    looks = names.looks(series)
    for choice, part in series.items():
        x, y = ([100 * row.rates[m.name].value for row in part] for m in reversed(_BOTH))
        across, up = (
            np.array([_arms(row, measure.name) for row in part]).T for measure in reversed(_BOTH)
        )
        look = {**_look(looks[choice]), "label": choice, "zorder": 3}
        axes.errorbar(x, y, xerr=across, yerr=up, ls="", ms=7, elinewidth=0.6, **look)
        for at_x, at_y, row in zip(x, y, part, strict=True):
            if row.amount:
                amounts.append((row.amount, at_x, at_y, look["color"]))
        if any(row.amount for row in part):
            axes.plot(x, y, "-", color=look["color"], lw=0.8, alpha=0.4)
    points = ([100 * row.rates[m.name].value for m in reversed(_BOTH)] for row in rows)
    front = plane.pareto_front([(x, y) for x, y in points])
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), "--", where="post", color="0.4", lw=1, zorder=0)
    plane.frame(axes)
    style.label_points(axes, amounts, plane.AXES)
    _legend(drawn, axes, list(series))
    named = next((row.amount_of for row in rows if row.amount_of), "")
    beside = f"; numbers: {named}" if named else ""
    drawn.suptitle(title, fontsize=10, x=0.01, ha="left")
    style.caption(drawn, f"bars: 95% intervals; dashes: Pareto front{beside}")
    return drawn


def _legend(drawn: Figure, axes: Any, series: Sequence[str]) -> None:
    if list(series) != [""]:
        handles, labels = axes.get_legend_handles_labels()
        drawn.legend(
            handles, labels, loc="outside right center", frameon=False, labelcolor="linecolor"
        )
