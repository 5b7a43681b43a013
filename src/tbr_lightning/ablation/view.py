"""Rows of an ablation, as a table and as lines for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tbr_lightning.ablation.models import Model
from tbr_lightning.evaluation.results import MEASURES
from tbr_lightning.evaluation.statistics import Estimate

_NOTE = "95% intervals over trials and prompts"
_SHARES = {name for measure in MEASURES for name in (measure.name, measure.prefix)}


@dataclass(frozen=True)
class Row:
    """Trials that share the values of a study's groups, or a margin over several such groups.

    Attributes:
        margin: Models that it covers: ``model`` for one, ``architecture``, ``size`` or ``all``.
        of: The model, the architecture, the range of sizes, or the groups' other values.
        choice: The groups' values that are words and do not choose the model, as the reflection's.
        amount: The groups' values that are numbers, such as the rows of safety data.
        amount_of: The keys of those numbers.
        model: The model; ``None`` for a margin.
        trials: Number of trials.
        runs: Number of training runs in them: trials times seeds.
        rates: Estimates by the metric's name, each with its 95% interval.
    """

    margin: str
    of: str
    choice: str
    amount: str
    amount_of: str
    model: Model | None
    trials: int
    runs: int
    rates: Mapping[str, Estimate]

    @property
    def arm(self) -> str:
        """Choice and amount in one text."""
        return f"{self.choice} {self.amount}".strip()


def is_share(metric: str) -> bool:
    """Return whether a metric is in [0, 1], so that people read it in percent."""
    parts = metric.removeprefix("probe/").split("/")
    return parts[0] in _SHARES or any(part.endswith(("_rate", "_share")) for part in parts)


def as_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one flat mapping per row: its group, counts, each rate with ``_lo`` and ``_hi``."""
    table = []
    for row in rows:
        flat: dict[str, Any] = {
            "margin": row.margin,
            "of": row.of,
            "choice": row.choice,
            "amount": row.amount or None,
            "amount_of": row.amount_of or None,
            "architecture": row.model.architecture if row.model else None,
            "parameters": row.model.parameters if row.model else None,
            "trials": row.trials,
            "runs": row.runs,
        }
        for name, rate in row.rates.items():
            low, high = rate.interval
            flat |= {name: rate.value, f"{name}_lo": low, f"{name}_hi": high}
        table.append(flat)
    return table


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of :func:`as_table`, or records of an arena, as a table of Markdown.

    Rates are in percent with 95% intervals; a column that no row has is left out.
    """
    named = [("of", "choice", "amount"), ("rival", "about")]["rival" in table[0]]
    shown = [one for one in MEASURES if any(_known(row, one.name) for row in table)]
    names = [key for key in named if any(row.get(key) for row in table)]
    amounts = next((row["amount_of"] for row in table if row.get("amount_of")), "amount")
    called = {"of": "model", "choice": "arm", "amount": amounts}
    heads = [*(called.get(key, key) for key in names), *(measure.heading for measure in shown)]
    told = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table:
        cells = [str(row.get(key) or "") for key in names]
        for measure in shown:
            if not _known(row, measure.name):
                cells.append("–")
                continue
            value, low, high = (100 * row[f"{measure.name}{end}"] for end in ("", "_lo", "_hi"))
            cells.append(f"{value:.1f} ({low:.0f} to {high:.0f})")
        told.append("| " + " | ".join(cells) + " |")
    return "\n".join(told) + "\n"


def _known(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    return value is not None and not math.isnan(value)


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the lines to print.

    With several models there is a table for each metric, models and margins down, arms across; the
    first metric is shown for every model, the others for the margins only, since the rest is in
    the logged table. With one model there is one table, arms down, metrics across.
    """
    metrics = list(dict.fromkeys(name for row in rows for name in row.rates))
    if len({(row.margin, row.of) for row in rows}) == 1:
        cells = [[_cell(metric, row.rates.get(metric)) for metric in metrics] for row in rows]
        heads = [name.replace("_", " ") for name in metrics]
        others = "" if all(map(is_share, metrics)) else ", other numbers as they are"
        return _aligned(
            f"rates in percent{others}, {_NOTE}", heads, [row.arm for row in rows], cells
        )
    arms = list(dict.fromkeys(row.arm for row in rows))
    places: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        places.setdefault((row.margin, row.of), {})[row.arm] = row
    told: list[str] = []
    margins = any(margin != "model" for margin, _ in places)
    for metric in metrics:
        whole = metric == metrics[0] or not margins
        shown = {k: v for k, v in places.items() if whole or k[0] != "model"}
        cells = [
            [_cell(metric, found[arm].rates.get(metric)) if arm in found else "–" for arm in arms]
            for found in shown.values()
        ]
        unit = "percent, " if is_share(metric) else ""
        title = f"{metric.replace('_', ' ')} ({unit}{_NOTE})"
        heads = [_head(*one) for one in shown.items()]
        if len(set(heads)) < len(heads):  # one architecture and size, told apart by what they read
            heads = [of for _, of in shown]
        block = _aligned(title, arms, heads, cells)
        # A blank line before each kind of margin.
        for index, (before, here) in reversed(list(enumerate(pairwise(shown)))):
            if before[0] != here[0]:
                block.insert(index + 3, "")
        told += ["", *block]
    return told[1:]


def _aligned(
    title: str, heads: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]
) -> list[str]:
    wide = max(map(len, names), default=0)
    widths = [
        max(len(head), *(len(line[column]) for line in cells)) for column, head in enumerate(heads)
    ]
    return [
        title,
        *(
            f"{name:<{wide}}"
            + "".join(f"  {text:>{width}}" for text, width in zip(line, widths, strict=True))
            for name, line in zip(("", *names), (heads, *cells), strict=True)
        ),
    ]


def _head(place: tuple[str, str], found: Mapping[str, Row]) -> str:
    model = next(iter(found.values())).model
    if model is None or not model.parameters:
        return place[1]
    return f"{model.architecture}, {model.size}"


def _cell(metric: str, rate: Estimate | None) -> str:
    if rate is None:
        return "–"
    low, high = rate.interval
    if is_share(metric):
        value, ends = f"{100 * rate.value:.1f}", f"[{100 * low:.0f}, {100 * high:.0f}]"
    else:
        value, ends = f"{rate.value:.3g}", f"[{low:.3g}, {high:.3g}]"
    return value if math.isnan(low) else f"{value} {ends}"
