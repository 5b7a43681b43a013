"""The verb ``evaluate``: what a model refuses that it should not, and what it lets through."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tbr_lightning import cli
from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.evaluation.results import Judged


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation leaves.

    Attributes:
        run_id: MLflow run.
        rows: Every prompt with answer and verdict.
        subject: Identity of the model.
    """

    run_id: str
    rows: list[Judged]
    subject: str


RESPONSES = "responses.json"
"""Artifact that holds every prompt, reflection, answer and verdict."""


def run(config: EvaluateConfig) -> EvaluateResult:
    """Evaluate a model on a suite."""
    from tbr_lightning.evaluation import report, suites
    from tbr_lightning.evaluation.respond import (
        evaluation_key,
        load_subject,
        open_store,
        respond,
        token_limit,
    )
    from tbr_lightning.evaluation.results import metrics, rates, table_rows
    from tbr_lightning.tracking import runs
    from tbr_lightning.tracking.store import connect

    prompts = suites.load_suite(config.suite)
    connect(config.tracking)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    subject = load_subject(config.model_uri, config.paths)
    if not subject.backbone.has_own_template:
        print(
            f"the tokenizer of {subject.name} has no chat template: '### User:' and "
            "'### Assistant:' before each turn are used",
            file=sys.stderr,
        )
    digest = suites.digest(prompts)
    limit = token_limit(subject.backbone.layout, config.generation)
    name = config.run_name or f"evaluate {subject.name} {config.suite.name}/{config.suite.half}"
    tags = {
        "tbr.subject": subject.name,
        "tbr.suite": config.suite.name,
        "tbr.half": config.suite.half,
        "tbr.suite_digest": digest,
        "tbr.evaluation_key": evaluation_key(digest, config.judge, config.generation, limit),
        "tbr.arm": config.generation.arm,
        **config.tags,
    }
    if subject.logged is not None:
        tags["tbr.trained_by"] = subject.logged.run_id
    with runs.start_run("evaluate", name, config, config.tracking, tags) as opened:
        runs.log_dataset(
            [{"id": p.id, "kind": p.kind, "prompt": p.text} for p in prompts],
            f"{config.suite.name}-{config.suite.half}",
            "evaluation",
        )
        stored = open_store(subject, config.generation, config.paths)
        rows = respond(
            subject.backbone, prompts, config.judge, config.generation, name, store=stored
        )
        if stored is not None:
            runs.log_metrics({"responses_reused": stored.reused})
        runs.log_table(table_rows(rows), RESPONSES)
        model_id = subject.logged.model_id if subject.logged else None
        runs.log_metrics(metrics(rows), model_id)
        overall = rates(rows)
        figure = report.two_sided_figure({subject.name: [overall]}, config.suite.name)
        runs.log_figure(figure, "two_sided.png")
        if config.attribution:
            from tbr_lightning.evaluation import attribution_report

            attribution_report.log(subject, prompts, rows, config)
        if overall.unparsed.value > config.judge.max_unparsed:
            raise UserError(
                f"{overall.unparsed.count} of {len(rows)} answers are empty or cut off, more than "
                f"judge.max_unparsed={config.judge.max_unparsed} allows: raise "
                f"generation.max_new_tokens ({limit}) or judge.max_unparsed; the responses are "
                f"kept in run {opened.id}"
            )
    return EvaluateResult(opened.id, rows, subject.name)


def command(config: EvaluateConfig) -> int:
    """Run and print the table."""
    result = run(config)
    from rich.console import Console

    from tbr_lightning.evaluation.report import rates_table
    from tbr_lightning.evaluation.results import rates

    title = f"{config.suite.name}, {config.suite.half} half, {len(result.rows)} prompts"
    Console().print(rates_table(title, {config.model_uri: rates(result.rows)}))
    print(f"run {result.run_id}; every answer and verdict: its artifact {RESPONSES}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("evaluate"))
