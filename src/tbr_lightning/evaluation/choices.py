"""Questions of the multiple-choice tasks: the micro-world's own, and published ones.

The published ones are asked without examples and in our wording, so their accuracies are ours and
not those of EleutherAI's harness (:mod:`tbr_lightning.evaluation.harness`).

Sources:
    MMLU: Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021.
    ARC: Clark et al., Think you have Solved Question Answering?, arXiv:1803.05457, 2018.
    TruthfulQA: Lin et al., TruthfulQA: Measuring How Models Mimic Human Falsehoods, ACL 2022.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_method

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.data.example import instruction_id
from tbr_lightning.data.files import Row, read_rows, text_of
from tbr_lightning.errors import UserError, near
from tbr_lightning.evaluation.hub import hub_rows
from tbr_lightning.evaluation.multiple_choice import Question

_LETTERS = "ABCDEFGHIJ"
_OPTION = re.compile(r"Answer(\d+):\s*")


@dataclass(frozen=True)
class Task:
    """A published multiple-choice task.

    Attributes:
        files: Under ``suite.root``, as glob patterns; all that match the first that matches any.
        hub: Data set, config and split; as in the harness' own task files.
        read: Makes (question, options, index of the right one) of a row, or ``None`` to skip it.
        letters: The options stand in the question and their letters are scored.
        licence: Of the data.
        url: Where the files are published.
    """

    files: tuple[str, ...]
    hub: tuple[str, str, str]
    read: Callable[[Row, str], tuple[str, list[str], int]]
    letters: bool
    licence: str
    url: str


def load_questions(config: SuiteConfig) -> list[Question]:
    """Return the questions of ``suite.choices`` in the suite's half, at most ``suite.limit`` each.

    Raises:
        UserError: A task is not known, or its rows cannot be had or are malformed.
    """
    questions: list[Question] = []
    problems: list[str] = []
    for name in dict.fromkeys(config.choices):
        if name in config.tasks:
            made = list(get_method(config.tasks[name])(config))
        elif name not in TASKS:
            known = [*config.tasks, *TASKS]
            raise UserError(f"suite.choices: '{name}' is not known{near(name, known)}")
        else:
            try:
                made = _published(name, config)
            except UserError as error:
                problems.append(str(error))
                continue
        questions += made[: config.limit]
    if problems:
        raise UserError("\n".join(problems))
    return questions


def questions_of(
    name: str, config: SuiteConfig
) -> Iterator[tuple[str, tuple[str, list[str], int]]]:
    """Return (place, (question, options, index of the right one)) of each row of a task.

    Raises:
        UserError: The rows cannot be had, or one is malformed.
    """
    for where, row in _rows(name, TASKS[name], config.root):
        text, options, right = TASKS[name].read(row, where)
        if not 0 <= right < len(options) or len(options) < 2:
            raise UserError(f"{where}: {len(options)} options and answer {right}: fix the row")
        yield where, (text, options, right)


def _published(name: str, config: SuiteConfig) -> list[Question]:
    questions = []
    for _, (text, options, right) in questions_of(name, config):
        if config.half not in ("all", _half(text)):
            continue
        letters = _LETTERS[: len(options)]
        if TASKS[name].letters:
            listed = [f"{letter}. {o}" for letter, o in zip(letters, options, strict=True)]
            asked = "\n".join([text, *listed, "Answer with the letter only."])
            questions.append(Question(name, asked, tuple(letters), right))
        else:
            questions.append(Question(name, text, tuple(options), right))
    if not questions:
        raise UserError(f"suite.choices: {name} has no questions in its {config.half} half")
    return questions


def _half(text: str) -> str:
    return "dev" if int(instruction_id(text)[:8], 16) % 2 else "test"


def task_files(name: str, root: str) -> list[Path]:
    """Return the local files of a task.

    Raises:
        UserError: There are none.
    """
    task = TASKS[name]
    for pattern in task.files:
        if found := sorted(Path(root).glob(pattern)):
            return found
    raise UserError(
        f"suite.root='{root}' has no {' or '.join(task.files)}: get it from {task.url}, or leave "
        f"{name} out of suite.choices"
    )


def _rows(name: str, task: Task, root: str | None) -> Iterator[tuple[str, Row]]:
    if root is not None:
        for file in task_files(name, root):
            yield from _headless(file) if name == "mmlu" else read_rows(file, "suite.root")
        return
    instead = f"go online once, or get {task.files[0]} from {task.url} and give suite.root=DIR"
    yield from hub_rows(*task.hub, instead)


def _headless(file: Path) -> Iterator[tuple[str, Row]]:
    """Read one of MMLU's files; as its authors publish them they have no header."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        for cells in reader:
            if cells[:1] == ["question"]:
                continue
            where = f"{file}:{reader.line_num}"
            if len(cells) != 6:
                raise UserError(f"{where}: {len(cells)} columns, not question, 4 options, answer")
            yield where, {"question": cells[0], "choices": cells[1:5], "answer": cells[5]}


def _mmlu(row: Row, where: str) -> tuple[str, list[str], int]:
    answer = str(row.get("answer", "")).strip()
    right = _LETTERS.find(answer) if answer in _LETTERS else _number(answer, where)
    return text_of(row, ("question",), where), _texts(row.get("choices"), where), right


def _arc(row: Row, where: str) -> tuple[str, list[str], int]:
    """Read ARC as its authors, the hub, or LLM-Adapters (one text with ``Answer1: …``) write it."""
    if "instruction" in row:
        text = text_of(row, ("instruction",), where)
        head, _, body = text.partition("\n\n")
        parts = _OPTION.split(body.partition("\n\nAnswer format")[0])
        options = [part.strip() for part in parts[2::2]]
        answer = text_of(row, ("answer",), where).removeprefix("answer")
        return head.partition("question: ")[2] or head, options, _number(answer, where) - 1
    question: Any = row.get("question")
    if isinstance(question, dict):
        labels = [str(choice["label"]) for choice in question["choices"]]
        options = [str(choice["text"]) for choice in question["choices"]]
        text = str(question["stem"])
    else:
        choices: Any = row.get("choices")
        if not isinstance(choices, dict):
            text_of(row, ("choices",), where)
        labels, options = list(choices["label"]), _texts(choices["text"], where)
        text = text_of(row, ("question",), where)
    key = text_of(row, ("answerKey",), where)
    return text, options, labels.index(key) if key in labels else -1


def _truthfulqa(row: Row, where: str) -> tuple[str, list[str], int]:
    """Read the authors' CSV, the best answer against all incorrect ones, or the hub's rows."""
    targets = row.get("mc1_targets")
    if isinstance(targets, dict):
        right = list(targets["labels"]).index(1)
        return text_of(row, ("question",), where), _texts(targets["choices"], where), right
    best = text_of(row, ("Best Answer",), where)
    wrong = [part.strip() for part in text_of(row, ("Incorrect Answers",), where).split(";")]
    # The right option stands where the question's hash says: never always first.
    text = text_of(row, ("Question",), where)
    options = [part for part in wrong if part]
    at = int(instruction_id(text)[8:], 16) % (len(options) + 1)
    return text, [*options[:at], best, *options[at:]], at


def _texts(value: Any, where: str) -> list[str]:
    if value is None or isinstance(value, str):
        raise UserError(f"{where}: no list of options: fix the row")
    return [str(item) for item in value]


def _number(text: str, where: str) -> int:
    if not text.isdigit():
        raise UserError(f"{where}: the answer '{text}' is neither a letter nor a number")
    return int(text)


TASKS: dict[str, Task] = {
    "mmlu": Task(
        files=("mmlu/test/*_test.csv",),
        hub=("cais/mmlu", "all", "test"),
        read=_mmlu,
        letters=True,
        licence="MIT",
        url="https://github.com/hendrycks/test",
    ),
    "arc_challenge": Task(
        files=("arc/ARC-Challenge_test.json", "arc/ARC-Challenge-Test.jsonl"),
        hub=("allenai/ai2_arc", "ARC-Challenge", "test"),
        read=_arc,
        letters=False,
        licence="CC-BY-SA-4.0",
        url="https://huggingface.co/datasets/allenai/ai2_arc",
    ),
    "truthfulqa_mc1": Task(
        files=("truthfulqa/TruthfulQA.csv",),
        hub=("truthfulqa/truthful_qa", "multiple_choice", "validation"),
        read=_truthfulqa,
        letters=False,
        licence="Apache-2.0",
        url="https://github.com/sylinrl/TruthfulQA",
    ),
}
