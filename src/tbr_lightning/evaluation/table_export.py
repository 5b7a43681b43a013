"""The table of an evaluation as text to paste: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from tbr_lightning.evaluation.report import Line, probability

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}
_CSV = (
    *("measure", "benchmark", "model", "n", "rate", "rate_lo", "rate_hi"),
    *("pairs", "difference", "difference_lo", "difference_hi", "p", "p_holm"),
)


def pasted(table: Sequence[Line], form: str) -> str:
    """Return the lines as ``md``, ``latex`` or ``csv``, without a line break at the end."""
    return {"md": markdown, "latex": latex, "csv": comma_separated}[form](table)


def markdown(table: Sequence[Line]) -> str:
    """Return a Markdown table, percent."""
    head, body, right = _cells(table)
    marks = ["---:" if column in right else "---" for column in range(len(head))]
    rows = [head, marks, *[[cell.replace("|", "\\|") for cell in row] for row in body]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def latex(table: Sequence[Line]) -> str:
    """Return a LaTeX table for the package booktabs, percent."""
    head, body, right = _cells(table)
    columns = "".join("r" if column in right else "l" for column in range(len(head)))
    text = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    text += [" & ".join(map(_escaped, head)) + r" \\", r"\midrule"]
    for number, row in enumerate(body):
        if number and row[0] != body[number - 1][0]:
            text.append(r"\midrule")
        cells = [*row[:3], *[re.sub("[-<]", r"$\g<0>$", cell) for cell in row[3:]]]
        text.append(" & ".join([*map(_escaped, cells[:3]), *cells[3:]]) + r" \\")
    return "\n".join([*text, r"\bottomrule", r"\end{tabular}"])


def comma_separated(table: Sequence[Line]) -> str:
    """Return CSV with all digits; shares and differences in [-1, 1], not percent."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(_CSV)
    for line in table:
        row = [line.measure, line.benchmark, line.model, line.rate.n, line.rate.value]
        row += line.rate.interval
        if (d := line.difference) is not None:
            row += [d.n, d.value, *d.interval, d.p, d.p_holm]
        out.writerow(row + [""] * (len(_CSV) - len(row)))
    return text.getvalue().rstrip("\n")


def _cells(table: Sequence[Line]) -> tuple[list[str], list[list[str]], set[int]]:
    """Return head, body, and the columns to be set flush right."""
    several = any(line.difference is not None for line in table)
    head = ["Measure", "Benchmark", "Model", "n", "Rate [95% CI]"]
    head += ["Difference [95% CI]", "p", "p (Holm)"] if several else []
    body = []
    for line in table:
        row = [line.measure, line.benchmark, line.model, str(line.rate.n)]
        row.append(_span(line.rate.value, line.rate.interval, ""))
        if several and (d := line.difference) is not None:
            row.append(_span(d.value, d.interval, "+"))
            row += [probability(d.p), probability(d.p_holm)]
        elif several:
            row += ["", "", ""]
        body.append(row)
    return head, body, set(range(3, len(head)))


def _span(value: float, interval: tuple[float, float], sign: str) -> str:
    middle, low, high = (f"{100 * number:{sign}.1f}" for number in (value, *interval))
    return f"{middle} [{low}, {high}]"


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda match: _LATEX[match[0]], text)
