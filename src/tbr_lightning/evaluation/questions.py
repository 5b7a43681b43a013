"""Questions of general ability: tasks of EleutherAI's harness, with their rows."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_method

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.data.example import instruction_id
from tbr_lightning.errors import UserError, in_one_line, near

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager


_METRICS = ("exact_match", "acc")  # the first that a task has
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
            right += self.leaf.process_results(doc, [*scores, *beside])[metric_of(self.leaf)] > 0.5
        return right / count


def identity(task: str, text: str, options: Iterable[str], how: str | None = None) -> str:
    """Return the identity of a question; ``how`` may be ``None`` in tables of earlier versions."""
    parts: list[Any] = [task, text, list(options)]
    if how not in (None, _PLAIN):
        parts.append(how)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


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
            by_leaf = list(_questions(name, config))
        except UserError as error:
            problems.append(str(error))
            continue
        # A limit takes as many of each subject, not the first subject's alone.
        turns = itertools.zip_longest(*by_leaf)
        found = [one for turn in turns for one in turn if one is not None]
        found = found[: config.lm_eval_limit or config.limit]
        if not found:
            problems.append(f"suite.lm_eval: {name} has no questions in its {config.half} half")
        taken = {id(one) for one in found}
        questions += [one for of_leaf in by_leaf for one in of_leaf if id(one) in taken]
    if problems:
        raise UserError("\n".join(problems))
    return questions


def metric_of(leaf: ConfigurableTask) -> str:
    """Return the metric of a task that is its score."""
    return next(metric for metric in _METRICS if metric in leaf.aggregation())


def _questions(name: str, config: SuiteConfig) -> Iterator[list[Question]]:
    """Yield the questions of each of a task's parts, e.g. MMLU's subjects."""
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
        found = []
        for number, row in enumerate(leaf.eval_docs):
            text = str(leaf.doc_to_text(row))
            # A user's own task has chosen the rows of the half by itself.
            of_half = own or config.half in ("all", _half(str(row.get("question", text))))
            if of_half:
                options = leaf.doc_to_choice(row) if leaf.OUTPUT_TYPE == "multiple_choice" else ()
                found.append(Question(name, text, tuple(options), how, leaf, number))
        yield found


def _half(text: str) -> str:
    return "dev" if int(instruction_id(text)[:8], 16) % 2 else "test"


def _leaves(name: str, config: SuiteConfig) -> list[ConfigurableTask]:
    """Return the harness' tasks of a name: a user's own, one with local rows, or any other."""
    from lm_eval import tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    from tbr_lightning.evaluation.local_tasks import LOCAL_TASKS, local_tasks

    _keep_templates()
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
        raise UserError(
            f"suite.lm_eval: the rows of {name} are not available ({type(error).__name__}: "
            f"{in_one_line(error, 200)}): go online once, or give suite.root=DIR"
        ) from error


@cache
def _keep_templates() -> None:
    """Compile each of the harness' templates once: it would for every row, which takes longest."""
    from lm_eval import utils

    utils.env.from_string = cache(utils.env.from_string)


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
