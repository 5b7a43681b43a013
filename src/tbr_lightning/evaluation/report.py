"""The table of an evaluation: one line per measure, benchmark and model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from tbr_lightning.evaluation.benchmarks import benchmarks
from tbr_lightning.evaluation.comparison import ALL, Difference
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import (
    DEGENERATE,
    FALSE_REFUSAL,
    HARMFUL_COMPLIANCE,
    MEASURES,
    by_name,
    metric_name,
    rates,
)
from tbr_lightning.evaluation.statistics import Estimate, Rate, macro
from tbr_lightning.progress import cell

COLUMNS: tuple[tuple[str, str], ...] = (
    ("false refusal", "false_refusal"),
    ("harmful compliance", "harmful_compliance"),
    ("general accuracy", "general_accuracy"),
    ("look-alikes right", "look_alike_accuracy"),
    ("unparsed", "unparsed"),
    ("judge errors", "judge_error"),
)
MACRO = "macro"
NOTE = (
    "percent with 95% intervals (Wilson); macro: mean over benchmarks, each counting the same; "
    "unparsed: empty, or in a language that is not known; they count in no rate but accuracy, "
    "and at worst all of them against the model"
)
DEGENERATE_NOTE = (
    "degenerate: a loop, an echo or talk without content, which counts as compliance all the same"
)
PAIRED = (
    "difference: to the first model, in points, over the prompts that both answered readably, with "
    "Tango's interval; p: McNemar, exact; Holm: adjusted over the benchmarks of a measure"
)


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        measure: Name of the measure, in words.
        benchmark: Name of the benchmark, ``all`` or ``macro``.
        model: Short name of the model.
        rate: The share.
        difference: Difference to the first model; ``None`` for the first itself, and for ``macro``.
    """

    measure: str
    benchmark: str
    model: str
    rate: Rate | Estimate
    difference: Difference | None = None


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return a name that fits a table for each model: ids of 32 digits are cut to eight.

    Where two would be the same, all stay as they are.
    """
    short = {name: re.sub(r"([0-9a-f]{8})[0-9a-f]{24}$", r"\1", name) for name in models}
    short = {name: cut.removeprefix("models:/") for name, cut in short.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in models}


def lines(
    models: Mapping[str, Sequence[Judged]], differences: Sequence[Difference] = ()
) -> list[Line]:
    """Return the table's lines, ordered by measure, benchmark, model.

    ``all`` and ``macro`` occur only where a measure has several benchmarks.
    """
    called = short_names(list(models))
    found = {(d.measure, d.benchmark, d.model): d for d in differences}
    table: list[Line] = []
    for measure in MEASURES:
        of: dict[str, dict[str, Rate | Estimate]] = {}
        for name, rows in models.items():
            parts = by_name(measure.of(rows), lambda row: row.benchmark)
            shares = {benchmark: measure.rate(part) for benchmark, part in parts.items()}
            for benchmark, share in shares.items():
                of.setdefault(benchmark, {})[name] = share
            if len(shares) > 1:
                of.setdefault(ALL, {})[name] = measure.rate(rows)
                of.setdefault(MACRO, {})[name] = macro(list(shares.values()))
        last = (ALL, MACRO)
        for benchmark in sorted(of, key=lambda key: (key in last, key)):
            table += [
                Line(measure.heading, benchmark, called[name], share, found.get(key))
                for name, share in of[benchmark].items()
                for key in [(measure.name, benchmark, name)]
            ]
    table += [
        Line(f"{measure.heading}, at worst", ALL, called[name], worst)
        for measure in (FALSE_REFUSAL, HARMFUL_COMPLIANCE)
        for name, rows in models.items()
        if (worst := measure.worst(rows)) is not None
    ]
    for measure in DEGENERATE:
        shares = {name: measure.rate(rows) for name, rows in models.items()}
        if any(share.count for share in shares.values()):
            table += [
                Line(measure.heading, ALL, called[name], share)
                for name, share in shares.items()
                if share.n
            ]
    return table + [
        Line("unparsed", ALL, called[name], rates(rows).unparsed) for name, rows in models.items()
    ]


def caveats(table: Sequence[Line]) -> str:
    """Return the caveats on the benchmarks in a table."""
    named = {line.benchmark for line in table}
    known = {metric_name(name): one.caveat for name, one in benchmarks().items() if one.caveat}
    return "; ".join(f"{name}: {caveat}" for name, caveat in known.items() if name in named)


def terminal_table(title: str, table: Sequence[Line]) -> Table:
    """Return the lines as a table for the terminal, narrow enough for 80 columns."""
    several = len({line.model for line in table}) > 1
    marked = any(line.measure == one.heading for line in table for one in DEGENERATE)
    notes = (NOTE, DEGENERATE_NOTE * marked, PAIRED * several, caveats(table))
    shown = Table(
        title=cell(title),
        title_justify="left",
        caption=cell("; ".join(part for part in notes if part)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("", overflow="fold")
    if several:
        shown.add_column("model", overflow="fold")
    shown.add_column("n", justify="right")
    shown.add_column("percent", justify="center", no_wrap=True)
    if several:
        shown.add_column("difference", justify="center", no_wrap=True)
        shown.add_column("p", justify="right", no_wrap=True)
        shown.add_column("Holm", justify="right", no_wrap=True)
    before = ""
    for line in table:
        what = line.measure if line.benchmark == ALL else f"{line.measure}, {line.benchmark}"
        if before and what != before:
            shown.add_section()
        cells = ["" if what == before else cell(what), *([cell(line.model)] if several else [])]
        cells += [str(line.rate.n), _two_lines(line.rate)]
        if several:
            cells += _difference_cells(line.difference)
        shown.add_row(*cells)
        before = what
    return shown


def _two_lines(rate: Rate | Estimate) -> str:
    low, high = rate.interval
    return f"{100 * rate.value:.1f}\n[dim]{100 * low:.1f}–{100 * high:.1f}[/dim]"


def _difference_cells(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["", "", ""]
    low, high = difference.interval
    span = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return [
        f"{100 * difference.value:+.1f}\n[dim]{span}[/dim]",
        probability(difference.p),
        probability(difference.p_holm),
    ]


def probability(p: float) -> str:
    """Return a p-value in the usual notation."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
