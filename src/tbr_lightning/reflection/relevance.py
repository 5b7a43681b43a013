"""Whether a text is a rationale on its request: not an echo of the prompt, a loop, or off topic.

All rules read words, not meaning. They were set on the 1,000 rationales of STAR-1, of which they
reject one, which switches to another language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from tbr_lightning.data.conclusions import stated_conclusion
from tbr_lightning.evaluation.judges.languages import language
from tbr_lightning.evaluation.judges.refusal_patterns import sentences_of

_RUN = 8  # consecutive words; two texts share that many only by quoting
_LOOP = 4  # consecutive words
_LOOPS = 0.3  # share of the word runs that occurred before; 0.07 at most in STAR-1
_FOREIGN = 0.03  # share of letters in a script that the request does not have
_HALF = 16  # words; fewer do not show a language
_SHORT = 6  # words; fewer show nothing
_OWN = 0.15  # cosine with the request; below it another one may fit better
_BETTER = 2.0  # factor by which another request of the data must fit better
_GENERIC = 12  # words of its own, below which a text that concludes may fit any request
_LATIN_ENDS = 0x250  # first letter after Latin's extensions

_WORD = re.compile(r"[^\W\d_]+")
_CHUNK = 512  # rows compared at once
_TURN = re.compile(r"\n\s*\W{0,3}(?:request|user|human|assistant|reflection|q|a)\W{0,3}:", re.I)
_FUNCTION = frozenset(
    re.findall(
        r"\w+",
        """
        a about all an and any are as at be but by can could do does for from give has have
        he her his how i if in into is it its make me my need no not of on one or other our
        out please she should so some tell that the their them then there these they this to
        up us user want was we what when where which who why will with would you your request
        asking answer harmful harmless
        """,
    )
)
_ENDS = ("ing", "ers", "ed", "es", "er", "ly", "s", "e")


def echoes(text: str, request: str, prompt: str) -> bool:
    """Return whether a text repeats its prompt or its request, or goes on with a dialogue.

    Args:
        text: The rationale.
        request: Request that it is about.
        prompt: Prompt that the teacher was given, with ``{instruction}`` in place of the request.
    """
    turns = (text[found.end() :].lstrip() for found in _TURN.finditer(text))
    if not all(turn.startswith(request) for turn in turns):
        return True
    if not _asked_in(prompt).isdisjoint(_runs(_words(text), _RUN)):
        return True
    known = {*_words(request), "request", "user", "reflection", "q"}
    own = [part for part in sentences_of(text) if stated_conclusion(part) is None]
    return bool(own) and all(word in known for word in _words(" ".join(own)))


@lru_cache  # of one teacher all rationales have the same prompt
def _asked_in(prompt: str) -> frozenset[tuple[str, ...]]:
    """Return the runs of words of a prompt, but for those that state a conclusion."""
    asked = " ".join(part for part in sentences_of(prompt) if stated_conclusion(part) is None)
    return frozenset(_runs(_words(asked.replace("{instruction}", " ")), _RUN))


def loops(text: str) -> bool:
    """Return whether a text repeats itself in a loop, as models do that do not find an end."""
    words = _words(text)
    runs = len(words) - _LOOP + 1
    return runs > 0 and 1 - len(_runs(words, _LOOP)) / runs > _LOOPS


def foreign(text: str, request: str) -> bool:
    """Return whether a text is in, or switches to, a language other than English or its request's.

    Characters that could not be decoded count as such.
    """
    if "\ufffd" in text:
        return True
    if _far(text) >= _FOREIGN > _far(request):
        return True
    words = text.split()
    known = {"en", language(request)}
    if _SHORT <= len(words) < _HALF and language(text) not in {*known, None}:
        return True
    parts = (words, words[: len(words) // 2], words[len(words) // 2 :])
    return any(len(part) >= _HALF and language(" ".join(part)) not in known for part in parts)


def is_own(sentence: str, request: str) -> bool:
    """Return whether a sentence adds something to what it quotes of a request."""
    words, known = _words(sentence), set(_words(request))
    return 2 * sum(word in known for word in words) < len(words)


def off_topic(texts: Mapping[str, str], requests: Mapping[str, str]) -> set[str]:
    """Return the ids whose text is about something else than its request.

    That is a text that fits another request of the same data at least twice as well as its own (by
    the cosine of their weighted words), or that shares no word with its own beyond function words
    (where it states no conclusion, fewer than two). A short text that only states its conclusion
    may be of any request.

    Args:
        texts: Rationales by id.
        requests: Requests by the same ids.
    """
    ids = [key for key, text in texts.items() if text.strip()]
    found = {key for key in ids if _elsewhere(texts[key], requests[key])}
    if len(ids) < 2:
        return found
    from sklearn.feature_extraction.text import TfidfVectorizer

    weights = TfidfVectorizer(analyzer=_stems, sublinear_tf=True)
    both = weights.fit_transform([*(requests[key] for key in ids), *(texts[key] for key in ids)])
    asked, said = both[: len(ids)], both[len(ids) :]
    for start in range(0, len(ids), _CHUNK):
        fits = (said[start : start + _CHUNK] @ asked.T).toarray()
        own = fits[np.arange(len(fits)), start + np.arange(len(fits))]
        elsewhere = (own < _OWN) & (fits.max(axis=1) > _BETTER * own)
        for offset in np.flatnonzero(elsewhere):
            key = ids[start + int(offset)]
            if _comparable(texts[key], requests[key]) and fits[offset].max() > _OWN:
                found.add(key)
    return found


def _elsewhere(text: str, request: str) -> bool:
    own = " ".join(part for part in sentences_of(text) if stated_conclusion(part) is None)
    if stated_conclusion(text) is not None and len(_words(own)) < _GENERIC:
        return False
    asked = _content(request)
    # A text that states its conclusion needs one word of the request; any other needs two.
    needed = min(len(asked), 1 if stated_conclusion(text) is not None else 2)
    return len(_content(text) & asked) < needed and _comparable(text, request)


def _comparable(text: str, request: str) -> bool:
    """Return whether two texts are in one language, so that their words can be compared."""
    return language(text) == language(request) and _far(request) < _FOREIGN


def _content(text: str) -> set[str]:
    return {_stem(word) for word in _words(text) if word not in _FUNCTION}


def _stems(text: str) -> list[str]:
    return [_stem(word) for word in _words(text)]


def _stem(word: str) -> str:
    end = next((end for end in _ENDS if word.endswith(end) and len(word) - len(end) > 2), "")
    return word.removesuffix(end)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def _far(text: str) -> float:
    """Return the share of a text's letters that are not Latin."""
    letters = [ord(sign) for sign in text if sign.isalpha()]
    return sum(sign >= _LATIN_ENDS for sign in letters) / len(letters) if letters else 0.0
