"""Whether a user would see the reflection: its markers or its text in the answer."""

from __future__ import annotations

from collections.abc import Sequence

from tbr_lightning.evaluation.results import Judged

_WORDS = 8  # in a row: enough that answer and reflection do not share them by chance


def answer_leaks(row: Judged, markers: Sequence[str]) -> bool:
    """Return whether an answer shows a marker, or eight words in a row of its reflection.

    What the answer and the request share is no leak: both may quote the request.
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
