"""What a person looks at: a table of arms and the two-sided figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from rich.table import Table

from tbr_lightning.evaluation.results import Rates
from tbr_lightning.evaluation.statistics import Rate

mpl.use("Agg")  # figures are files here; no display is needed

_SAME_SPOT = 4  # points

COLUMNS: tuple[tuple[str, str], ...] = (
    ("false refusal", "false_refusal"),
    ("harmful compliance", "harmful_compliance"),
    ("general accuracy", "general_accuracy"),
    ("look-alikes right", "look_alike_accuracy"),
    ("unparsed", "unparsed"),
    ("judge errors", "judge_error"),
)


def rates_table(title: str, results: Mapping[str, Rates]) -> Table:
    """Return a terminal table: one line a model, percent with Wilson 95% intervals."""
    table = Table(title=title, title_justify="left", caption="percent, Wilson 95% interval")
    table.add_column("model", overflow="fold")
    for heading, _ in COLUMNS:
        table.add_column(heading.replace(" ", "\n"), justify="center", no_wrap=True)
    for name, rates in results.items():
        cells = [getattr(rates, field) for _, field in COLUMNS]
        table.add_row(name, *[_two_lines(cell) if cell.n else "–" for cell in cells])
    return table


def _two_lines(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.value:.1f}\n[dim]{100 * low:.0f}–{100 * high:.0f}[/dim]"


def two_sided_figure(results: Mapping[str, Sequence[Rates]], title: str) -> Any:
    """Return a matplotlib figure: false refusal against harmful compliance, one colour a model.

    With several results (seeds) of a model each is a point; bars are Wilson 95% intervals of the
    pooled counts. Down and left is better.
    """
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 5.2), dpi=120)
    colours = plt.get_cmap("tab10")
    places: list[tuple[float, float, list[str]]] = []
    for number, (name, many) in enumerate(results.items()):
        colour = colours(number % 10)
        across = pool([one.harmful_compliance for one in many])
        up = pool([one.false_refusal for one in many])
        if not (across.n and up.n):
            continue
        x, y = 100 * across.value, 100 * up.value
        axes.errorbar(x, y, xerr=_arms(across), yerr=_arms(up), fmt="o", color=colour, capsize=3)
        for one in many if len(many) > 1 else ():
            axes.plot(
                100 * one.harmful_compliance.value,
                100 * one.false_refusal.value,
                ".",
                color=colour,
                alpha=0.5,
            )
        # Models that fall on one spot share a label, so that none hides another.
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
    figure.tight_layout()
    return figure


def pool(rates: Sequence[Rate]) -> Rate:
    """Return the rate of all counts together."""
    return Rate(sum(rate.count for rate in rates), sum(rate.n for rate in rates))


def _arms(rate: Rate) -> list[list[float]]:
    low, high = rate.interval
    return [[100 * max(rate.value - low, 0)], [100 * max(high - rate.value, 0)]]
