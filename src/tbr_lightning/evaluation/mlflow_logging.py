"""What an evaluation logs in MLflow for readers: figures, descriptions and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf

from tbr_lightning.config.targets import restored
from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import figures, findings, pages, report, table_export
from tbr_lightning.evaluation.comparison import Difference
from tbr_lightning.evaluation.evaluation_result import (
    CONTAMINATION,
    LABEL,
    RESPONSES,
    EvaluateResult,
)
from tbr_lightning.evaluation.judged_response import Judged, from_table
from tbr_lightning.evaluation.judges.loading import identity
from tbr_lightning.evaluation.results import rates
from tbr_lightning.outages import refused
from tbr_lightning.reports.page import FILE, Drawn, render
from tbr_lightning.tracking.run import NOTE, Run

if TYPE_CHECKING:
    from tbr_lightning.evaluation.respond import EvaluatedModel


FIGURES = ("two_sided.png", "categories.png", "reflections.png")
"""Artifacts of an evaluation: its figures."""


def log_evaluation(
    run: Run,
    config: EvaluateConfig,
    subject: EvaluatedModel,
    rows: Sequence[Judged],
    *,
    told: str,
    drawn: Sequence[Drawn] = (),
    figures: bool = True,
) -> Path | None:
    """Log figures, description and page of one model's evaluation.

    Args:
        run: Run of the evaluation.
        config: Config of the command.
        subject: The evaluated model.
        rows: Judged answers of the model.
        told: Notice for readers of the page; empty for none.
        drawn: Figures of an explanation, for the page.
        figures: Whether to draw; :func:`draw` does it later.

    Returns:
        Local path of the page; ``None`` if it is in MLflow alone.
    """
    if figures:
        source = findings.asked_of(config.suite, config.judge, rows)
        _log_figures(run, {subject.label: rows}, (), source)
    table = report.lines({subject.label: rows})
    told_of = pages.verdict(subject.label, rows)  # MLflow folds all but the first lines
    text = f"{told_of}\n\n{listed(table)}\n\n{report.caveats(table)}"
    run.describe(text.strip())
    if subject.logged is not None and not subject.mitigation:
        _describe_training(subject.logged.run_id, run, config, rows)
    titles = subject.titles
    return log_page(run, config, titles, rows, told=told, drawn=drawn, figures=figures)


def log_page(
    run: Run,
    config: EvaluateConfig,
    titles: tuple[str, str],
    rows: Sequence[Judged],
    *,
    told: str,
    drawn: Sequence[Drawn] = (),
    figures: bool = True,
) -> Path | None:
    """Log the page of one model's evaluation.

    Args:
        run: Run of the evaluation.
        config: Config of the command.
        titles: Display name and identity of the model.
        rows: Judged answers of the model.
        told: Notice for readers of the page; empty for none.
        drawn: Figures of an explanation.
        figures: Whether to draw its own figures.

    Returns:
        Local path of the page; ``None`` if it is in MLflow alone.
    """
    label, name = titles
    facts = _facts(config, rows, {"model": name, "run": run.id})
    later = f"No figures yet: `tbr evaluate draw evaluation={run.id}` adds them."
    notes = (told, "" if figures else later, report.caveats(report.lines({label: rows})))
    page = pages.evaluation_page(label, rows, facts, notes, figures=figures)
    return run.log_page(render(replace(page, figures=[*page.figures, *drawn])), FILE)


def draw(run_id: str) -> Path | None:
    """Log the figures and the page of a stored evaluation that has no figures.

    A study's trials are evaluated without, since nobody looks at most of them.

    Args:
        run_id: ID of the evaluation's run.

    Returns:
        Local path of the page; ``None`` if it is in MLflow alone.

    Raises:
        UserError: It is not the finished evaluation of one model.
    """
    run = Run(run_id)
    try:
        tags = run.tags()
    except MlflowException as error:
        raise refused(
            error, f"evaluation={run_id} is not in this store: give the id of an evaluation"
        ) from error
    if tags.get("tbr.stage") != "evaluate" or not run.has(RESPONSES):
        raise UserError(
            f"evaluation={run_id} is not an evaluation of one model: give a run of evaluate"
        )
    if run.has(FIGURES[0]):
        return run.place(FILE)
    config: EvaluateConfig = restored(
        EvaluateConfig, OmegaConf.create(yaml.safe_load(run.text("config.yaml")))
    )
    rows = from_table(run.text(RESPONSES))
    name = tags.get("tbr.subject", run_id)
    label = tags.get(LABEL, name)
    source = findings.asked_of(config.suite, config.judge, rows)
    _log_figures(run, {label: rows}, (), source)
    return log_page(run, config, (label, name), rows, told=tags.get(CONTAMINATION, ""))


def log_comparison(
    run: Run,
    config: EvaluateConfig,
    done: Mapping[str, EvaluateResult],
    differences: Sequence[Difference],
) -> Path | None:
    """Log figures, tables and page of a comparison.

    Args:
        run: Run of the comparison.
        config: Config of the command.
        done: Evaluations by the name that was given.
        differences: Differences of every model to the first, by the same names.

    Returns:
        Local path of the page; ``None`` if it is in MLflow alone.
    """
    called, renamed = labels(done), named(done, differences)
    rows = {called[model]: one.rows for model, one in done.items()}
    source = findings.asked_of(config.suite, config.judge, next(iter(rows.values())))
    _log_figures(run, rows, renamed, source)
    table = report.lines(rows, renamed)
    for form in ("md", "latex", "csv"):
        run.log_text(table_export.pasted(table, form) + "\n", f"table.{form}")
    verdict, _ = pages.difference_verdict(rows, renamed)
    run.describe(f"{verdict}\n\n{listed(table)}")
    more = {called[model]: f"{one.subject}, run {one.run_id}" for model, one in done.items()}
    facts = _facts(config, next(iter(rows.values())), {**more, "run": run.id})
    page = pages.comparison_page(rows, renamed, facts)
    drawn = next(iter(done.values())).figures  # of the first model against the last
    return run.log_page(render(replace(page, figures=[*page.figures, *drawn])), FILE)


def listed(table: Sequence[report.Line]) -> str:
    """Return the lines of a table as a list in Markdown: MLflow sets no room between columns."""
    several = len({line.model for line in table}) > 1
    found = []
    for line in table:
        value, low, high = (100 * share for share in (line.rate.value, *line.rate.interval))
        what = f"{line.measure}, {line.benchmark}" + (f", {line.model}" if several else "")
        told = f"{value:.1f}% ({low:.1f} to {high:.1f}, n={line.rate.n})"
        if line.difference is not None:
            told += f", {100 * line.difference.value:+.1f} points"
        found.append(f"- {what}: {told}")
    return "\n".join(found)


def labels(models: Mapping[str, EvaluateResult]) -> dict[str, str]:
    """Return the display name of each model, with its short name where two would be the same.

    Args:
        models: Evaluations by the name that was given.
    """
    called = {name: one.label or name for name, one in models.items()}
    short = report.short_names(list(models))
    shared = {label for label in called.values() if list(called.values()).count(label) > 1}
    return {
        name: f"{label} ({short[name]})" if label in shared else label
        for name, label in called.items()
    }


def named(
    models: Mapping[str, EvaluateResult], differences: Sequence[Difference]
) -> list[Difference]:
    """Return differences between models by their display names."""
    called = labels(models)
    return [
        replace(one, model=called[one.model], against=called[one.against]) for one in differences
    ]


def _log_figures(
    run: Run,
    models: Mapping[str, Sequence[Judged]],
    differences: Sequence[Difference],
    source: str,
) -> None:
    sides = {name: [rates(rows)] for name, rows in models.items()}
    title = findings.compared(models, differences)
    run.log_figure(figures.two_sided_figure(sides, title, source=source), FIGURES[0])
    dots = figures.category_figure(models, source)
    if dots is not None:
        run.log_figure(dots, FIGURES[1])
    run.log_figure(figures.reflection_figure(models, source), FIGURES[2])


def _describe_training(
    run_id: str | None, evaluation: Run, config: EvaluateConfig, rows: Sequence[Judged]
) -> None:
    """Write the rates of an evaluation on the page of the training run that made the model.

    What an earlier evaluation on the same half of the same suite wrote there is replaced.
    """
    heading = f"**{config.suite.name}, {config.suite.half} half:**"
    line = f"{heading} {pages.verdict('it', rows)} Evaluation `{evaluation.id}`."
    training = Run(run_id or "")
    try:
        there = training.tags().get(NOTE, "")
    except MlflowException:  # it was logged outside a run
        return
    kept = [one for one in there.split("\n\n") if one and not one.startswith(heading)]
    training.describe("\n\n".join([*kept, line]))


def _facts(
    config: EvaluateConfig, rows: Sequence[Judged], more: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return where an evaluation's numbers come from, for its page."""
    return [
        (pages.ASKED, findings.asked_of(config.suite, config.judge, rows)),
        ("suite", f"{config.suite.name}, {config.suite.half} half"),
        ("benchmarks", pages.benchmarks_of(rows)),
        ("judge", identity(config.judge)),
        ("answers to a prompt", str(config.repeats)),
        *more.items(),
    ]
