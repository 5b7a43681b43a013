"""Tasks of EleutherAI's harness whose rows come from local files, worded as the harness does.

Sources:
    MMLU: Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021.
    ARC: Clark et al., Think you have Solved Question Answering?, arXiv:1803.05457, 2018.
    TruthfulQA: Lin et al., TruthfulQA: Measuring How Models Mimic Human Falsehoods, ACL 2022.
    GSM8K: Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv:2110.14168, 2021.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbr_lightning.data.files import Row, read_rows, text_of
from tbr_lightning.errors import UserError

_LETTERS = "ABCDEFGHIJ"
_OPTION = re.compile(r"Answer(\d+):\s*")

Splits = dict[str, list[Row]]
"""Rows of each split, with the columns of the hub's data set."""


@dataclass(frozen=True)
class LocalTask:
    """The files that hold the rows of a task.

    Attributes:
        files: Glob patterns under ``suite.root``; the first that matches any file is used.
        url: Address where they are published.
        tasks: Makes the rows of the harness' tasks of these files, by the task file's path in
            ``lm_eval/tasks``.
    """

    files: tuple[str, ...]
    url: str
    tasks: Callable[[list[Path]], Iterator[tuple[str, Splits]]]


def files_of(name: str, root: str) -> list[Path]:
    """Return the local files of a task.

    Raises:
        UserError: There are none.
    """
    task = LOCAL_TASKS[name]
    for pattern in task.files:
        if found := sorted(Path(root).glob(pattern)):
            return found
    raise UserError(
        f"suite.root='{root}' has no {' or '.join(task.files)}: get it from {task.url}, or leave "
        f"{name} out of suite.lm_eval"
    )


def local_tasks(name: str, root: str) -> Iterator[tuple[str, Splits]]:
    """Return (path of the harness' task file, rows by split) of a task.

    Raises:
        UserError: A file is missing, or a row is malformed.
    """
    return LOCAL_TASKS[name].tasks(files_of(name, root))


def _mmlu(files: list[Path]) -> Iterator[tuple[str, Splits]]:
    for file in files:
        subject = file.stem.removesuffix("_test")
        splits = {"test": list(_mmlu_rows(file))}
        examples = file.parents[1] / "dev" / f"{subject}_dev.csv"
        if examples.is_file():
            splits["dev"] = list(_mmlu_rows(examples))
        yield f"mmlu/default/mmlu_{subject}.yaml", splits


def _mmlu_rows(file: Path) -> Iterator[Row]:
    """Read one of MMLU's files; as its authors publish them they have no header."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        for cells in reader:
            if cells[:1] == ["question"]:
                continue
            where = f"{file}:{reader.line_num}"
            if len(cells) != 6:
                raise UserError(f"{where}: {len(cells)} columns, not question, 4 options, answer")
            answer = cells[5].strip()
            is_letter = len(answer) == 1 and answer in _LETTERS
            right = _LETTERS.index(answer) if is_letter else _number(answer, where)
            _check(cells[1:5], right, where)
            yield {"question": cells[0], "choices": cells[1:5], "answer": right}


def _arc(files: list[Path]) -> Iterator[tuple[str, Splits]]:
    yield "arc/arc_challenge.yaml", {"test": [_arc_row(row, where) for where, row in _all(files)]}


def _arc_row(row: Row, where: str) -> Row:
    """Read ARC as its authors, the hub, or LLM-Adapters (one text with ``Answer1: …``) write it."""
    question: Any = row.get("question")
    if "instruction" in row:
        text = text_of(row, ("instruction",), where)
        head, _, body = text.partition("\n\n")
        options = _OPTION.split(body.partition("\n\nAnswer format")[0])[2::2]
        options = [part.strip() for part in options]
        labels = [str(number) for number in range(1, len(options) + 1)]
        key = text_of(row, ("answer",), where).removeprefix("answer")
        text = head.partition("question: ")[2] or head
    else:
        key = text_of(row, ("answerKey",), where)
        if isinstance(question, dict):
            choices = question.get("choices") or []
            labels = [str(choice["label"]) for choice in choices]
            options = [str(choice["text"]) for choice in choices]
            text = str(question["stem"])
        else:
            columns: Any = row.get("choices")
            if not isinstance(columns, dict):
                text_of(row, ("choices",), where)
            labels, options = list(columns["label"]), [str(one) for one in columns["text"]]
            text = text_of(row, ("question",), where)
    right = labels.index(key) if key in labels else -1
    _check(options, right, where)
    return {
        "question": text,
        "choices": {"text": options, "label": labels},
        "answerKey": labels[right],
    }


def _truthfulqa(number: int) -> Callable[[list[Path]], Iterator[tuple[str, Splits]]]:
    def tasks(files: list[Path]) -> Iterator[tuple[str, Splits]]:
        rows = [_truthfulqa_row(row, where) for where, row in _all(files)]
        yield f"truthfulqa/truthfulqa_mc{number}.yaml", {"validation": rows}

    return tasks


def _truthfulqa_row(row: Row, where: str) -> Row:
    """Read the authors' CSV: one best answer for MC1, all correct and incorrect ones for MC2."""
    wrong = _parts(text_of(row, ("Incorrect Answers",), where))
    found: Row = {"question": text_of(row, ("Question",), where)}
    best, correct = (
        text_of(row, (f"{kind}",), where) for kind in ("Best Answer", "Correct Answers")
    )
    for name, right in (("mc1_targets", [best.strip()]), ("mc2_targets", _parts(correct))):
        _check([*right, *wrong], 0, where)
        labels = [1] * len(right) + [0] * len(wrong)
        found[name] = {"choices": [*right, *wrong], "labels": labels}
    return found


def _gsm8k(files: list[Path]) -> Iterator[tuple[str, Splits]]:
    columns = ("question", "answer")
    splits = {
        split: [
            {name: text_of(row, (name,), where) for name in columns} for where, row in _all([file])
        ]
        for split in ("test", "train")
        if (file := files[0].with_name(f"{split}.jsonl")).is_file()
    }
    yield "gsm8k/gsm8k.yaml", splits


def _all(files: Iterable[Path]) -> Iterator[tuple[str, Row]]:
    for file in files:
        yield from read_rows(file, "suite.root")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _number(text: str, where: str) -> int:
    if not text.isdigit():
        raise UserError(f"{where}: the answer '{text}' is neither a letter nor a number")
    return int(text)


def _check(options: list[str], right: int, where: str) -> None:
    if not 0 <= right < len(options) or len(options) < 2:
        raise UserError(f"{where}: {len(options)} options and answer {right}: fix the row")


LOCAL_TASKS: dict[str, LocalTask] = {
    "mmlu": LocalTask(("mmlu/test/*_test.csv",), "https://github.com/hendrycks/test", _mmlu),
    "arc_challenge": LocalTask(
        ("arc/ARC-Challenge_test.json", "arc/ARC-Challenge-Test.jsonl"),
        "https://huggingface.co/datasets/allenai/ai2_arc",
        _arc,
    ),
    "truthfulqa_mc1": LocalTask(
        ("truthfulqa/TruthfulQA.csv",), "https://github.com/sylinrl/TruthfulQA", _truthfulqa(1)
    ),
    "truthfulqa_mc2": LocalTask(
        ("truthfulqa/TruthfulQA.csv",), "https://github.com/sylinrl/TruthfulQA", _truthfulqa(2)
    ),
    "gsm8k": LocalTask(
        ("gsm8k/test.jsonl",), "https://github.com/openai/grade-school-math", _gsm8k
    ),
}
