"""Local files as data sets with the columns of the hub's, for the harness' task files here.

The harness imports this file by its path and passes ``root`` in the task's metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.data.files import read_rows, text_of
from tbr_lightning.evaluation.choices import questions_of


def mmlu(root: str, **_: Any) -> dict[str, Dataset]:
    """Return question, four choices and the index of the right one."""
    return _test([{"question": q, "choices": o, "answer": r} for q, o, r in _read("mmlu", root)])


def arc_challenge(root: str, **_: Any) -> dict[str, Dataset]:
    """Return question, choices with labels, and the label of the right one."""
    rows = []
    for question, options, right in _read("arc_challenge", root):
        labels = [str(number) for number in range(1, len(options) + 1)]
        choices = {"text": options, "label": labels}
        rows.append({"question": question, "choices": choices, "answerKey": labels[right]})
    return _test(rows)


def truthfulqa_mc1(root: str, **_: Any) -> dict[str, Dataset]:
    """Return questions whose first choice, the best answer, is the right one."""
    rows = []
    for question, options, right in _read("truthfulqa_mc1", root):
        choices = [options[right], *options[:right], *options[right + 1 :]]
        labels = [1] + [0] * (len(choices) - 1)
        targets = {"choices": choices, "labels": labels}
        rows.append({"question": question, "mc1_targets": targets})
    return _test(rows)


def truthfulqa_mc2(root: str, **_: Any) -> dict[str, Dataset]:
    """Return questions with all correct and all incorrect answers of the authors' CSV."""
    rows = []
    for where, row in read_rows(Path(root) / "truthfulqa" / "TruthfulQA.csv", "suite.root"):
        correct = _parts(text_of(row, ("Correct Answers",), where))
        wrong = _parts(text_of(row, ("Incorrect Answers",), where))
        labels = [1] * len(correct) + [0] * len(wrong)
        targets = {"choices": correct + wrong, "labels": labels}
        rows.append({"question": text_of(row, ("Question",), where), "mc2_targets": targets})
    return _test(rows)


def gsm8k(root: str, **_: Any) -> dict[str, Dataset]:
    """Return questions with their worked answers."""
    names = ("question", "answer")
    rows = read_rows(Path(root) / "gsm8k" / "test.jsonl", "suite.root")
    return _test([{name: text_of(row, (name,), where) for name in names} for where, row in rows])


def _read(task: str, root: str) -> list[tuple[str, list[str], int]]:
    return [item for _, item in questions_of(task, SuiteConfig(name="lm_eval", root=root))]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _test(rows: list[dict[str, Any]]) -> dict[str, Dataset]:
    return {"test": Dataset.from_list(rows)}
