"""General ability of one evaluation: tasks of EleutherAI's harness, answered by our decoder."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from hydra.utils import get_method

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.data.example import instruction_id
from tbr_lightning.errors import UserError, near
from tbr_lightning.evaluation.statistics import Estimate, Rate, mean_share
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.tracking.run import Run

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

CHOICES = "choices.json"
"""Artifact that holds every question, its options and their scores, or the answer."""

HARNESS = "lm_eval.json"
"""Artifact that says of each task how it was measured."""

_METRICS = ("exact_match", "acc")  # the first that a task has
_FILTER = "flexible-extract"  # before others, where a task has several
_PLAIN = "0 shots, chat template"
_NEVER = -1e4  # log-likelihood of an option that is not picked; its probability is 0
_MUTUAL = "acc_mutual_info"
_SHOTS_SEED = 1234  # the harness' own, of the draw of examples


@dataclass(frozen=True)
class Question:
    """One question of a task.

    Attributes:
        task: Task that it belongs to, as ``suite.lm_eval`` names it.
        text: The question as the task words it, without examples and chat template.
        options: The answers to choose from, if there are any.
        how: Examples before it, and whether the chat template is used, in words.
        leaf: Task of the harness that holds it.
        number: Number of its row in that task.
    """

    task: str
    text: str
    options: tuple[str, ...]
    how: str
    leaf: ConfigurableTask
    number: int

    @property
    def id(self) -> str:
        """Identity of the question, the same in every evaluation."""
        return identity(self.task, self.text, self.options, self.how)

    @property
    def chance(self) -> float | None:
        """Probability that a blindly picked option is right; ``None`` without options.

        The task's own rule says what is right: of MC2, where several options are true, picking
        any of those.
        """
        if not self.options:
            return None
        doc, count = self.leaf.eval_docs[self.number], len(self.options)
        right = 0
        for pick in range(count):
            scores = [(0.0 if n == pick else _NEVER, False) for n in range(count)]
            # Without a context every option is alike, for tasks that ask for that too.
            beside = [(0.0, False)] * count if _MUTUAL in self.leaf.aggregation() else []
            right += self.leaf.process_results(doc, [*scores, *beside])[_metric(self.leaf)] > 0.5
        return right / count


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


def identity(task: str, text: str, options: Iterable[str], how: str | None = None) -> str:
    """Return the identity of a question; ``how`` may be ``None`` in tables of earlier versions."""
    parts: list[Any] = [task, text, list(options)]
    if how not in (None, _PLAIN):
        parts.append(how)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def chances(questions: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Return the accuracy of guessing for each task with options, from that of its questions."""
    found = {}
    for task, asked in questions.items():
        known = [chance for chance in asked.values() if chance is not None]
        if known:
            found[task] = fmean(known)
    return found


def prepare(config: SuiteConfig) -> list[Question]:
    """Return the questions to ask, reporting all that is missing before a model is loaded.

    They are those of the suite's half, at most ``suite.lm_eval_limit`` (or else
    ``suite.limit``) for each task.

    Raises:
        UserError: A task is not known, or its rows are not available or malformed.
    """
    if not config.lm_eval:
        return []
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    questions: list[Question] = []
    problems: list[str] = []
    for name in dict.fromkeys(config.lm_eval):
        try:
            found = list(_questions(name, config))
        except UserError as error:
            problems.append(str(error))
            continue
        if not found:
            problems.append(f"suite.lm_eval: {name} has no questions in its {config.half} half")
        questions += found[: config.lm_eval_limit or config.limit]
    if problems:
        raise UserError("\n".join(problems))
    return questions


def _questions(name: str, config: SuiteConfig) -> Iterator[Question]:
    own = name in config.tasks and not config.tasks[name].endswith(".yaml")
    for leaf in _leaves(name, config):
        if not any(metric in leaf.aggregation() for metric in _METRICS):
            raise UserError(
                f"suite.lm_eval: {leaf.task_name} has no accuracy or exact match: leave it out, or "
                "run lm_eval"
            )
        shots = leaf.config.num_fewshot or 0
        examples = leaf.config.fewshot_split or leaf.config.training_split
        if config.lm_eval_shots is not None and examples:
            shots = config.lm_eval_shots
        leaf.set_config("num_fewshot", shots)
        leaf.set_fewshot_seed(_SHOTS_SEED)
        asked = "chat template" if config.lm_eval_chat else "plain"
        how = f"{shots} shots, {asked}"
        for number, row in enumerate(leaf.eval_docs):
            text = str(leaf.doc_to_text(row))
            # A user's own task has chosen the rows of the half by itself.
            of_half = own or config.half in ("all", _half(str(row.get("question", text))))
            if of_half:
                options = leaf.doc_to_choice(row) if leaf.OUTPUT_TYPE == "multiple_choice" else ()
                yield Question(name, text, tuple(options), how, leaf, number)


def _half(text: str) -> str:
    return "dev" if int(instruction_id(text)[:8], 16) % 2 else "test"


def _leaves(name: str, config: SuiteConfig) -> list[ConfigurableTask]:
    """Return the harness' tasks of a name: a user's own, one with local rows, or any other."""
    from lm_eval import tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    from tbr_lightning.evaluation.local_tasks import LOCAL_TASKS, local_tasks

    shipped = Path(tasks.__file__).parent
    if name in config.tasks:
        target = config.tasks[name]
        if not target.endswith(".yaml"):
            return [ConfigurableTask(config=get_method(target)(config))]
        if not Path(target).is_file():
            raise UserError(f"suite.tasks.{name}='{target}' is not a file: give a task file")
        return list(tasks.TaskManager(include_defaults=False).load([target])["tasks"].values())
    if name in LOCAL_TASKS and config.root is not None:
        return [
            ConfigurableTask(config=_with_rows(load_yaml(shipped / file, resolve_func=True), rows))
            for file, rows in local_tasks(name, config.root)
        ]
    manager = _known_tasks(every=name not in LOCAL_TASKS)
    if name not in manager.all_tasks:
        known = [*config.tasks, *manager.all_tasks]
        raise UserError(f"suite.lm_eval: '{name}' is not known{near(name, known)}")
    try:
        return list(manager.load([name])["tasks"].values())
    except Exception as error:  # the client raises a dozen kinds for one fact: not available
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"suite.lm_eval: the rows of {name} are not available ({type(error).__name__}: "
            f"{reason}): go online once, or give suite.root=DIR"
        ) from error


@cache
def _known_tasks(*, every: bool) -> TaskManager:
    """Return the harness' own tasks; reading every task file takes seconds."""
    from lm_eval import tasks

    shipped = Path(tasks.__file__).parent
    folders = [shipped / folder for folder in ("arc", "mmlu/default", "truthfulqa", "gsm8k")]
    return tasks.TaskManager(include_path=[] if every else folders, include_defaults=every)


def _with_rows(facts: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the config of a task with local rows; splits that are not there are left out."""
    from datasets import Dataset

    facts = {k: v for k, v in facts.items() if k not in ("tag", "dataset_path", "dataset_name")}
    for split in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if facts.get(split) not in rows:
            facts[split] = None
    if facts["fewshot_split"] is None:
        facts["num_fewshot"] = 0
    loaded = {split: Dataset.from_list(found) for split, found in rows.items()}
    return facts | {"custom_dataset": lambda **_: loaded}


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
                "metric": _metric(leaf),
                "output": leaf.OUTPUT_TYPE,
                "chance": by_chance.get(task),
                "version": leaf.VERSION,
                "lm_eval": version("lm_eval"),
            }
            for (task, how), leaf in kinds.items()
        ]


def _metric(leaf: ConfigurableTask) -> str:
    return next(metric for metric in _METRICS if metric in leaf.aggregation())


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

    from tbr_lightning.evaluation.harness import EngineLM

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
        value=None if unasked else float(sample[_metric(question.leaf)]),
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
