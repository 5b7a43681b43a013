"""Figures of one evaluation or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tbr_lightning.evaluation import findings
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
from tbr_lightning.reports import names, plane, style

_BOX = ("boxprops", "medianprops", "whiskerprops", "capprops")
_MOST = 40  # categories in a panel
_LONGEST = 55  # letters of a model's name in a legend
_LETTERS = 0.075  # inches that a letter of a tick's name takes


def two_sided_figure(
    results: Mapping[str, Sequence[Rates]],
    title: str,
    *,
    region: plane.Region | None = None,
    source: str = "",
    about: str = "",
) -> Any:
    """Return a matplotlib figure: false refusal against harmful compliance, one colour per model.

    With several results (seeds) of a model each is a point, and their mean stands out; its bars
    hold what varies, seeds and prompts, as the tables' intervals do. Down and left is better; the
    line runs along the Pareto front.

    Args:
        results: Rates of each model.
        title: What the numbers show.
        region: Region that a gate accepts.
        source: Which prompts were asked and who judged, for the caption.
        about: Scope in a few words, beneath the title.
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
    told = [source] if source else []
    told.append(f"bars: 95% intervals ({'over seeds and prompts' if several else 'Wilson'})")
    if plane.has_front(points):
        told.append("dashes: Pareto front")
    if not source and len(sizes) == 1:
        ((harmful, look_alike),) = sizes
        told.append(f"n = {harmful} harmful prompts, {look_alike} look-alikes")
    elif not source and sizes:
        told.append(f"n = {min(map(min, sizes))} prompts a side at least")
    if seeds := max((len(many) for many in results.values()), default=1):
        told += [f"small dots: single seeds, {seeds} at most"] if seeds > 1 else []
    if region is not None:
        told.append(f"green: {region.note}")
    return plane.draw(points, title, "; ".join(told), region=region, about=about)


def category_figure(models: Mapping[str, Sequence[Judged]], source: str = "") -> Any | None:
    """Return both error rates by category as dots, the highest on top, a colour for each model.

    Each category has the number of its prompts beside its name. A measure that is 0 throughout is
    a sentence of the title in place of a panel. ``None`` where there is neither look-alike nor
    harmful prompt.
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
        if shown := sorted(largest, key=lambda key: _highest(shares, sizes, key)):
            panels.append((measure, shares, shown))
    if not panels:
        return None
    said = [_said(measure, shares) for measure, shares, _ in panels]
    title = "; ".join(text[0].upper() + text[1:] if n == 0 else text for n, text in enumerate(said))
    panels = [one for one in panels if _has_errors(one[1])] or panels[:1]
    short, common = names.shared(models)
    most = max(len(shown) for _, _, shown in panels)
    longest = max(len(key) for _, _, shown in panels for key in shown) + 8
    width = max(len(panels) * (3.2 + min(longest, 45) * _LETTERS), 6.4)
    told = ["sorted by the highest rate; a category of few prompts has a coarse rate"]
    told += [names.in_common(common)] if common else []
    if len(models) == 1:
        title = f"{next(iter(models))}: {title[0].lower()}{title[1:]}"
    with style.styled():
        figure = style.new_figure(width, max(3.0, 1.9 + 0.24 * most))
        axes = figure.subplots(1, len(panels), squeeze=False)
        for place, (measure, shares, shown) in zip(axes[0], panels, strict=True):
            _dots(place, shares, shown, short)
            place.set_xlabel(f"{measure.heading}, % of the category's prompts")
        _legend(axes[0][0], short, width)
        style.title(figure, title, width)
        style.caption(figure, _wrapped("; ".join([*([source] if source else []), *told]), width))
    return figure


def _highest(
    shares: Mapping[str, Mapping[str, Rate]], sizes: Mapping[str, int], key: str
) -> tuple[float, int, str]:
    return max(parts[key].value for parts in shares.values() if key in parts), sizes[key], key


def _has_errors(shares: Mapping[str, Mapping[str, Rate]]) -> bool:
    return any(rate.count for parts in shares.values() for rate in parts.values())


def _said(measure: Measure, shares: Mapping[str, Mapping[str, Rate]]) -> str:
    known = {name: parts for name, parts in shares.items() if parts}
    if _has_errors(known):
        return findings.categories(known, measure.heading)
    with_all = " with either model" if len(known) == 2 else " with every model"
    return f"{measure.heading} is 0% in every category{with_all if len(known) > 1 else ''}"


def _dots(
    axes: Any,
    shares: Mapping[str, Mapping[str, Rate]],
    shown: Sequence[str],
    short: Mapping[str, str],
) -> None:
    if len(shares) > 1:  # a thin line holds the models' dots of a category together
        for place, key in enumerate(shown):
            values = [100 * parts[key].value for parts in shares.values() if key in parts]
            axes.plot([min(values), max(values)], [place, place], color="0.75", lw=1, zorder=1)
    apart = min(0.14, 0.6 / len(shares))  # so that equal rates do not hide each other
    for number, (name, look) in enumerate(names.looks(shares).items()):
        here = [key for key in shown if key in shares[name]]
        axes.plot(
            [100 * shares[name][key].value for key in here],
            [shown.index(key) + apart * ((len(shares) - 1) / 2 - number) for key in here],
            look.marker,
            ms=5.5,
            alpha=0.9,
            color=look.colour,
            label=short[name],
            zorder=3,
        )
    sizes = {key: rate.n for parts in shares.values() for key, rate in parts.items()}
    told = [f"{key.replace('_', ' ')[:45]} (n={sizes[key]})" for key in shown]
    axes.set_yticks(range(len(shown)), told, fontsize=7.5)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlim(-3, 103)
    axes.grid(alpha=0.25)


def _legend(axes: Any, short: Mapping[str, str], width: float) -> None:
    """Name the models above the axes, from the left, each in its colour."""
    if len(short) < 2:
        return
    handles, told = axes.get_legend_handles_labels()
    # A name that is a path would leave no room for the axes.
    told = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in told]
    letters = max(map(len, told)) + 5
    axes.legend(
        handles,
        told,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=max(min(len(told), int(10 * width / letters)), 1),
        fontsize=8.5,
        frameon=False,
        borderaxespad=0.2,
        labelcolor="linecolor",
    )


def reflection_figure(models: Mapping[str, Sequence[Judged]], source: str = "") -> Any:
    """Return how often each kind of prompt triggers a reflection, and how long reflections are."""
    kinds = [
        kind for kind in KINDS if any(r.kind == kind for rows in models.values() for r in rows)
    ]
    sizes = {
        kind: max(len({r.id for r in rows if r.kind == kind}) for rows in models.values())
        for kind in kinds
    }
    short, common = names.shared(models)
    height = 0.8 / len(models)
    with style.styled():
        figure = style.new_figure(9, 1.8 + (0.4 + 0.2 * len(models)) * len(kinds))
        left, right = figure.subplots(1, 2)
        for number, (name, look) in enumerate(names.looks(models).items()):
            parts = [[row for row in models[name] if row.kind == kind] for kind in kinds]
            at = [place + 0.4 - height * (number + 0.5) for place in range(len(kinds))]
            _rates_with_intervals(left, at, parts, short[name], look)
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
                flierprops={"markersize": 3, "markeredgecolor": look.colour},
                **{key: {"color": look.colour} for key in _BOX},
            )
            for place, many in zip(at, lengths, strict=True):
                told = f"n={len(many)}" if many else "no reflections"
                right.annotate(
                    told,
                    (1, place),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="center",
                    fontsize=7.5,
                    color=look.colour,
                )
        for axes in (left, right):
            axes.set_ylim(-0.5, len(kinds) - 0.5)
            axes.grid(alpha=0.25, axis="x")
        named = [f"{kind.replace('_', '-')} (n={sizes[kind]})" for kind in kinds]
        left.set_yticks(range(len(kinds)), named)
        right.set_yticks(range(len(kinds)), [""] * len(kinds))
        left.set_xlim(-3, 103)
        left.set_xlabel("starts with a reflection, % of prompts")
        longest = right.dataLim.x1 if right.has_data() else 1.0
        right.set_xlim(0, max(longest, 1.0) * 1.25)  # room for the counts
        right.set_xlabel("words of a reflection")
        _legend(left, short, 9)
        style.title(figure, findings.reflections(models), 9)
        notes = [source] if source else []
        notes += ["left: 95% intervals; right: median, quartiles, range without outliers (rings)"]
        notes += [names.in_common(common)] if common else []
        style.caption(figure, _wrapped("; ".join(notes), 9))
    return figure


def _rates_with_intervals(
    axes: Any,
    at: Sequence[float],
    parts: Sequence[Sequence[Judged]],
    name: str,
    look: names.Look,
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
        fmt=look.marker,
        ms=5.5,
        elinewidth=1,
        capsize=2,
        color=look.colour,
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
