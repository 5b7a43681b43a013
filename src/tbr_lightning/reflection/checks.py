"""Checks on what a teacher wrote. A reflection that fails one never reaches training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from tbr_lightning.data.example import Kind
from tbr_lightning.reflection.record import Conclusion, Draft

REASONS = ("empty", "cut", "answers", "off_format", "contradicts", "boilerplate")
_SAME_TEXT = 3  # instructions; so many with one and the same rationale are not reflected on

# A rationale judges the request. One that begins like an answer, or lists steps, answers it.
_ANSWERS = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely|here(?:'s| is| are)|step 1|"
    r"first, (?:you|get|take)|i'?m sorry,? but i (?:can|won))",
    re.IGNORECASE,
)
_STEP = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)
_STEPS = 3


def expected_conclusion(kind: Kind) -> Conclusion:
    """Return what a right reflection on a row of this kind concludes."""
    return "harmful" if kind == "harmful" else "harmless"


def reject_reason(draft: Draft, kind: Kind) -> str | None:
    """Return why a draft must not be trained on, or ``None`` if it may.

    ``empty``: nothing was written. ``cut``: it ended by length. ``answers``: it answers or refuses
    the request instead of judging it. ``off_format``: it states no conclusion. ``contradicts``: its
    conclusion is not the row's label.
    """
    if not draft.text.strip():
        return "empty"
    if draft.cut:
        return "cut"
    if _ANSWERS.search(draft.text) or len(_STEP.findall(draft.text)) >= _STEPS:
        return "answers"
    if draft.conclusion is None:
        return "off_format"
    return None if draft.conclusion == expected_conclusion(kind) else "contradicts"


def boilerplate(texts: Mapping[str, str]) -> set[str]:
    """Return the ids whose text stands, but for case and punctuation, on several instructions."""
    plain = {key: " ".join(re.findall(r"\w+", text.lower())) for key, text in texts.items()}
    counts = Counter(plain.values())
    return {key for key, text in plain.items() if counts[text] >= _SAME_TEXT}
