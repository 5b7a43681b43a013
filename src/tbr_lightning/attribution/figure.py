"""The figure of attribution: each prompt's words before and after, with scale and swap's result."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure

from tbr_lightning.attribution.gradients import Attribution
from tbr_lightning.reports import style

mpl.use("Agg")  # figures are files here; no display is needed

TOWARDS, AGAINST = style.BAD, "#0072B2"
"""Colours of words that drive a refusal, and of words that speak against it."""

_MOST = 10  # prompts in the figure
_WIDTH = 8.6  # inches
_LINE = 0.27  # inches that a line of words is high
_LETTERS, _SMALL = 84, 118  # of a line of the title, and of the caption
_HEAD, _FOOT = 1.1, 0.95  # inches above and below the lines
_LEFT, _RIGHT = 0.085, 0.875  # of the width: where words begin, and where the outcome stands


@dataclass(frozen=True)
class Asked:
    """One prompt of the figure.

    Attributes:
        before: Scores of the model that refused it.
        spans: Spans of its sensitive words.
        after: Scores of the other model, or ``None``.
        after_refused: The other model refuses it too; ``None`` if that cannot be said.
        swap: The prompt with neutral words, or ``None``.
        swap_refused: The first model refuses that; ``None`` if that cannot be said.
    """

    before: Attribution
    spans: Sequence[tuple[int, int]]
    after: Attribution | None
    after_refused: bool | None
    swap: str | None
    swap_refused: bool | None


def outcome(refused: bool | None) -> str:
    """Return what became of a prompt, in a word."""
    return "not clear" if refused is None else "refused" if refused else "answered"


def shade(score: float, largest: float) -> tuple[float, float, float]:
    """Return the colour behind a word: white for a score of 0, full at the largest."""
    strength = 0.85 * min(abs(score) / (largest or 1.0), 1.0)
    full = to_rgb(TOWARDS if score > 0 else AGAINST)
    red, green, blue = (1 - strength * (1 - part) for part in full)
    return red, green, blue


def largest_score(asked: Sequence[Asked]) -> float:
    """Return the largest absolute score of any word, the end of the scale."""
    both = [found for one in asked for found in (one.before, one.after) if found is not None]
    return max((abs(word.score) for found in both for word in found.words), default=0.0) or 1.0


def draw(asked: Sequence[Asked], title: str, names: Sequence[str], caption: str) -> Figure:
    """Return the figure of the first prompts, one scale for all of them.

    Args:
        asked: The prompts.
        title: What the numbers say.
        names: The model that refused, and the other one if there is one.
        caption: How it is read and where it comes from.
    """
    shown = list(asked[:_MOST])
    more = "" if len(shown) == len(asked) else f" {len(shown)} of {len(asked)} are shown."
    count = [2 + (one.after is not None) + 0.6 for one in shown]
    foot_lines = textwrap.wrap(caption + more, _SMALL)
    foot = _FOOT + 0.14 * len(foot_lines)
    tall = _HEAD + foot + _LINE * sum(count)
    with style.styled():
        figure = Figure(figsize=(_WIDTH, tall), dpi=120)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, tall)  # in inches from below
        renderer = FigureCanvasAgg(figure).get_renderer()
        largest = largest_score(shown)
        titled = "\n".join(textwrap.wrap(title, _LETTERS))
        axes.text(0.012, tall - 0.28, titled, fontsize=10.5, va="center", fontweight="bold")
        told = f"before: {names[0]}" + (f"  |  after: {names[1]}" if len(names) > 1 else "")
        axes.text(0.012, tall - 0.66, told, fontsize=9, va="center")
        at = tall - _HEAD
        outcomes: list[tuple[float, bool | None]] = []
        end = 0.5
        for one, lines in zip(shown, count, strict=True):
            end = max(end, _prompt(axes, renderer, one, at, largest=largest, outcomes=outcomes))
            at -= _LINE * lines
        for height, refused in outcomes:
            _outcome(axes, min(end + 0.02, _RIGHT), height, refused)
        _scale(figure, tall, largest, foot)
        axes.text(
            0.012,
            0.08,
            "\n".join(foot_lines),
            fontsize=7.5,
            color=style.MUTED,
            va="bottom",
        )
    return figure


def _prompt(
    axes: Any,
    renderer: Any,
    one: Asked,
    top: float,
    *,
    largest: float,
    outcomes: list[tuple[float, bool | None]],
) -> float:
    """Write a prompt's lines, note height and outcome of each, and return where the widest ends."""
    pairs: list[tuple[str, Attribution, bool | None]] = [("before", one.before, True)]
    if one.after is not None:
        pairs.append(("after", one.after, one.after_refused))
    ends = []
    for number, (name, found, refused) in enumerate(pairs):
        height = top - number * _LINE
        axes.text(0.012, height, name, fontsize=8.5, va="center", color=style.MUTED)
        ends.append(_words(axes, renderer, found, one.spans, height=height, largest=largest))
        outcomes.append((height, refused))
    height = top - len(pairs) * _LINE
    axes.text(0.012, height, "before,\nswapped", fontsize=7, va="center", color=style.MUTED)
    swap = "(no sensitive word)" if one.swap is None else one.swap
    drawn = axes.text(
        _LEFT,
        height,
        textwrap.shorten(swap, 110, placeholder=" …"),
        fontsize=9,
        va="center",
        fontstyle="italic" if one.swap else "normal",
    )
    if one.swap is not None:
        outcomes.append((height, one.swap_refused))
    ends.append(_LEFT + drawn.get_window_extent(renderer).width / axes.bbox.width)
    return max(ends)


def _outcome(axes: Any, at: float, height: float, refused: bool | None) -> None:
    colour = style.MUTED if refused is None else style.BAD if refused else style.GOOD
    text = outcome(refused)
    axes.text(at, height, text, fontsize=9, va="center", color=colour, fontweight="bold")


def _words(
    axes: Any,
    renderer: Any,
    found: Attribution,
    spans: Sequence[tuple[int, int]],
    *,
    height: float,
    largest: float,
) -> float:
    """Write words with their colours, and return where they end."""
    x = _LEFT
    for word in found.words:
        sensitive = any(word.start < high and low < word.end for low, high in spans)
        drawn = axes.text(
            x,
            height,
            word.text,
            va="center",
            fontsize=9,
            fontweight="bold" if sensitive else "normal",
            bbox={"facecolor": shade(word.score, largest), "linewidth": 0, "pad": 2},
        )
        x += drawn.get_window_extent(renderer).width / axes.bbox.width + 0.008
        if x > _RIGHT - 0.02:  # a long prompt goes on beyond the figure
            drawn.set_text("…")
            break
    return x


def _scale(figure: Figure, tall: float, largest: float, foot: float) -> None:
    height = foot - 0.45  # inches from below
    place = figure.add_axes((_LEFT, (height - 0.06) / tall, 0.34, 0.13 / tall))
    steps = [largest * (n / 50 - 1) for n in range(101)]
    colours = mpl.colors.ListedColormap([shade(step, largest) for step in steps])
    bar = figure.colorbar(
        ScalarMappable(Normalize(-largest, largest), colours), cax=place, orientation="horizontal"
    )
    bar.set_ticks([-largest, 0, largest])
    bar.set_ticklabels([f"{-largest:+.1f}", "0", f"{largest:+.1f}"])
    place.tick_params(labelsize=8)
    axes = figure.axes[0]
    axes.text(
        _LEFT + 0.37,
        height,
        "what a word adds to the log-probability of the refusal (nats):\n"
        "orange drives it, blue speaks against it; sensitive words are bold",
        fontsize=8.5,
        va="center",
    )
