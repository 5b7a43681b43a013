"""Figures of one evaluation or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import (
    FALSE_REFUSAL,
    HARMFUL_COMPLIANCE,
    Measure,
    Rates,
    by_name,
)
from tbr_lightning.evaluation.statistics import Estimate, Rate, clustered_rate, over_seeds
from tbr_lightning.kinds import KINDS
from tbr_lightning.reports import plane, style

_BOX = ("boxprops", "medianprops", "whiskerprops", "capprops")
_MOST = 40  # categories in a panel
_LETTERS = 0.075  # inches that a letter of a tick's name takes


def two_sided_figure(
    results: Mapping[str, Sequence[Rates]],
    title: str,
    *,
    region: plane.Region | None = None,
    source: str = "",
) -> Any:
    """Return a matplotlib figure: false refusal against harmful compliance, one colour per model.

    With several results (seeds) of a model each is a point, and their mean stands out; its bars
    hold what varies, seeds and prompts, as the tables' intervals do. Down and left is better; the
    line runs along the Pareto front.

    Args:
        results: Rates of each model.
        title: Title of the figure.
        region: Region that a gate accepts.
        source: Where the numbers come from, for the caption.
    """
    points = []
    sizes: set[tuple[int, int]] = set()
    for name, many in results.items():
        if not all(one.harmful_compliance.n and one.false_refusal.n for one in many):
            continue
        across = over_seeds([one.harmful_compliance for one in many])
        up = over_seeds([one.false_refusal for one in many])
        sizes.add((many[0].harmful_compliance.n, many[0].false_refusal.n))
        runs = [(100 * one.harmful_compliance.value, 100 * one.false_refusal.value) for one in many]
        points.append(
            plane.Point(
                name, 100 * across.value, 100 * up.value, _ends(across), _ends(up), runs=runs
            )
        )
    several = any(len(many) > 1 for many in results.values())
    told = [f"bars: 95% intervals ({'over seeds and prompts' if several else 'Wilson'})"]
    if plane.has_front(points):
        told.append("dashes: Pareto front")
    if len(sizes) == 1:
        ((harmful, look_alike),) = sizes
        told.append(f"n = {harmful} harmful prompts, {look_alike} look-alikes")
    elif sizes:
        told.append(f"n = {min(map(min, sizes))} prompts a side at least")
    if seeds := max((len(many) for many in results.values()), default=1):
        told += [f"small dots: single seeds, {seeds} at most"] if seeds > 1 else []
    if region is not None:
        told.append(f"green: {region.note}")
    caption = "; ".join([*told, *([source] if source else [])])
    return plane.draw(points, title, _wrapped(caption), region=region)


def category_figure(
    models: Mapping[str, Sequence[Judged]], title: str, source: str = ""
) -> Any | None:
    """Return both error rates by category as dots, the highest on top, a colour for each model.

    Each category has the number of its prompts beside its name. ``None`` where there is neither
    look-alike nor harmful prompt.
    """
    several = len({row.benchmark for rows in models.values() for row in rows}) > 1

    def category(row: Judged) -> str:
        return f"{row.benchmark}: {row.category}" if several else row.category

    panels: list[tuple[Measure, dict[str, dict[str, Rate]], list[str]]] = []
    for measure in (FALSE_REFUSAL, HARMFUL_COMPLIANCE):
        shares: dict[str, dict[str, Rate]] = {}
        for name, rows in models.items():
            parts = by_name(measure.of(rows), category)
            shares[name] = {key: measure.rate(part) for key, part in parts.items()}
        sizes = {key: rate.n for parts in shares.values() for key, rate in parts.items()}
        largest = sorted(sizes, key=lambda key: -sizes[key])[:_MOST]

        def highest(key: str, shares: dict[str, dict[str, Rate]] = shares) -> tuple[float, str]:
            return max(parts[key].value for parts in shares.values() if key in parts), key

        if shown := sorted(largest, key=highest):
            panels.append((measure, shares, shown))
    if not panels:
        return None
    most = max(len(shown) for _, _, shown in panels)
    longest = max(len(key) for _, _, shown in panels for key in shown) + 8
    width = len(panels) * (3.2 + min(longest, 45) * _LETTERS)
    with style.styled():
        figure = style.new_figure(width, max(2.8, 1.6 + 0.24 * most))
        axes = figure.subplots(1, len(panels), squeeze=False)
        for place, (measure, shares, shown) in zip(axes[0], panels, strict=True):
            _dots(place, shares, shown)
            place.set_xlabel(f"{measure.heading}, % of the category's prompts")
        _legend(figure, axes[0][0], len(models))
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        told = "sorted by rate (the highest of all models); few prompts make a rate coarse"
        style.caption(figure, _wrapped("; ".join([told, *([source] if source else [])]), width))
    return figure


def _dots(axes: Any, shares: Mapping[str, Mapping[str, Rate]], shown: Sequence[str]) -> None:
    if len(shares) > 1:  # a thin line holds the models' dots of a category together
        for place, key in enumerate(shown):
            values = [100 * parts[key].value for parts in shares.values() if key in parts]
            axes.plot([min(values), max(values)], [place, place], color="0.75", lw=1, zorder=1)
    apart = min(0.14, 0.6 / len(shares))  # so that equal rates do not hide each other
    for number, (name, parts) in enumerate(shares.items()):
        here = [key for key in shown if key in parts]
        axes.plot(
            [100 * parts[key].value for key in here],
            [shown.index(key) + apart * ((len(shares) - 1) / 2 - number) for key in here],
            style.marker(number),
            ms=5.5,
            alpha=0.9,
            color=style.colour(number),
            label=name,
            zorder=3,
        )
    sizes = {key: rate.n for parts in shares.values() for key, rate in parts.items()}
    names = [f"{key.replace('_', ' ')[:45]} (n={sizes[key]})" for key in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7.5)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlim(-3, 103)
    axes.grid(alpha=0.25)


def _legend(figure: Any, axes: Any, models: int) -> None:
    if models > 1:
        handles, names = axes.get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside upper right",
            ncols=min(models, 3),
            fontsize=8.5,
            frameon=False,
            labelcolor="linecolor",
        )


def reflection_figure(models: Mapping[str, Sequence[Judged]], title: str, source: str = "") -> Any:
    """Return how often each kind of prompt triggers a reflection, and how long reflections are."""
    kinds = [
        kind for kind in KINDS if any(r.kind == kind for rows in models.values() for r in rows)
    ]
    sizes = {
        kind: max(len({r.id for r in rows if r.kind == kind}) for rows in models.values())
        for kind in kinds
    }
    height = 0.8 / len(models)
    with style.styled():
        figure = style.new_figure(9, 1.5 + (0.5 + 0.2 * len(models)) * len(kinds))
        left, right = figure.subplots(1, 2)
        for number, (name, rows) in enumerate(models.items()):
            parts = [[row for row in rows if row.kind == kind] for kind in kinds]
            at = [place + 0.4 - height * (number + 0.5) for place in range(len(kinds))]
            colour = style.colour(number)
            _rates_with_intervals(left, at, parts, name, number)
            lengths = [
                [len(row.reflection.split()) for row in part if row.reflection is not None]
                for part in parts
            ]
            right.boxplot(
                lengths,
                positions=at,
                widths=0.7 * height,
                orientation="horizontal",
                manage_ticks=False,
                flierprops={"markersize": 3, "markeredgecolor": colour},
                **{key: {"color": colour} for key in _BOX},
            )
        for axes in (left, right):
            axes.set_ylim(-0.5, len(kinds) - 0.5)
            axes.grid(alpha=0.25, axis="x")
        named = [f"{kind.replace('_', '-')} (n={sizes[kind]})" for kind in kinds]
        left.set_yticks(range(len(kinds)), named)
        right.set_yticks(range(len(kinds)), [""] * len(kinds))
        left.set_xlim(-3, 103)
        left.set_xlabel("writes a reflection first, % of prompts")
        right.set_xlim(left=0)
        right.set_xlabel("words of a reflection")
        _legend(figure, left, len(models))
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        told = "left: 95% intervals; right: median, quartiles, range without outliers"
        style.caption(figure, _wrapped("; ".join([told, *([source] if source else [])]), 9))
    return figure


def _rates_with_intervals(
    axes: Any, at: Sequence[float], parts: Sequence[Sequence[Judged]], name: str, number: int
) -> None:
    shown = [(place, part) for place, part in zip(at, parts, strict=True) if part]
    found = [
        clustered_rate([row.reflection is not None for row in part], [row.id for row in part])
        for _, part in shown
    ]
    values = [100 * rate.value for rate in found]
    ends = [_ends(rate) for rate in found]
    axes.errorbar(
        values,
        [place for place, _ in shown],
        xerr=[
            [max(value - low, 0) for value, (low, _) in zip(values, ends, strict=True)],
            [max(high - value, 0) for value, (_, high) in zip(values, ends, strict=True)],
        ],
        fmt=style.marker(number),
        ms=5.5,
        elinewidth=1,
        capsize=2,
        color=style.colour(number),
        label=name,
    )


def pool(rates: Sequence[Rate]) -> Rate:
    """Return the rate of all counts pooled."""
    effective = None
    if any(rate.effective is not None for rate in rates):
        effective = sum(rate.n if rate.effective is None else rate.effective for rate in rates)
    return Rate(sum(rate.count for rate in rates), sum(rate.n for rate in rates), effective)


def _ends(rate: Rate | Estimate) -> tuple[float, float]:
    low, high = rate.interval
    return 100 * low, 100 * high


def _wrapped(text: str, width: float = 7.2) -> str:
    """Break a caption into lines that fit a figure of this width, in inches."""
    import textwrap

    return textwrap.fill(text, int(17 * width))
