"""Terminal output at the end of an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import report, table_export
from tbr_lightning.evaluation.agreement import judges_agree
from tbr_lightning.evaluation.comparison import Difference
from tbr_lightning.evaluation.evaluation_result import RESPONSES, ComparisonResult, EvaluateResult
from tbr_lightning.evaluation.mlflow_logging import draw, labels, named
from tbr_lightning.evaluation.pipeline import COMPARISON
from tbr_lightning.reports.page import FILE
from tbr_lightning.tracking.store import connect, ui_command


def one(config: EvaluateConfig, result: EvaluateResult) -> None:
    """Print the rates of a model, and where its answers are."""
    _table(config, {result.label or config.models[0]: result}, [])
    told = [f"run {result.run_id}; every answer and verdict: its artifact {RESPONSES}"]
    _where(config, told, result.traces, result.report)


def several(config: EvaluateConfig, compared: ComparisonResult) -> None:
    """Print the rates of several models and their differences, and where their answers are."""
    called = labels(compared.models)
    models = {called[name]: one for name, one in compared.models.items()}
    _table(config, models, named(compared.models, compared.differences))
    told = [f"run {compared.run_id}: the comparison, its artifact {COMPARISON}"]
    told += [
        f"  run {result.run_id}: {model}, every answer and verdict in {RESPONSES}"
        for model, result in models.items()
    ]
    _where(config, told, compared.traces, compared.report)


def drawn(config: EvaluateConfig) -> None:
    """Draw the figures of a stored evaluation, and print where its page is.

    Raises:
        UserError: None is named, or it is not an evaluation of one model.
    """
    if config.evaluation is None:
        raise UserError("evaluation is not set: give evaluation=RUN_ID of a finished evaluation")
    connect(config.tracking)
    page = draw(config.evaluation)
    print(f"report: {page or f'the artifact {FILE}'}; figures: artifacts of that run")


def _table(
    config: EvaluateConfig,
    models: Mapping[str, EvaluateResult],
    differences: Sequence[Difference],
) -> None:
    rows = {model: result.rows for model, result in models.items()}
    table = report.lines(rows, differences)
    if config.format != "table":
        print(table_export.pasted(table, config.format))
        return
    prompts = len({row.id for many in rows.values() for row in many})
    names = list(models)
    title = f"{config.suite.name}, {config.suite.half} half, {prompts} prompts"
    title += f", {config.repeats} answers each" if config.repeats > 1 else ""
    title += f": {names[0]}" if len(names) == 1 else ""
    title += f", with {config.mitigation.name}" if config.mitigated else ""
    Console().print(report.terminal_table(title, table))
    if config.second_judge is not None:
        for model, many in rows.items():
            print(
                f"judges {config.judge.name} and {config.second_judge.name} agree on {model}: "
                f"{judges_agree(many).sentence}"
            )


def _where(config: EvaluateConfig, told: list[str], traces: int, page: Path | None) -> None:
    if traces:
        told.append(
            f"{traces} answers, all wrong ones among them, are traces of these runs: in the tab "
            "Traces filter by handled_rightly, judge, tbr.kind, or compare to another run"
        )
    told.append(f"to look at it in MLflow: {ui_command(config.tracking)}")
    told.append(f"report: {page or f'the artifact {FILE}'}")
    # A table to paste stands alone on the standard output, so that it can go to a file.
    print("\n".join(told), file=sys.stdout if config.format == "table" else sys.stderr)
