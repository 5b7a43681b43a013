"""The two-sided plane, with the same axes in every figure: harm across, false refusal up."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from tbr_lightning.reports import names, style

LOW, HIGH = -4.0, 104.0
"""Limits of both axes, in percent: a point on the edge is seen whole."""

_NEAR = 7.0  # percent: names of points this near would cover each other
_WIDEST = 45.0  # percent: a crowd that takes more of the plane needs no inset
_CORNERS = (
    (0.52, 0.54),
    (0.52, 0.1),
    (0.12, 0.54),
)  # lower left corners of an inset, in axes' units
_WIDE, _TALL = 0.45, 0.4

WIDE = 7.2
"""Width of the figure, in inches."""

AXES = (475.0, 345.0)
"""Points (1/72 inch) that the axes take of the figure, about."""


@dataclass(frozen=True)
class Point:
    """One model or arm of the plane, in percent.

    Attributes:
        name: Label of the point.
        x: Harmful compliance.
        y: False refusal.
        x_ends: 95% interval of ``x``; ``None`` draws none.
        y_ends: 95% interval of ``y``; ``None`` draws none.
        runs: Single results that it is the mean of, e.g. one per seed.
        size: Diameter of its marker, in points.
    """

    name: str
    x: float
    y: float
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None
    runs: Sequence[tuple[float, float]] = ()
    size: float = 6.0


@dataclass(frozen=True)
class Region:
    """The region where a gate accepts a model.

    Attributes:
        harmful: Ceiling of harmful compliance, in percent.
        refusal: Ceiling of false refusal, in percent.
        label: Label beside its corner.
        note: Note in the caption on how to read it.
    """

    harmful: float
    refusal: float
    label: str
    note: str


def draw(
    points: Sequence[Point],
    title: str,
    caption: str,
    *,
    region: Region | None = None,
    about: str = "",
    sizes: Sequence[tuple[str, float]] = (),
) -> Figure:
    """Return the figure of points on the plane, each named in its own colour.

    Points that crowd a corner are shown again in an inset, where their names fit.

    Args:
        points: Points to show, with the names that :func:`names.shared` shortens.
        title: What the numbers show.
        caption: Caption: intervals, number of prompts, source.
        region: Region to shade, where a gate has one.
        about: Scope in a few words, beneath the title.
        sizes: What a marker's diameter means: texts, each with a diameter in points.
    """
    looks = names.looks(one.name for one in points)
    short, common = names.shared(one.name for one in points)
    points = [replace(one, name=short[one.name]) for one in points]
    colours = {short[name]: look.colour for name, look in looks.items()}
    markers = {short[name]: look.marker for name, look in looks.items()}
    if common:
        caption = f"{caption}; {names.in_common(common)}"
    with style.styled():
        figure = style.new_figure(WIDE, 5.8)
        axes = figure.subplots()
        style.title(axes, title, WIDE, about, room=bool(sizes))
        frame(axes)
        if region is not None:
            _shade(axes, region)
        if has_front(points):
            edge = pareto_front([(one.x, one.y) for one in points])
            edge = [(edge[0][0], HIGH), *edge, (HIGH, edge[-1][1])]
            axes.step(*zip(*edge, strict=True), "--", where="post", color="0.6", lw=1, zorder=1)
        _points(axes, points, colours, markers)
        close = crowd(points)
        apart = [(p.name, p.x, p.y, colours[p.name]) for p in points if p not in close]
        if region is not None:
            apart.append((region.label, region.harmful, region.refusal, style.GOOD))
        style.label_points(axes, apart, AXES, _bars(points))
        if close:
            _inset(axes, points, close, colours, markers)
        if not close and not any(one.x > 80 and one.y > 80 for one in points):
            _better(axes)
        if sizes:
            _sizes(axes, sizes)
        style.caption(figure, textwrap.fill(caption, int(17 * WIDE)))
    return figure


def _better(axes: Any) -> None:
    """Say which way is better, in the corner where a model would be wrong about everything."""
    axes.annotate(
        "better",
        (90, 90),
        xytext=(96, 96),
        color=style.MUTED,
        fontsize=8.5,
        ha="center",
        arrowprops={"arrowstyle": "->", "color": style.MUTED},
    )


def _sizes(axes: Any, sizes: Sequence[tuple[str, float]]) -> None:
    """Say above the axes, from the right, what the size of a marker means."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=diameter, color="0.6", label=text)
        for text, diameter in sizes
    ]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.0,
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handletextpad=0.6,
    )


def frame(axes: Any) -> None:
    """Give axes the plane's names, limits and grid."""
    axes.set_xlabel(style.HARM_AXIS)
    axes.set_ylabel(style.REFUSAL_AXIS)
    axes.set_xlim(LOW, HIGH)
    axes.set_ylim(LOW, HIGH)
    axes.grid(alpha=0.25)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front (lower is better on both axes), from left to right."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def has_front(points: Sequence[Point]) -> bool:
    """Return whether there is a trade-off to draw: three points, two of them on the front."""
    return len(points) > 2 and len(pareto_front([(one.x, one.y) for one in points])) > 1


def crowd(points: Sequence[Point]) -> list[Point]:
    """Return the largest group of points whose names would cover each other; none if they do not.

    Points on exactly one spot need no inset, which could not part them.
    """
    best: list[Point] = []
    for one in points:
        group, added = [one], True
        while added:
            added = False
            for other in points:
                if other not in group and any(_is_near(other, member) for member in group):
                    group.append(other)
                    added = True
        if len(group) > len(best) and len({(p.x, p.y) for p in group}) > 1:
            best = group
    span = max((_span([p.x for p in best]), _span([p.y for p in best])), default=0) if best else 0
    return [one for one in points if one in best] if 0 < span < _WIDEST else []


def _is_near(a: Point, b: Point) -> bool:
    return abs(a.x - b.x) < _NEAR and abs(a.y - b.y) < _NEAR


def _span(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _shade(axes: Any, region: Region) -> None:
    corner = (LOW, LOW)
    wide, tall = region.harmful - LOW, region.refusal - LOW
    axes.add_patch(Rectangle(corner, wide, tall, fc=style.GOOD, alpha=0.12, zorder=0, lw=0))
    axes.plot(
        [region.harmful, region.harmful, LOW],
        [LOW, region.refusal, region.refusal],
        color=style.GOOD,
        lw=1,
        ls=":",
        zorder=1,
    )


def _points(
    axes: Any, points: Sequence[Point], colours: dict[str, str], markers: dict[str, str]
) -> None:
    same_size = len({one.size for one in points}) == 1
    for place, one in enumerate(points):
        # Of points on one spot each is a ring round the next, so that none hides another.
        above = sum((o.x, o.y) == (one.x, one.y) for o in points[place + 1 :]) if same_size else 0
        axes.errorbar(
            one.x,
            one.y,
            xerr=_arms(one.x, one.x_ends),
            yerr=_arms(one.y, one.y_ends),
            fmt=markers[one.name],
            ms=one.size + 4.5 * above,
            mfc="none" if above else None,
            mew=1.2,
            color=colours[one.name],
            ecolor=colours[one.name],
            elinewidth=1,
            capsize=2.5,
            zorder=3,
        )
        if len(one.runs) > 1:
            across, up = zip(*one.runs, strict=True)
            axes.plot(across, up, ".", ms=4, color=colours[one.name], alpha=0.5, zorder=2)


def _arms(value: float, ends: tuple[float, float] | None) -> list[list[float]] | None:
    if ends is None:
        return None
    return [[max(value - ends[0], 0)], [max(ends[1] - value, 0)]]


def _bars(points: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    """Return the boxes of all intervals: left, foot, right, head."""
    found = []
    for one in points:
        if one.x_ends is not None:
            found.append((one.x_ends[0], one.y, one.x_ends[1], one.y))
        if one.y_ends is not None:
            found.append((one.x, one.y_ends[0], one.x, one.y_ends[1]))
    return found


def _inset(
    axes: Any,
    points: Sequence[Point],
    close: Sequence[Point],
    colours: dict[str, str],
    markers: dict[str, str],
) -> None:
    sides = []
    for values in ([one.x for one in close], [one.y for one in close]):
        pad = max(0.45 * _span(values), 2.0)
        sides.append((max(min(values) - pad, -0.6), max(values) + pad))
    (left, right), (low, high) = sides
    place = min(_CORNERS, key=lambda corner: _within(corner, points))
    inset = axes.inset_axes([*place, _WIDE, _TALL])
    _points(inset, points, colours, markers)
    inset.set_xlim(left, right)
    inset.set_ylim(low, high)
    inset.tick_params(labelsize=7)
    inset.grid(alpha=0.25)
    inset.set_title("enlarged", fontsize=7.5, color=style.MUTED, loc="right", pad=2)
    size = (AXES[0] * _WIDE, AXES[1] * _TALL)
    labels = [(p.name, p.x, p.y, colours[p.name]) for p in close]
    style.label_points(inset, labels, size, _bars(close))
    axes.indicate_inset_zoom(inset, edgecolor="0.5", alpha=0.6)


def _within(corner: tuple[float, float], points: Sequence[Point]) -> int:
    """Return how many points an inset with this corner would cover."""
    span = HIGH - LOW
    left, low = (LOW + span * part for part in corner)
    wide, tall = span * _WIDE, span * _TALL
    return sum(
        left - 8 <= one.x <= left + wide + 4 and low - 8 <= one.y <= low + tall + 4
        for one in points
    )
