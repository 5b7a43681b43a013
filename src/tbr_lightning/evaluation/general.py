"""General ability of one evaluation: tasks of EleutherAI's harness, answered by our decoder."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.evaluation.questions import Question, metric_of
from tbr_lightning.evaluation.statistics import Estimate, Rate, mean_share
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.tracking.run import Run

if TYPE_CHECKING:
    pass

CHOICES = "choices.json"
"""Artifact that holds every question, its options and their scores, or the answer."""

HARNESS = "lm_eval.json"
"""Artifact that says of each task how it was measured."""

_FILTER = "flexible-extract"  # before others, where a task has several


@dataclass(frozen=True)
class Answered:
    """A question with the model's answer.

    Attributes:
        question: The question.
        value: Score by the task, in [0, 1]; ``None`` where it is longer than the context.
        norm: Score by the log-likelihood per character, where the task has it.
        scores: Log-likelihood of each option.
        chosen: The likeliest option, or the answer as the task reads it.
        answer: The right answer.
    """

    question: Question
    value: float | None
    norm: float | None
    scores: tuple[float, ...]
    chosen: str
    answer: str

    @property
    def right(self) -> bool | None:
        """Whether most of the score is there: for MC2, the true answers beat the false ones."""
        return None if self.value is None else self.value > 0.5


def chances(questions: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Return the accuracy of guessing for each task with options, from that of its questions."""
    found = {}
    for task, asked in questions.items():
        known = [chance for chance in asked.values() if chance is not None]
        if known:
            found[task] = fmean(known)
    return found


@dataclass(frozen=True)
class General:
    """General ability of one model: every question with its answer."""

    rows: Sequence[Answered]

    def shares(self) -> dict[str, Rate | Estimate]:
        """Return the accuracy of each task, and ``TASK_norm`` by the score per character."""
        found: dict[str, Rate | Estimate] = {}
        for task in dict.fromkeys(row.question.task for row in self.rows):
            asked = [r for r in self.rows if r.question.task == task and r.value is not None]
            found[task] = mean_share([row.value or 0.0 for row in asked])
            if norms := [row.norm for row in asked if row.norm is not None]:
                found[f"{task}_norm"] = mean_share(norms)
        return found

    def unasked(self) -> dict[str, int]:
        """Return how many questions of each task are longer than the model's context."""
        counts: dict[str, int] = {}
        for row in self.rows:
            if row.value is None:
                counts[row.question.task] = counts.get(row.question.task, 0) + 1
        return counts

    def metrics(self) -> dict[str, float]:
        """Return every number as ``general/TASK``, with _lo, _hi and _n, and _unasked if any."""
        numbers = {f"general/{task}_unasked": float(n) for task, n in self.unasked().items()}
        for task, share in self.shares().items():
            values = (share.value, *share.interval, share.n)
            ends = ("", "_lo", "_hi", "_n")
            numbers |= {f"general/{task}{end}": v for end, v in zip(ends, values, strict=True)}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of the artifact ``choices.json``."""
        return [
            {
                "task": row.question.task,
                "right": row.right,
                "question": row.question.text,
                "answer": row.answer,
                "chosen": row.chosen,
                "value": row.value,
                "options": list(row.question.options),
                "scores": [round(value, 4) for value in row.scores],
                "chance": row.question.chance,
                "how": row.question.how,
            }
            for row in self.rows
        ]

    def harness_table(self) -> list[dict[str, Any]]:
        """Return the rows of the artifact ``lm_eval.json``."""
        from importlib.metadata import version

        kinds = {(row.question.task, row.question.how): row.question.leaf for row in self.rows}
        guessed: dict[str, dict[str, float | None]] = {}
        for row in self.rows:
            guessed.setdefault(row.question.task, {})[row.question.id] = row.question.chance
        by_chance = chances(guessed)
        return [
            {
                "task": task,
                "how": how,
                "metric": metric_of(leaf),
                "output": leaf.OUTPUT_TYPE,
                "chance": by_chance.get(task),
                "version": leaf.VERSION,
                "lm_eval": version("lm_eval"),
            }
            for (task, how), leaf in kinds.items()
        ]


def measure(
    backbone: Backbone,
    config: SuiteConfig,
    questions: Sequence[Question],
    batch_size: int | None = None,
) -> General:
    """Let a model answer the questions.

    Args:
        backbone: The model.
        config: The suite.
        questions: Questions that :func:`prepare` returned.
        batch_size: Number of sequences read together; ``None`` for as many as are sure to fit.
    """
    if not questions:
        return General([])
    from lm_eval.api import task as harness_task
    from lm_eval.evaluator import evaluate

    from tbr_lightning.evaluation.lm_eval_model import EngineLM

    model = EngineLM(backbone, batch_size)
    asked: dict[str, list[Question]] = {}
    for question in questions:
        asked.setdefault(f"{question.task}/{question.leaf.task_name}", []).append(question)
    leaves = {name: of_leaf[0].leaf for name, of_leaf in asked.items()}
    limit = {"max_gen_toks": backbone.think_format.max_new_tokens}
    for leaf in leaves.values():
        if leaf.OUTPUT_TYPE == "generate_until":
            leaf.set_config("generation_kwargs", limit, update=True)
    # Its bar over the texts that it lays out takes no time and would fill every log.
    with patch.object(harness_task, "tqdm", lambda items, **_: items):
        results = evaluate(
            model,
            {"tasks": leaves},
            samples={name: [one.number for one in of_leaf] for name, of_leaf in asked.items()},
            apply_chat_template=config.lm_eval_chat,
            fewshot_as_multiturn=config.lm_eval_chat,
            bootstrap_iters=0,
        )
    rows = []
    for name, of_leaf in asked.items():
        samples = results["samples"][name]
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        chosen = _FILTER if _FILTER in filters else filters[0]
        of_filter = [sample for sample in samples if sample["filter"] == chosen]
        for place, (question, sample) in enumerate(zip(of_leaf, of_filter, strict=True)):
            unasked = (question.leaf.config.task, place) in model.unasked
            rows.append(_answered(question, sample, unasked=unasked))
    found = General(rows)
    for task, count in found.unasked().items():
        print(
            f"{count} of {sum(q.task == task for q in questions)} questions of {task} are longer "
            f"than the model's context ({model.max_length} tokens): they are not asked",
            file=sys.stderr,
        )
    return found


def _answered(question: Question, sample: dict[str, Any], *, unasked: bool) -> Answered:
    options, target = question.options, sample["target"]
    scores: tuple[float, ...] = ()
    if question.leaf.OUTPUT_TYPE != "generate_until":
        scores = tuple(float(score) for score, _ in sample["filtered_resps"])
        unasked = any(math.isnan(score) for score in scores)
    chosen = "" if scores else str(sample["filtered_resps"][0])
    if options and not unasked:
        chosen = options[max(range(len(options)), key=scores.__getitem__)]
    return Answered(
        question,
        value=None if unasked else float(sample[metric_of(question.leaf)]),
        norm=None if unasked or "acc_norm" not in sample else float(sample["acc_norm"]),
        scores=scores,
        chosen="" if unasked else chosen,
        answer=options[target] if options and isinstance(target, int) else str(target),
    )


def log(
    run: Run,
    backbone: Backbone,
    config: SuiteConfig,
    questions: Sequence[Question],
    batch_size: int | None,
    *,
    model_id: str | None,
) -> None:
    """Measure, and write numbers and tables to the evaluation's run."""
    if not questions:
        return
    found = measure(backbone, config, questions, batch_size)
    run.log_numbers(found.metrics(), [f"general/{task}" for task in config.lm_eval], model_id)
    run.log_table(found.table(), CHOICES)
    run.log_table(found.harness_table(), HARNESS)
