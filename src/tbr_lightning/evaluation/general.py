"""General ability of one evaluation: multiple choice scored here, and EleutherAI's harness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import harness
from tbr_lightning.evaluation.choices import load_questions
from tbr_lightning.evaluation.multiple_choice import Question, Scored, accuracies, score
from tbr_lightning.evaluation.statistics import Rate
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.progress import track
from tbr_lightning.tracking.run import Run

CHOICES = "choices.json"
"""Artifact that holds every question, its options and their scores."""

HARNESS = "lm_eval.json"
"""Artifact that says of each number of the harness how it was measured."""


@dataclass(frozen=True)
class General:
    """General ability of one model.

    Attributes:
        rows: Every question with the scores of its options.
        rates: Accuracy of each task that was scored here.
        harness: What the harness measured, by task.
    """

    rows: Sequence[Scored]
    rates: Mapping[str, Rate]
    harness: Mapping[str, harness.Measured]

    def metrics(self) -> dict[str, float]:
        """Return every number as ``general/TASK``, with _lo, _hi and _n.

        Those of the harness are ``general/lm_eval/TASK``: it words the questions differently, so
        the two must not be taken for each other.
        """
        found = {
            f"general/{task}": (rate.value, *rate.interval, rate.n)
            for task, rate in self.rates.items()
        }
        found |= {
            f"general/lm_eval/{task}": (one.value, one.low, one.high, one.n)
            for task, one in self.harness.items()
        }
        numbers: dict[str, float] = {}
        for name, values in found.items():
            ends = ("", "_lo", "_hi", "_n")
            numbers |= {f"{name}{end}": value for end, value in zip(ends, values, strict=True)}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of the artifact ``choices.json``."""
        return [
            {
                "task": row.question.task,
                "right": row.right,
                "question": row.question.text,
                "answer": row.question.options[row.question.right],
                "chosen": row.question.options[row.chosen],
                "chosen_by_byte": row.question.options[row.chosen_by_byte],
                "options": list(row.question.options),
                "scores": [round(value, 4) for value in row.scores],
            }
            for row in self.rows
        ]

    def harness_table(self) -> list[dict[str, Any]]:
        """Return the rows of the artifact ``lm_eval.json``."""
        return [{"task": task} | asdict(one) for task, one in self.harness.items()]


def prepare(config: SuiteConfig) -> list[Question]:
    """Return the questions to ask, telling all that is missing before a model is loaded.

    Raises:
        UserError: A task is not known, or its rows or the harness cannot be had.
    """
    problems = harness.missing(config)
    try:
        questions = load_questions(config)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return questions


def measure(
    backbone: Backbone, config: SuiteConfig, questions: Sequence[Question], batch_size: int
) -> General:
    """Answer the questions, and run the harness if it is asked for.

    Args:
        backbone: The model.
        config: The suite.
        questions: Of :func:`prepare`.
        batch_size: Sequences that are read together.

    Raises:
        UserError: A question is too long for the model, or the harness lacks something.
    """
    rows: list[Scored | None] = [None] * len(questions)
    if questions:
        made = score(backbone, questions, batch_size)
        for number, row in track(made, "multiple choice", len(questions)):
            rows[number] = row
    scored = [row for row in rows if row is not None]
    found = harness.run_harness(backbone, config, batch_size) if config.lm_eval else {}
    return General(scored, accuracies(scored), found)


def log(
    run: Run,
    backbone: Backbone,
    config: SuiteConfig,
    questions: Sequence[Question],
    batch_size: int,
    *,
    model_id: str | None,
) -> None:
    """Measure, and write numbers and tables to the evaluation's run."""
    found = measure(backbone, config, questions, batch_size)
    if numbers := found.metrics():
        run.log_metrics(numbers, model_id)
    for rows, file in ((found.table(), CHOICES), (found.harness_table(), HARNESS)):
        if rows:
            run.log_table(rows, file)
