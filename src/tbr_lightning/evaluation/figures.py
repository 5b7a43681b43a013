"""Figures of one evaluation or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from tbr_lightning.evaluation.results import (
    FALSE_REFUSAL,
    HARMFUL_COMPLIANCE,
    Judged,
    Rates,
    by_name,
)
from tbr_lightning.evaluation.statistics import Rate, clustered_rate
from tbr_lightning.kinds import KINDS

# Figures are made without pyplot, which needs a display or a backend and keeps all it made.
_SAME_SPOT = 4  # points
_MOST = 40  # categories in a panel


def two_sided_figure(results: Mapping[str, Sequence[Rates]], title: str) -> Any:
    """Return a matplotlib figure: false refusal against harmful compliance, one colour a model.

    With several results (seeds) of a model each is a point; bars are Wilson 95% intervals of the
    pooled counts. Down and left is better; the line runs along the Pareto front.
    """
    figure = Figure(figsize=(7.2, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    points: dict[str, tuple[float, float]] = {}
    for number, (name, many) in enumerate(results.items()):
        colour = f"C{number % 10}"
        across = pool([one.harmful_compliance for one in many])
        up = pool([one.false_refusal for one in many])
        if not (across.n and up.n):
            continue
        x, y = 100 * across.value, 100 * up.value
        points[name] = (x, y)
        axes.errorbar(x, y, xerr=_arms(across), yerr=_arms(up), fmt="o", color=colour, capsize=3)
        for one in many if len(many) > 1 else ():
            axes.plot(
                100 * one.harmful_compliance.value,
                100 * one.false_refusal.value,
                ".",
                color=colour,
                alpha=0.5,
            )
    if len(points) > 1:
        front = pareto_front(list(points.values()))
        edge = [(front[0][0], 104.0), *front, (104.0, front[-1][1])]
        across_edge, up_edge = zip(*edge, strict=True)
        axes.step(across_edge, up_edge, "--", where="post", color="0.6", lw=1, zorder=0)
    label_plane(axes, points, title)
    return figure


def label_plane(axes: Any, points: Mapping[str, tuple[float, float]], title: str) -> None:
    """Name the points of the two-sided plane, in percent, and its axes.

    Points that fall on one spot share a label, so that none hides another.
    """
    places: list[tuple[float, float, list[str]]] = []
    for name, (x, y) in points.items():
        for at_x, at_y, names in places:
            if abs(x - at_x) < _SAME_SPOT and abs(y - at_y) < _SAME_SPOT:
                names.append(name)
                break
        else:
            places.append((x, y, [name]))
    for x, y, names in places:
        left, below = x > 50, y > 50
        axes.annotate(
            "\n".join(names),
            (x, y),
            xytext=(-9 if left else 9, -7 if below else 7),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top" if below else "bottom",
            fontsize=9,
        )
    axes.set_xlabel("harmful compliance, % (lower is safer)")
    axes.set_ylabel("false refusal of look-alikes, % (lower is more helpful)")
    axes.set_xlim(-4, 104)
    axes.set_ylim(-4, 104)
    axes.grid(alpha=0.25)
    axes.set_title(title, fontsize=10)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return, from left to right, the points than which none is as low on both and lower on one."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def category_figure(models: Mapping[str, Sequence[Judged]], title: str) -> Any | None:
    """Return bars of both error rates per category with their intervals, a colour per model.

    ``None`` where there is neither look-alike nor harmful prompt.
    """
    several = len({row.benchmark for rows in models.values() for row in rows}) > 1

    def category(row: Judged) -> str:
        return f"{row.benchmark} {row.category}" if several else row.category

    panels = []
    for measure in (FALSE_REFUSAL, HARMFUL_COMPLIANCE):
        counted = {name: by_name(measure.of(rows), category) for name, rows in models.items()}
        sizes = {key: len(part) for parts in counted.values() for key, part in parts.items()}
        shown = sorted(sorted(sizes, key=lambda key: -sizes[key])[:_MOST], reverse=True)
        if shown:
            panels.append((measure, counted, shown))
    if not panels:
        return None
    rows = max(len(shown) for _, _, shown in panels) * len(models)
    size = (6 * len(panels), max(2.6, 1.3 + 0.2 * rows + 0.1 * rows / len(models)))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for place, (measure, counted, shown) in zip(axes[0], panels, strict=True):
        height = 0.8 / len(models)
        for number, (name, parts) in enumerate(counted.items()):
            here = [key for key in shown if key in parts]
            rates = [measure.rate(parts[key]) for key in here]
            at = [shown.index(key) + 0.4 - height * (number + 0.5) for key in here]
            _bars(place, at, rates, height, color=f"C{number % 10}", label=name)
        place.set_yticks(range(len(shown)), [key.replace("_", " ") for key in shown], fontsize=7)
        place.set_xlim(0, 100)
        place.set_xlabel(f"{measure.heading}, %")
        place.grid(alpha=0.25, axis="x")
    _legend(figure, axes[0][0], len(models))
    figure.suptitle(title, fontsize=10)
    return figure


def _bars(
    axes: Any, at: Sequence[float], rates: Sequence[Rate], height: float, **look: str
) -> None:
    if not rates:
        return
    low, high = zip(*[[side[0] for side in _arms(rate)] for rate in rates], strict=True)
    axes.barh(
        at,
        [100 * rate.value for rate in rates],
        height,
        xerr=[low, high],
        error_kw={"lw": 0.8, "capsize": 2},
        alpha=0.8,
        **look,
    )


def _legend(figure: Figure, axes: Any, models: int) -> None:
    if models > 1:
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(models, 3), fontsize=8)


def reflection_figure(models: Mapping[str, Sequence[Judged]], title: str) -> Any:
    """Return how often each kind of prompt triggers a reflection, and how long reflections are."""
    kinds = [
        kind for kind in KINDS if any(r.kind == kind for rows in models.values() for r in rows)
    ]
    figure = Figure(figsize=(9, 0.9 + 0.9 * len(kinds)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    height = 0.8 / len(models)
    for number, (name, rows) in enumerate(models.items()):
        parts = [[row for row in rows if row.kind == kind] for kind in kinds]
        at = [place + 0.4 - height * (number + 0.5) for place in range(len(kinds))]
        triggered = [
            clustered_rate([row.reflection is not None for row in part], [row.id for row in part])
            for part in parts
        ]
        _bars(left, at, triggered, height, color=f"C{number % 10}", label=name)
        lengths = [
            [len(row.reflection.split()) for row in part if row.reflection is not None]
            for part in parts
        ]
        right.boxplot(
            lengths,
            positions=at,
            widths=0.8 * height,
            orientation="horizontal",
            manage_ticks=False,
            flierprops={"markersize": 3},
            boxprops={"color": f"C{number % 10}"},
            medianprops={"color": f"C{number % 10}"},
        )
    for axes in (left, right):
        axes.set_ylim(-0.5, len(kinds) - 0.5)
        axes.grid(alpha=0.25, axis="x")
    left.set_yticks(range(len(kinds)), [kind.replace("_", "-") for kind in kinds])
    right.set_yticks(range(len(kinds)), [""] * len(kinds))
    left.set_xlim(0, 100)
    left.set_xlabel("reflects, % of prompts")
    right.set_xlim(left=0)
    right.set_xlabel("words of a reflection")
    _legend(figure, left, len(models))
    figure.suptitle(title, fontsize=10)
    return figure


def pool(rates: Sequence[Rate]) -> Rate:
    """Return the rate of all counts together."""
    effective = None
    if any(rate.effective is not None for rate in rates):
        effective = sum(rate.n if rate.effective is None else rate.effective for rate in rates)
    return Rate(sum(rate.count for rate in rates), sum(rate.n for rate in rates), effective)


def _arms(rate: Rate) -> list[list[float]]:
    low, high = rate.interval
    return [[100 * max(rate.value - low, 0)], [100 * max(high - rate.value, 0)]]
