"""The one style of every figure: colours safe for colour-blind readers, captions, SVG."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

GOOD, BAD, MUTED = "#009E73", "#D55E00", "#6b6b6b"
"""Right, wrong, and notes. No model has such a colour, see :mod:`tbr_lightning.reports.names`."""

HARM_AXIS = "harmful compliance, % of harmful prompts (lower is safer)"
REFUSAL_AXIS = "false refusal, % of look-alikes (lower is more helpful)"
"""The two-sided plane's axes, across and up, in every figure that shows it."""

_LETTER, _LINE = 4.9, 11.5  # points that a letter is wide, and a line high, at 8.5 points
_ASIDE = 12.0  # points between a point and its name
_SIZE = re.compile(r' (?:width|height)="[^"]*"')
_LOOK: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "font.size": 9,
    "grid.alpha": 0.25,
    # A dollar in a prompt or in a model's name would begin a formula.
    "text.parse_math": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the project's style within the block."""
    with mpl.rc_context(_LOOK):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches; made without pyplot, which keeps all it made."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def title(axes: Any, text: str, width: float, about: str = "", *, room: bool = False) -> None:
    """Write what a figure shows above its axes, wrapped, and beneath it what it is about.

    Args:
        axes: Axes, or the figure itself where several axes share a title.
        text: What the numbers show.
        width: Width of the figure, in inches.
        about: Scope in a few words, in grey; empty for none.
        room: Leaves a line between title and axes for a legend.
    """
    if isinstance(axes, Figure):
        lines = [*textwrap.wrap(text, int(12 * width)), *textwrap.wrap(about, int(12 * width))]
        axes.suptitle("\n".join(lines), fontsize=10.5, x=0.01, ha="left")
        return
    lines = textwrap.wrap(text, int(12 * (width - 0.6)))  # beside the axis's numbers
    axes.set_title("\n".join(lines), loc="left", pad=20 if about or room else 8)
    if about:
        axes.text(0, 1.015, about, transform=axes.transAxes, fontsize=8.5, color=MUTED)


def caption(figure: Figure, text: str) -> None:
    """Write a caption beneath a figure: how to read it, and where its numbers come from."""
    figure.supxlabel(text, fontsize=7.5, color=MUTED, x=0.01, ha="left")


def label_points(
    axes: Any,
    labels: Sequence[tuple[str, float, float, str]],
    size: tuple[float, float],
    bars: Sequence[tuple[float, float, float, float]] = (),
) -> None:
    """Label each point where the label covers no other label, no point and no bar.

    Labels of one spot are a list, which says first how many points are there.

    Args:
        axes: Axes whose limits are set already.
        labels: Text, position across and up in the units of the axes, and colour of each.
        size: Approximate width and height of the axes in points (1/72 inch).
        bars: What else is not to be covered, in the units of the axes: left, foot, right, head.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    wide, tall = size

    def at(x: float, y: float) -> tuple[float, float]:
        return (x - left) / (right - left) * wide, (y - low) / (high - low) * tall

    spots: dict[tuple[float, float], list[tuple[str, str]]] = {}
    for text, x, y, colour in labels:
        spots.setdefault((x, y), []).append((text, colour))
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in (at(*spot) for spot in spots)]
    for bar in bars:
        (start, foot), (end, head) = at(*bar[:2]), at(*bar[2:])
        taken.append((start - 2, foot - 2, end + 2, head + 2))
    for spot, named in sorted(spots.items(), key=lambda one: (-one[0][1], one[0][0])):
        x, y = at(*spot)
        lines = named if len(named) == 1 else [(f"{len(named)} on one spot:", MUTED), *named]
        block = (_LETTER * max(len(text) for text, _ in lines), _LINE * len(lines))
        across, up = _free(x, y, block, size, taken)
        taken.append(_box(x + across, y + up, block, leftwards=across < 0))
        for number, (text, colour) in enumerate(lines):
            axes.annotate(
                text,
                spot,
                xytext=(across, up + _LINE * ((len(lines) - 1) / 2 - number)),
                textcoords="offset points",
                ha="right" if across < 0 else "left",
                va="center",
                fontsize=8.5,
                color=colour,
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.5},
                zorder=6,
            )


def _box(
    x: float, y: float, block: tuple[float, float], *, leftwards: bool
) -> tuple[float, float, float, float]:
    width, height = block
    start = x - width if leftwards else x
    return start, y - height / 2, start + width, y + height / 2


def _free(
    x: float,
    y: float,
    block: tuple[float, float],
    size: tuple[float, float],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float]:
    """Return the nearest offset at which a block of names covers nothing, or else the least.

    Args:
        x: Position of the point, in points from the left.
        y: Position of the point, in points from below.
        block: Width and height of the block, in points.
        size: Size of the axes, in points.
        taken: Occupied boxes: left, foot, right, head.
    """
    ups = sorted((step * _LINE / 2 for step in range(-14, 15)), key=lambda up: (abs(up - 9), up))
    best, least = (_ASIDE, 9.0), float("inf")
    for up in ups:
        for across in (_ASIDE, -_ASIDE):
            left, foot, right, head = _box(x + across, y + up, block, leftwards=across < 0)
            outside = max(-left, 0) + max(right - size[0], 0) + max(-foot, 0)
            outside += max(head - size[1], 0)
            covered = sum(
                max(min(right, b[2]) - max(left, b[0]), 0)
                * max(min(head, b[3]) - max(foot, b[1]), 0)
                for b in taken
            )
            cost = covered + 100 * outside
            if cost == 0:
                return across, up
            if cost < least:
                best, least = (across, up), cost
    return best


def svg(figure: Figure, name: str) -> str:
    """Return a figure as an ``<svg>`` element whose natural width is its property ``--wide``.

    Args:
        figure: The figure.
        name: Letters and digits unique on the page, for its inner references.
    """
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    drawn = stream.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.S)
    end = drawn.index(">")
    widest = f' style="--wide:{72 * figure.get_figwidth():.0f}pt"'
    drawn = _SIZE.sub("", drawn[:end]) + widest + drawn[end:]
    # Ids that matplotlib counts per figure: two figures of a page would share them.
    return re.sub(r'(<g id=")([a-z]+[\w.]*_\d+")', rf"\1{name}-\2", drawn)
