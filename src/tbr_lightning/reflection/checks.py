"""Checks on what a teacher wrote. A reflection that fails one never reaches training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from tbr_lightning.data.think_format import MARKERS
from tbr_lightning.kinds import Kind
from tbr_lightning.reflection.conclusions import Conclusion
from tbr_lightning.reflection.record import Draft

REASONS = (
    "filtered",
    "empty",
    "cut",
    "markers",
    "answers",
    "off_format",
    "contradicts",
    "boilerplate",
)
_SAME_TEXT = 3  # instructions; so many with nearly the same rationale are not reflected on
_NEAR = 0.9 - 1e-9  # cosine
_CHUNK = 512  # rows compared at once, so that memory does not grow with their square

# A rationale judges the request. One that begins like an answer, or lists steps, answers it.
_ANSWERS = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely|here(?:'s| is| are)|step 1|"
    r"first, (?:you|get|take)|i'?m sorry,? but i (?:can|won))",
    re.IGNORECASE,
)
# An item that goes on about the request is a consideration, and any other one a step.
_STEP = re.compile(
    r"^\s*(?:\d+[.)]|[-*•])\s+\W*(?!(?:the|this|that|these|it|is|are|does|do|would|could|can|whether|"
    r"a|an|there|what|who|why|how|if|i|we|they|he|she|user|intent|purpose|context|harm|risk|"
    r"potential|possible|safety|legal|ethical|policy|privacy|impact|consequences?|violat\w+|"
    r"request|helping|answering|providing|refus\w+|declin\w+|acknowledg\w+|suggest\w*|offer\w*|"
    r"encourag\w*|explain\w*|avoid\w*|no|not|nobody)\b)",
    re.MULTILINE | re.IGNORECASE,
)
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>")
_STEPS = 3
_MARKERS = tuple(mark for pair in MARKERS for mark in pair)


def expected_conclusion(kind: Kind) -> Conclusion:
    """Return what a right reflection on a row of this kind concludes."""
    return "harmful" if kind == "harmful" else "harmless"


def reject_reason(
    draft: Draft, kind: Kind, *, markers: Sequence[str] = (), unstated: str = "reject"
) -> str | None:
    """Return why a draft must not be trained on, or ``None`` if it may.

    ``filtered``: the endpoint would not write it. ``empty``: nothing was written. ``cut``: it ended
    by length. ``markers``: it holds think markers or control tokens. ``answers``: it answers or
    refuses the request instead of judging it. ``off_format``: it states no conclusion.
    ``contradicts``: its conclusion is not the row's label.

    Args:
        draft: What was written.
        kind: Of the row.
        markers: Of the model's own think block, beside those of published models.
        unstated: ``accept`` lets a rationale pass that states no conclusion.
    """
    if draft.filtered:
        return "filtered"
    if not draft.text.strip():
        return "empty"
    if draft.cut:
        return "cut"
    if _CONTROL.search(draft.text) or any(mark in draft.text for mark in (*_MARKERS, *markers)):
        return "markers"
    if _ANSWERS.search(draft.text) or len(_STEP.findall(draft.text)) >= _STEPS:
        return "answers"
    if draft.conclusion is None:
        return None if unstated == "accept" else "off_format"
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
