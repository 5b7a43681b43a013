"""A rationale in plain text is split off where it was asked for, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.rationale import split_plain, with_rationale
from tbr_lightning.evaluation.suites import Prompt

WHY, SAYS = "The request is about computers, so it is harmless.", "Use `kill`.\n\nThen wait."


@pytest.mark.parametrize(
    "text",
    [
        f"Thoughts: {WHY}\nAnswer: {SAYS}",
        f"**Thoughts:** {WHY}\n\n**Answer:** {SAYS}",
        f"### Reasoning\n{WHY}\n\n### Final answer\n{SAYS}",
        f"My thoughts:\n\n{WHY}\n\nMy answer:\n\n{SAYS}",
        f"1. Rationale - {WHY}\n2. Response - {SAYS}",
        f"*Safety check*: {WHY}\n*Reply*: {SAYS}",
        f"{WHY}\n\nAnswer: {SAYS}",  # the answer alone has a heading
        f"Thinking: {WHY}</think>\n\nAnswer: {SAYS}",
    ],
)
def test_headings_tell_rationale_and_answer_apart(text: str) -> None:
    assert split_plain(text) == (WHY, SAYS)


@pytest.mark.parametrize(
    "text",
    [
        SAYS,
        "I thought about it. The answer: use `kill`.",  # no line of its own
        f"Answer: {SAYS}",  # no rationale
        f"Thoughts: {WHY} So use `kill`.",  # nobody knows where it ends
        "Response time matters.\nAnswers differ.",
        "",
    ],
)
def test_what_has_no_two_parts_stays_whole(text: str) -> None:
    assert split_plain(text) == (None, text)


def test_of_several_headings_the_first_is_no_part_of_a_rationale_and_the_last_answers() -> None:
    text = "Thoughts: a\nAnswer: none yet\nAnalysis: b\nAnswer: c"
    assert split_plain(text) == ("a\nAnswer: none yet\nAnalysis: b", "c")


def test_only_the_prompted_arm_reads_answers_so() -> None:
    prompt = Prompt("How?", "look_alike", "b", "c", reference="Use it.")
    row = Judged.unseen(prompt, f"Thoughts: {WHY}\nAnswer: Use it.")
    split = with_rationale(row, "prompted")
    assert (split.reflection, split.answer, split.right) == (WHY, "Use it.", True)
    assert with_rationale(row, "trained") == row
    marked = replace(row, reflection="It is fine.")
    assert with_rationale(marked, "prompted") == marked


def test_markers_come_first() -> None:
    text = f"<think>{WHY}\nAnswer: none yet</think>\n{SAYS}"
    assert ThinkFormat().split(text) == (f"{WHY}\nAnswer: none yet", SAYS)


def test_answers_of_a_small_model_are_split_as_a_reader_splits_them() -> None:
    """Greedy answers of SmolLM2-135M-Instruct to XSTest in the prompted arm, each read by eye."""
    file = Path(__file__).with_name("prompted_answers.json")
    for one in json.loads(file.read_text(encoding="utf-8")):
        reflection, answer = ThinkFormat().split(one["response"])
        if reflection is None:
            reflection, answer = split_plain(answer)
        assert (reflection, answer) == (one["reflection"], one["answer"])
