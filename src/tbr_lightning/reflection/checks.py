"""Checks on what a teacher wrote. A reflection that fails one never reaches training."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from tbr_lightning.kinds import Kind
from tbr_lightning.reflection.record import Conclusion, Draft

REASONS = ("empty", "cut", "answers", "off_format", "contradicts", "boilerplate")
_SAME_TEXT = 3  # instructions; so many with nearly the same rationale are not reflected on
_NEAR = 0.9 - 1e-9  # cosine
_CHUNK = 512  # rows compared at once, so that memory does not grow with their square

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
    """Return the ids whose text nearly stands on several instructions.

    Two texts are near-duplicates where the cosine of their sets of three-word runs is at least 0.9:
    in sixty words no more than two differ.
    """
    ids = [key for key, text in texts.items() if text.strip()]
    if len(ids) < _SAME_TEXT:
        return set()
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Short texts have no run of three words of their own, so the ends are marked.
    marked = [f"begins begins {texts[key]} ends ends" for key in ids]
    runs = TfidfVectorizer(
        ngram_range=(3, 3), token_pattern=r"\w+", binary=True, use_idf=False
    ).fit_transform(marked)
    found: set[str] = set()
    for start in range(0, len(ids), _CHUNK):
        alike = ((runs[start : start + _CHUNK] @ runs.T) >= _NEAR).sum(axis=1)
        for offset, count in enumerate(np.asarray(alike).ravel()):
            if count >= _SAME_TEXT:
                found.add(ids[start + offset])
    return found
