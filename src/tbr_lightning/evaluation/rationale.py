"""A rationale that a model was asked for and wrote in plain text, without the markers.

Only the prompted arm reads answers so: who was asked to think first and heads a part "Thoughts:"
and another "Answer:" has done so, while in an answer that nobody asked to reflect such words are
the answer's own.
"""

from __future__ import annotations

import re
from dataclasses import replace

from tbr_lightning.evaluation.judged_response import Judged

_MARK = r"^[ \t]*(?:[#>*_\-]+[ \t]*)?(?:\d+[.)][ \t]*)?"
_END = r"[ \t]*(?:[*_]+[ \t]*)?[:\-\u2013\u2014][ \t]*(?:[*_]+)?|[ \t]*[*_]*[ \t]*$"
_THOUGHTS = re.compile(
    rf"{_MARK}(?:my |the |initial |internal )?(?:thoughts?|thinking|reasoning|rationale|"
    r"reflections?|analysis|thought process|safety (?:check|analysis|reflection|considerations?))"
    rf"(?:{_END})",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER = re.compile(
    rf"{_MARK}(?:my |the |final |actual )*(?:answer|response|reply)(?:{_END})",
    re.IGNORECASE | re.MULTILINE,
)
_LONE_MARKER = re.compile(r"^\s*</?\w+>\s*|\s*</?\w+>\s*$")


def with_rationale(row: Judged, arm: str) -> Judged:
    """Return a response with its rationale split off, where the arm asked for one."""
    if arm != "prompted" or row.reflection is not None:
        return row
    reflection, answer = split_plain(row.answer)
    right = answer == row.reference if row.reference else None
    return replace(row, reflection=reflection, answer=answer, right=right)


def split_plain(text: str) -> tuple[str | None, str]:
    """Split a text that has no think block into rationale and answer, by their headings.

    The answer begins behind the last heading that names it, and the text before that is the
    rationale, with or without a heading of its own. Without a heading for the answer nothing is
    split: where the rationale ends is then unknown.

    Args:
        text: Response of a model that was asked to think first.

    Returns:
        Rationale (``None`` where there is none) and answer.
    """
    text = text.strip()
    headings = list(_ANSWER.finditer(text))
    if not headings:
        return None, text
    last = headings[-1]
    before = _THOUGHTS.sub("", text[: last.start()], count=1).strip()
    answer = _LONE_MARKER.sub("", text[last.end() :]).strip()
    if not before:
        return None, text
    return _LONE_MARKER.sub("", before).strip(), answer
