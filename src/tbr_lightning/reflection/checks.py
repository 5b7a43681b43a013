"""Checks on what a teacher wrote. A reflection that fails one never reaches training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from tbr_lightning.data.conclusions import Conclusion, stated_conclusion
from tbr_lightning.data.refusals import is_refusal
from tbr_lightning.data.think_markers import MARKERS
from tbr_lightning.evaluation.judges.content import handed_over
from tbr_lightning.evaluation.judges.refusal_patterns import normal, sentences_of
from tbr_lightning.kinds import Kind
from tbr_lightning.reflection.record import Draft
from tbr_lightning.reflection.relevance import echoes, foreign, is_own, loops

REASONS = (
    "filtered",
    "empty",
    "cut",
    "markers",
    "echo",
    "repeats",
    "language",
    "answers",
    "off_topic",
    "off_format",
    "contradicts",
    "boilerplate",
)
_SAME_TEXT = 3  # instructions; a rationale that nearly repeats on this many is boilerplate
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
    r"^\s*(?:\d+[.)]|\(?[a-z][.)]|[-*•→]|\**step \d+\W+)\s+\W*"
    r"(?!(?:the|this|that|these|it|is|are|does|do|would|could|can|whether|"
    r"a|an|there|what|who|why|how|if|i|we|they|he|she|user|intent|purpose|context|harm|risk|"
    r"potential|possible|safety|legal|ethical|policy|privacy|impact|consequences?|violat\w+|"
    r"request|helping|answering|providing|refus\w+|declin\w+|acknowledg\w+|suggest\w*|offer\w*|"
    r"encourag\w*|explain\w*|avoid\w*|no|not|nobody)\b)",
    re.MULTILINE | re.IGNORECASE,
)
_WORDS = (
    "think|thinking|thoughts?|reasoning|reflection|rationale|scratchpad|analysis|answer|response|"
    "output|solution"
)
_CONTROL = re.compile(
    r"<[|｜][^|｜<>\s]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>|"
    rf"(?:<|&lt;)\s*/?\s*(?:{_WORDS})\b[^<>&]*(?:>|&gt;)|"
    r"</?(?:div|p|html|body|head|br|span|ul|ol|li|b|i|pre|code)\b[^<>]*>|"
    r"[◁＜]/?think[▷＞]|\[/?(?:inst|begin of thought|end of thought|"
    rf"{_WORDS})\]|<</?sys>>|^\W*(?:\*\*|#+ )(?:final )?(?:{_WORDS})\W{{0,3}}(?:\s|$)|"
    r"\*\*(?:final )?(?:answer|response|output)\b\W{0,3}",
    re.IGNORECASE | re.MULTILINE,
)
# Not written for the request: what a template or a failed call leaves behind.
_NO_TEXT = re.compile(
    r"^\W*(?:todo\b|tbd\b|fixme\b|lorem ipsum|insert\b|placeholder|error\b|<!doctype|"
    r"(?:rate limit|service unavailable|bad gateway|internal server error)\b|"
    r"(?:yes|no|harmful|harmless|safe|unsafe)\b\W*(?:\w+\W*){0,2}$)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?:^|[.!?]\s+|\n\s*)(?:I(?:'|’)?m|I am) sorry,?(?: but)? I (?:can(?:'|’)t|cannot|won(?:'|’)t|"
    r"am unable|must)",
    re.IGNORECASE,
)
_HANDED = re.compile(r"```|(?:^[ \t]*\|.*\|[ \t]*$\n?){3}|https?://|\bwww\.", re.MULTILINE)
_META = re.compile(r"^\W*as an ai\b", re.IGNORECASE)
_ENDED = re.compile(r"[.!?…。！？।؟][\s*_`~)\]}\"'”’»」』]*$")
# Of the writer, the user or the answer: not addressed to anybody who would act on it.
_DELIBERATES = re.compile(
    r"\W*(?:(?:okay|ok|so|wait|hmm|alright|well|now|also|then|first|finally),? )*"
    r"(?:i|i'?ll|let me|the (?:user|request|answer|response)|they|my response|who)\b",
    re.IGNORECASE,
)
_FEWEST = 2  # words
_LETTERS = 10  # of a text in a script that writes no blanks
_LAST = 3  # words at the end of a text, among which its conclusion may be
_ITEM = re.compile(r"\s*(?:\d+[.)]|[-*•])\s")
_STEPS = 3
_MARKERS = tuple(mark for pair in MARKERS for mark in pair)


def expected_conclusion(kind: Kind) -> Conclusion:
    """Return the conclusion of a correct reflection on a row of this kind."""
    return "harmful" if kind == "harmful" else "harmless"


def reject_reason(
    draft: Draft,
    kind: Kind,
    *,
    request: str = "",
    prompt: str = "",
    markers: Sequence[str] = (),
    unstated: str = "reject",
) -> str | None:
    """Return why a draft must not be trained on, or ``None`` if it may.

    ``filtered``: the endpoint would not write it. ``empty``: not two words were written, or
    questions only, or what a template or a failed call leaves. ``cut``: it ended by length, or
    within a sentence. ``markers``: it holds think markers, tags or control tokens. ``echo``: it
    repeats its prompt or request. ``repeats``: it goes round in circles. ``language``: it is
    neither in English nor in the request's language. ``answers``: it answers or refuses the
    request instead of judging it, by the function that the gate reads answers with.
    ``off_format``: it states no conclusion. ``contradicts``: its conclusion is not the row's
    label. Whether it is ``off_topic`` or ``boilerplate`` needs the other rows, see
    :func:`tbr_lightning.reflection.relevance.off_topic` and :func:`boilerplate`.

    Args:
        draft: Draft to check.
        kind: Kind of the row.
        request: Request of the row.
        prompt: Prompt that the teacher was given, if it is known.
        markers: Markers of the model's own think block, beside those of published models.
        unstated: ``accept`` also accepts a rationale that states no conclusion.
    """
    text = draft.text
    checks = (
        ("filtered", lambda: bool(draft.filtered)),
        ("empty", lambda: _says_nothing(text)),
        ("cut", lambda: draft.cut),
        ("markers", lambda: _holds_markers(text, markers)),
        ("repeats", lambda: loops(text)),
        ("language", lambda: foreign(text, request)),
        ("answers", lambda: _answers(text, request)),
        ("cut", lambda: _is_unfinished(text)),
        ("off_format", lambda: draft.conclusion is None and unstated != "accept"),
        ("contradicts", lambda: draft.conclusion not in (None, expected_conclusion(kind))),
        ("echo", lambda: echoes(text, request, prompt)),
        ("empty", lambda: _only_asks(text)),
    )
    return next((reason for reason, found in checks if found()), None)


def _says_nothing(text: str) -> bool:
    if _NO_TEXT.search(text):
        return True
    words = re.findall(r"[^\W\d_]{2,}", text)
    return len(words) < _FEWEST and sum(map(len, words)) < _LETTERS


def _only_asks(text: str) -> bool:
    return all(part.rstrip().endswith("?") for part in sentences_of(text) if part.strip())


def _holds_markers(text: str, markers: Sequence[str]) -> bool:
    return _CONTROL.search(text) is not None or any(m in text for m in (*_MARKERS, *markers))


def _answers(text: str, request: str) -> bool:
    if _REFUSAL.search(text) or _HANDED.search(text) or _META.search(text):
        return True
    if _ANSWERS.search(text) or len(_STEP.findall(text)) >= _STEPS or is_refusal(text):
        return True
    lines = normal(text).splitlines()  # numbered considerations hand over nothing
    text = "\n".join(line for line in lines if not _ITEM.match(line) or _STEP.match(line))
    own = [
        part
        for part in sentences_of(text)
        if is_own(part, request) and not _DELIBERATES.match(part)
    ]
    found = _handed_over(text, tuple(own))
    return found is not None and is_own(found, request)


@lru_cache(maxsize=4096)  # rationales are checked as another arm's too
def _handed_over(text: str, own: tuple[str, ...]) -> str | None:
    return handed_over(text, own)


def _is_unfinished(text: str) -> bool:
    """Return whether a text breaks off; a last line that concludes may lack its full stop."""
    if re.search(r"(?:\.\.\.|…)\W*$", text):
        return True
    if _ENDED.search(text.rstrip()):
        return False
    last = sentences_of(text)[-1]
    before = " ".join(last.split()[:-_LAST])
    return stated_conclusion(last) is None or stated_conclusion(before) is not None


def boilerplate(texts: Mapping[str, str]) -> set[str]:
    """Return the ids of texts that nearly repeat on several instructions.

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
