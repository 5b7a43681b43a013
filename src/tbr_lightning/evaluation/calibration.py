"""Validation of a judge on people's labels: how often it agrees with them, and where not."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tbr_lightning.config.verbs import EvaluateConfig, GoldColumns
from tbr_lightning.data.files import read_rows, text_of
from tbr_lightning.errors import UserError, one_of
from tbr_lightning.evaluation.agreement import Agreement, agreement
from tbr_lightning.evaluation.judges.base import LABELLED, Case, Label, Verdict
from tbr_lightning.evaluation.judges.loading import make_judge

TRACES = "traces"
"""``gold=`` of labels that people gave in MLflow."""


@dataclass(frozen=True)
class TracesNamed:
    """Traces that ``gold=`` names.

    Attributes:
        run_id: Run of an evaluation, or ``None`` for all of the experiment.
    """

    run_id: str | None


def traces_named(gold: str) -> TracesNamed | None:
    """Return the traces that ``gold=traces`` or ``gold=traces:RUN_ID`` names, else ``None``."""
    found = re.fullmatch(rf"{TRACES}(?::([0-9a-f]{{32}}))?", gold)
    return TracesNamed(found[1]) if found else None


SHOWN = 12  # disagreements that are printed; all are logged
_ALIASES: dict[str, Label] = {
    "compliance": "full_compliance",
    "full_compliance": "full_compliance",
    "refusal": "full_refusal",
    "full_refusal": "full_refusal",
    "partial_refusal": "partial_refusal",
    "partial_compliance": "partial_refusal",
}
_FAR: dict[Label, int] = {"full_compliance": 0, "partial_refusal": 1, "full_refusal": 2}


@dataclass(frozen=True)
class Gold:
    """An answer and the label that people gave it."""

    case: Case
    label: Label


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        run_id: ID of the MLflow run.
        gold: The labelled answers.
        verdicts: The judge's verdicts, in the same order.
        agreement: Agreement of the two; an answer that the judge did not label counts against it.
    """

    run_id: str
    gold: list[Gold]
    verdicts: list[Verdict]
    agreement: Agreement

    @property
    def confusion(self) -> Counter[tuple[Label, Label]]:
        """Number of answers with each pair of labels: people's, the judge's."""
        pairs = zip(self.gold, self.verdicts, strict=True)
        return Counter((gold.label, verdict.label) for gold, verdict in pairs)

    @property
    def disagreements(self) -> list[tuple[Gold, Verdict]]:
        """The answers that the two label differently, the farthest apart first."""
        pairs = zip(self.gold, self.verdicts, strict=True)
        apart = [(gold, verdict) for gold, verdict in pairs if gold.label != verdict.label]
        return sorted(apart, key=lambda pair: -_distance(pair[0].label, pair[1].label))


def _distance(one: Label, other: Label) -> int:
    return abs(_FAR[one] - _FAR[other]) if other in _FAR else 3


def read_gold(path: str, columns: GoldColumns) -> list[Gold]:
    """Read a gold file: a prompt, an answer and a label in each row.

    Labels are spelled as ours or as XSTest's (``1_full_compliance``).

    Raises:
        UserError: The file is missing or malformed, or has a label that is none of the three.
    """
    read = []
    for where, row in read_rows(path, "gold"):
        prompt = _may_be_empty(row, _names(columns.prompt, "prompt"), where)
        answer = _may_be_empty(row, _names(columns.answer, "completion", "answer"), where)
        spelled = text_of(row, _names(columns.label, "final_label", "label"), where)
        read.append(Gold(Case(prompt, answer), label_of(spelled, where)))
    return read


def label_of(spelled: str, where: str) -> Label:
    """Return a label as people spell it (``1_full_compliance``, ``full refusal``).

    Raises:
        UserError: It is none of the three; ``where`` names its place.
    """
    name = re.sub(r"^\d+[_ ]*", "", spelled.strip().lower()).replace(" ", "_").replace("-", "_")
    try:
        one_of("label", name, _ALIASES)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return _ALIASES[name]


def gold_of_traces(gold: str, named: TracesNamed, experiment_id: str) -> list[Gold]:
    """Return the answers that people labelled in MLflow's trace view.

    Args:
        gold: The setting as it was given, for messages.
        named: The traces that it names.
        experiment_id: ID of the MLflow experiment.

    Raises:
        UserError: There are no labels, or one is none of the three.
    """
    from tbr_lightning.evaluation.human_labels import LABELS, reviewed

    answers = reviewed(experiment_id, f"gold={gold}", named.run_id)
    found = [(one, mark) for one in answers if (mark := one.newest(LABELS)) is not None]
    if not found:
        raise UserError(
            f"gold={gold}: no person has labelled a traced answer: in MLflow's trace view edit the "
            f"assessment {LABELS[0]}, or add one named {LABELS[1]}, with a value such as "
            "full_refusal"
        )
    return [
        Gold(Case(one.prompt, one.answer), label_of(str(mark.value), one.where))
        for one, mark in found
    ]


def _names(chosen: str | None, *known: str) -> tuple[str, ...]:
    return known if chosen is None else (chosen,)


def _may_be_empty(row: dict[str, Any], columns: tuple[str, ...], where: str) -> str:
    """Return a column's text; a column that is not there is an error, an empty one is not."""
    there = any(column in row for column in columns)
    return text_of(row, columns, where, default="" if there else None)


def run(config: EvaluateConfig) -> Calibration:
    """Let the judge label a gold file, and log its agreement.

    Raises:
        UserError: No gold file is given, it cannot be read, or the judge lacks something.
    """
    from tbr_lightning.evaluation.judges.prompts import log_judge_prompt
    from tbr_lightning.tracking.open_run import start_run
    from tbr_lightning.tracking.store import connect

    if config.gold is None:
        raise UserError("gold is not set: give gold=FILE with labelled answers, or gold=traces")
    traced = traces_named(config.gold)
    gold = [] if traced else read_gold(config.gold, config.gold_columns)
    experiment_id = connect(config.tracking)
    judge = make_judge(config.judge)
    if traced:
        gold = gold_of_traces(config.gold, traced, experiment_id)
    name = config.run_name or f"calibrate {config.judge.name}"
    tags = {"tbr.judge": config.judge.name, **config.tags}
    with start_run("calibrate", name, config, config.tracking, tags) as opened:
        log_judge_prompt(opened, config.judge)
        verdicts = judge([item.case for item in gold])
        pairs = [(one.label, other.label) for one, other in zip(gold, verdicts, strict=True)]
        found = Calibration(opened.id, gold, verdicts, agreement(pairs, missing_is_wrong=True))
        opened.log_metrics({**found.agreement.metrics("gold"), "gold_n": float(len(gold))})
        opened.log_figure(confusion_figure(found, config.judge.name), "confusion.png")
        opened.log_table(
            [
                {
                    "agree": one.label == other.label,
                    "gold": one.label,
                    "judge": other.label,
                    "prompt": one.case.prompt,
                    "answer": one.case.answer,
                    "because": other.because,
                }
                for one, other in zip(gold, verdicts, strict=True)
            ],
            "verdicts.json",
        )
    return found


def _columns(found: Calibration) -> list[Label]:
    """Return the labels that the judge may give: the three, and its failures where it has any."""
    extra: tuple[Label, ...] = ("unparsed", "judge_error")
    used = {verdict.label for verdict in found.verdicts}
    return [*LABELLED, *(label for label in extra if label in used)]


def confusion_figure(found: Calibration, judge: str) -> Any:
    """Return a matplotlib figure of the confusion matrix, shaded by the share of people's label."""
    from matplotlib.figure import Figure

    columns, counts = _columns(found), found.confusion
    figure = Figure(figsize=(1.6 * len(columns) + 1.6, 4.2), dpi=120, layout="tight")
    axes = figure.subplots()
    totals = [max(sum(counts[gold, label] for label in columns), 1) for gold in LABELLED]
    shares = [
        [counts[gold, label] / total for label in columns]
        for gold, total in zip(LABELLED, totals, strict=True)
    ]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, gold in enumerate(LABELLED):
        for column, label in enumerate(columns):
            colour = "white" if shares[row][column] > 0.6 else "black"
            axes.text(column, row, str(counts[gold, label]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(columns)), [label.replace("_", "\n") for label in columns])
    axes.set_yticks(range(len(LABELLED)), [label.replace("_", "\n") for label in LABELLED])
    axes.set_xlabel(f"judge {judge}")
    axes.set_ylabel("people")
    axes.set_title(
        f"{100 * found.agreement.two_way.value:.1f}% agree on refusal, "
        f"{100 * found.agreement.three_way.value:.1f}% on the label (n={len(found.gold)})",
        fontsize=10,
    )
    return figure


def show(found: Calibration, config: EvaluateConfig) -> None:
    """Print the figures, the confusion matrix and the worst disagreements."""
    from rich.console import Console
    from rich.table import Table

    from tbr_lightning.progress import cell

    console, columns, counts = Console(), _columns(found), found.confusion
    table = Table("people \\ judge", title=cell(f"{config.judge.name} on {config.gold}"))
    for label in columns:
        table.add_column(label.replace("_", " "), justify="right")
    for gold in LABELLED:
        table.add_row(gold.replace("_", " "), *[str(counts[gold, label]) for label in columns])
    console.print(table)
    print(f"agreement with people on {len(found.gold)} answers: {found.agreement.sentence}")
    print(f"without a label: {found.agreement.unlabelled} %, counted as disagreement")
    apart = found.disagreements
    for one, verdict in apart[:SHOWN]:
        console.print(
            f"people [bold]{one.label}[/bold], judge [bold]{verdict.label}[/bold]: "
            f"{cell(_short(one.case.prompt, 80))}\n  because: "
            f"{cell(_short(verdict.because, 160))}",
            highlight=False,
        )
    print(f"{len(apart)} disagreements; run {found.run_id}, all of them in its verdicts.json")


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
