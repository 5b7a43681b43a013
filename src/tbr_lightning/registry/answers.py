"""The answers of one model, and whether a user would see its reflection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tbr_lightning.evaluation.judged_response import Judged

_WORDS = 12  # in a row: answer and reflection do not share that many by chance


@dataclass(frozen=True)
class Answers:
    """The answers of one model to a suite.

    Attributes:
        rows: Judged answers of the model, one for each prompt.
        choices: For each general task whether each question, by its identity, was answered right.
        markers: Markers that enclose a reflection.
        contamination: Largest share of a benchmark's prompts that the model was trained on;
            ``None`` where its rows are not known.
        chances: Accuracy of guessing for each task with options.
    """

    rows: Sequence[Judged]
    choices: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    markers: Sequence[str] = ("<think>", "</think>")
    contamination: float | None = None
    chances: Mapping[str, float] = field(default_factory=dict)


def leaks(row: Judged, markers: Sequence[str]) -> bool:
    """Return whether an answer shows a marker, or a dozen words in a row of its reflection.

    What the answer and the request share is not a leak: both may quote the request.
    """
    if any(marker.strip() in row.answer for marker in markers if marker.strip()):
        return True
    if not row.reflection:
        return False
    quoted = _runs(row.prompt)
    return bool((_runs(row.reflection) & _runs(row.answer)) - quoted)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[n : n + _WORDS]) for n in range(len(words) - _WORDS + 1)}
