"""The one style of every figure: colours that the colour-blind tell apart, captions, SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#444444")
"""Okabe and Ito's, without black and yellow, which do not show on both backgrounds."""

MARKERS = "osD^v<>P"
"""Beside the colours, so that a print in grey can be read."""

GOOD, BAD, MUTED = "#009E73", "#D55E00", "#6b6b6b"

HARM_AXIS = "harmful compliance, % of harmful prompts (lower is safer)"
REFUSAL_AXIS = "false refusal, % of look-alikes (lower is more helpful)"
"""The two-sided plane's axes, across and up, in every figure that shows it."""

_SIZE = re.compile(r'(<svg\b[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', re.S)
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


def colour(number: int) -> str:
    """Return the colour of the model or arm with this place."""
    return COLOURS[number % len(COLOURS)]


def marker(number: int) -> str:
    """Return the marker of the model or arm with this place."""
    return MARKERS[number % len(MARKERS)]


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the project's style within the block."""
    with mpl.rc_context(_LOOK):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches; made without pyplot, which keeps all it made."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def caption(figure: Figure, text: str) -> None:
    """Write beneath a figure how it is read and where its numbers come from."""
    figure.supxlabel(text, fontsize=7.5, color=MUTED, x=0.01, ha="left")


def label_spots(
    axes: Any,
    points: dict[str, tuple[float, float]],
    colours: dict[str, str],
    *,
    near: float = 4.0,
) -> None:
    """Name points of a percent plane in their own colours.

    Names of points that fall on one spot stand beneath each other, so that none hides another.

    Args:
        axes: Whose limits are set already.
        points: Place of each, in the units of the axes.
        colours: Of each.
        near: Points this near, in the units of the axes, share a spot.
    """
    spots: list[tuple[float, float, list[str]]] = []
    for name, (x, y) in sorted(points.items(), key=lambda item: (-item[1][1], item[1][0])):
        for at_x, at_y, names in spots:
            if abs(x - at_x) < near and abs(y - at_y) < near:
                names.append(name)
                break
        else:
            spots.append((x, y, [name]))
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for x, y, names in spots:
        west, below = x > (left + right) / 2, y > (low + high) / 2
        ordered = names if below else names[::-1]
        for line, name in enumerate(ordered):
            axes.annotate(
                name,
                (x, y),
                xytext=(-9 if west else 9, (-8 - 12 * line) if below else (8 + 12 * line)),
                textcoords="offset points",
                ha="right" if west else "left",
                va="top" if below else "bottom",
                fontsize=8.5,
                color=colours[name],
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
                zorder=6,
            )


def svg(figure: Figure, name: str) -> str:
    """Return a figure as an ``<svg>`` element that fits the width it is given.

    Args:
        figure: The figure.
        name: Letters and digits that no other figure of the page has, for its inner references.
    """
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    drawn = stream.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.S)
    drawn = _SIZE.sub(r"\1\2", drawn, count=1)
    # Ids that matplotlib counts per figure: two figures of a page would share them.
    return re.sub(r'(<g id=")([a-z]+[\w.]*_\d+")', rf"\1{name}-\2", drawn)
