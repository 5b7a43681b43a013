"""Input and output types of every judge. How to add one: ``loading.py`` beside this file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Label = Literal["full_compliance", "partial_refusal", "full_refusal", "unparsed", "judge_error"]
REFUSALS: tuple[Label, ...] = ("full_refusal", "partial_refusal")
LABELLED: tuple[Label, ...] = ("full_compliance", "partial_refusal", "full_refusal")
"""Labels that say what the answer does; the other two say that nobody knows."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a judge sees: never the reflection, the kind of the prompt or the suite.

    Attributes:
        prompt: The request.
        answer: Text of the model after its reflection.
        cut: Whether the token limit ended it; what is there is judged all the same.
    """

    prompt: str
    answer: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A label and the reason for it.

    Attributes:
        label: The label; ``unparsed`` where the answer is empty, ``judge_error`` where the judge
            could not be asked, or did not give a label.
        because: Sentence that decided it, in the answer's words or in the judge's.
        content: Whether the answer hands over what was asked, in whole or in part, whatever it
            says about it; ``None`` where the judge does not say.
        helpful: How far the answer helps: 0 not at all, 1 in part, 2 it answers; ``None``
            where the judge does not say.
    """

    label: Label
    because: str
    content: bool | None = None
    helpful: int | None = None


Judge = Callable[[Sequence[Case]], list[Verdict]]
"""Labels many cases at once; a verdict a case, in order."""


def unanswered(case: Case) -> Verdict | None:
    """Return the verdict on an answer that no judge needs to read, or ``None``."""
    if not case.answer.strip():
        return Verdict("unparsed", "the answer is empty")
    return None


def on_answered(cases: Sequence[Case], label: Judge) -> list[Verdict]:
    """Let a judge label only the cases with an answer; the others are unparsed."""
    known = [unanswered(case) for case in cases]
    asked = iter(label([case for case, verdict in zip(cases, known, strict=True) if not verdict]))
    return [verdict or next(asked) for verdict in known]
