"""The table of an evaluation as text to paste: Markdown, LaTeX, CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from tbr_lightning.evaluation.report import Line, probability

_CSV = (
    *("measure", "benchmark", "model", "n", "rate", "rate_lo", "rate_hi"),
    *("pairs", "difference", "difference_lo", "difference_hi", "p", "p_holm"),
)
_TEXT = ["Measure", "Benchmark", "Model"]  # flush left; numbers are flush right


def pasted(table: Sequence[Line], form: str) -> str:
    """Return the lines as ``md``, ``latex`` or ``csv``, without a line break at the end."""
    return {"md": markdown, "latex": latex, "csv": comma_separated}[form](table)


def markdown(table: Sequence[Line]) -> str:
    """Return a Markdown table, percent."""
    frame = _percent(table)
    frame[_TEXT] = frame[_TEXT].map(lambda text: text.replace("|", "\\|"))
    align = ["left" if column in _TEXT else "right" for column in frame]
    text = frame.to_markdown(index=False, disable_numparse=True, colalign=align)
    return re.sub(" +", " ", str(text))  # a run's page takes few characters


def latex(table: Sequence[Line]) -> str:
    """Return a LaTeX table for the package booktabs, percent."""
    frame = _percent(table)
    columns = "".join("l" if column in _TEXT else "r" for column in frame)
    text = str(frame.to_latex(index=False, column_format=columns, escape=True)).rstrip()
    # In text mode a minus is a hyphen, and < another character.
    return re.sub(r"(?<=[ \[])(?:-(?=\d)|<(?= ?0))", r"$\g<0>$", text)


def comma_separated(table: Sequence[Line]) -> str:
    """Return CSV with all digits; shares and differences in [-1, 1], not percent."""
    rows = []
    for line in table:
        row = [line.measure, line.benchmark, line.model, line.rate.n, line.rate.value]
        row += line.rate.interval
        if (d := line.difference) is not None:
            row += [d.n, d.value, *d.interval, d.p, d.p_holm]
        rows.append(row + [None] * (len(_CSV) - len(row)))
    frame = pd.DataFrame(rows, columns=list(_CSV), dtype=object)
    return frame.to_csv(index=False, lineterminator="\n").rstrip("\n")


def _percent(table: Sequence[Line]) -> pd.DataFrame:
    rows = []
    for line in table:
        row = {
            "Measure": line.measure,
            "Benchmark": line.benchmark,
            "Model": line.model,
            "n": str(line.rate.n),
            "Rate [95% CI]": _span(line.rate.value, line.rate.interval, ""),
        }
        if (d := line.difference) is not None:
            row["Difference [95% CI]"] = _span(d.value, d.interval, "+")
            row |= {"p": probability(d.p), "p (Holm)": probability(d.p_holm)}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _span(value: float, interval: tuple[float, float], sign: str) -> str:
    middle, low, high = (f"{100 * number:{sign}.1f}" for number in (value, *interval))
    return f"{middle} [{low}, {high}]"
