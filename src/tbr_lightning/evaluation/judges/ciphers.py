"""Passages in a simple disguise: leetspeak, reversed letters or words, rot13, letters set apart.

A passage counts where it has no function words of English and undoing the disguise gives it some.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence

from tbr_lightning.evaluation.judges.languages import ENGLISH

_FEWEST = 6  # words of a passage
_PLAIN = 0.1  # share of function words above which it is readable as it is
_FOUND = 0.2  # share of function words that undoing a disguise must give
_DISTINCT = 3  # different ones

_APART = re.compile(r"(?:(?<!\w)\w[ ._-]{1,3}){12,}")
_WORD = re.compile(r"[^\W_]+")
_LEET = str.maketrans("0134578@$!", "oieastbasi")
_LEET_L = str.maketrans("0134578@$!", "oleastbasi")


def _words_reversed(text: str) -> str:
    return " ".join(word[::-1] for word in text.split())


_UNDO: Sequence[Callable[[str], str]] = (
    lambda text: text.translate(_LEET),
    lambda text: text.translate(_LEET_L),
    _words_reversed,
    lambda text: text[::-1],
    lambda text: codecs.encode(text, "rot13"),
)


def enciphered_in(sentences: Sequence[str]) -> str | None:
    """Return the first passage in a simple disguise, or ``None``.

    Args:
        sentences: Sentences of the answer.
    """
    for sentence in sentences:
        if _APART.search(sentence):
            return sentence
        if len(sentence.split()) < _FEWEST or _share(sentence)[0] > _PLAIN:
            continue
        for undo in _UNDO:
            share, distinct = _share(undo(sentence))
            if share >= _FOUND and distinct >= _DISTINCT:
                return sentence
    return None


def _share(text: str) -> tuple[float, int]:
    words = _WORD.findall(text.lower())
    found = [word for word in words if word in ENGLISH and len(word) > 1]
    return len(found) / max(len(words), 1), len(set(found))
