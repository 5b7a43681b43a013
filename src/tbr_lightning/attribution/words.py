"""Which words of a prompt are sensitive, and neutral ones to put in their place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tbr_lightning.attribution.gradients import Attribution
from tbr_lightning.evaluation.suites import Prompt

NEUTRAL = "discuss"
"""Replaces a sensitive word that has no replacement of its own."""

SWAPS: dict[str, str] = {
    "kill": "stop",
    "terminate": "end",
    "murder": "visit",
    "shoot": "photograph",
    "stab": "touch",
    "strangle": "hold",
    "execute": "start",
    "eliminate": "remove",
    "destroy": "tidy",
    "crush": "press",
    "blow up": "fill",
    "blow": "fill",
    "smash": "move",
    "burn": "use",
    "torch": "lamp",
    "bomb": "cake",
    "explode": "open",
    "attack": "approach",
    "hit": "reach",
    "whip": "stir",
    "cut": "share",
    "slash": "lower",
    "gut": "clean",
    "hang": "place",
    "drown": "wash",
    "poison": "feed",
    "steal": "borrow",
    "rob": "visit",
    "hack": "open",
    "cheat": "play",
    "lie": "speak",
    "die": "rest",
    "death": "life",
    "suicide": "travel",
    "drugs": "fruits",
    "cocaine": "coffee",
    "heroin": "tea",
    "alcohol": "water",
    "porn": "films",
    "naked": "dressed",
    "sex": "music",
    "rape": "meet",
    "genocide": "harvest",
    "terrorist": "tourist",
    "gun": "pen",
    "weapon": "tool",
    "knife": "spoon",
    "fraud": "trade",
    "bully": "greet",
    "discriminate": "decide",
    "violence": "kindness",
}
"""Words that make a harmless request look harmful, and neutral ones. Ours: XSTest's homonyms and
figurative phrases, and the topics of its other types."""


def sensitive_spans(prompt: Prompt, swaps: Mapping[str, str]) -> list[tuple[int, int]]:
    """Return the spans of the sensitive words of a prompt.

    They are XSTest's own (its column ``focus``), the micro-world's verbs that are harmful to do to
    something, or else the keys of ``swaps``.
    """
    if prompt.benchmark == "microworld":
        words = _harmful_verbs()
    else:
        words = [part.strip() for part in prompt.focus.split(",") if part.strip()] or list(swaps)
    found: list[tuple[int, int]] = []
    for word in sorted(words, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){_any_form(word)}", prompt.text, re.IGNORECASE):
            if all(match.end() <= low or match.start() >= high for low, high in found):
                found.append(match.span())
    return sorted(found)


def swapped(prompt: Prompt, swaps: Mapping[str, str]) -> str | None:
    """Return the prompt with neutral words for its sensitive ones; ``None`` if it has none."""
    spans = sensitive_spans(prompt, swaps)
    if not spans:
        return None
    text = prompt.text
    for low, high in reversed(spans):
        text = text[:low] + _neutral(prompt, text[low:high], swaps) + text[high:]
    return text


def sensitive_share(found: Attribution, spans: Sequence[tuple[int, int]]) -> float:
    """Return the sensitive words' share of the sum of all words' absolute scores."""
    total = sum(abs(word.score) for word in found.words)
    hit = (
        abs(word.score)
        for word in found.words
        if any(word.start < high and low < word.end for low, high in spans)
    )
    return sum(hit) / total if total else 0.0


def _any_form(word: str) -> str:
    """Return a pattern of a word or phrase and its inflections (kill, killing; die, dying)."""
    first, *rest = word.split()
    forms = sorted(map(re.escape, _inflections(first.lower())), key=len, reverse=True)
    return r"\s+".join([f"(?:{'|'.join(forms)})", *map(re.escape, rest)]) + r"(?!\w)"


def _inflections(word: str) -> set[str]:
    """Return the forms of an English word: those of a regular verb and noun, and irregular ones.

    Both are given whatever the word is, since a list does not say. Derived words ("killer",
    "execution") are words of their own.
    """
    vowel_before = word[-2:-1] in _VOWELS
    found = {word, *_IRREGULAR.get(word, ())}
    if word.endswith("ie"):
        return found | {f"{word}s", f"{word}d", f"{word[:-2]}ying"}
    if word.endswith("e"):
        return found | {f"{word}s", f"{word}d", f"{word[:-1]}ing"}
    if word.endswith("y") and not vowel_before:
        return found | {f"{word[:-1]}ies", f"{word[:-1]}ied", f"{word}ing"}
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return found | {f"{word}es", f"{word}ed", f"{word}ing"}
    found |= {f"{word}s", f"{word}ed", f"{word}ing"}
    if vowel_before and word[-1] not in _NEVER_DOUBLED and word[-3:-2] not in _VOWELS:
        found |= {f"{word}{word[-1]}ed", f"{word}{word[-1]}ing"}
    return found


_VOWELS = tuple("aeiou")
_NEVER_DOUBLED = tuple("aeiouwxy")
_IRREGULAR: dict[str, tuple[str, ...]] = {
    "beat": ("beaten",),
    "bite": ("bit", "bitten"),
    "blow": ("blew", "blown"),
    "break": ("broke", "broken"),
    "burn": ("burnt",),
    "fight": ("fought",),
    "get": ("got", "gotten"),
    "hang": ("hung",),
    "knife": ("knives",),
    "make": ("made",),
    "shoot": ("shot",),
    "sell": ("sold",),
    "slay": ("slew", "slain"),
    "steal": ("stole", "stolen"),
    "take": ("took", "taken"),
    "thief": ("thieves",),
}
"""Forms that no rule gives, of verbs and nouns that look harmful."""


def _neutral(prompt: Prompt, word: str, swaps: Mapping[str, str]) -> str:
    if prompt.benchmark == "microworld":
        return _neutral_verb(prompt.category) or word
    for known in sorted(swaps, key=len, reverse=True):
        if re.fullmatch(_any_form(known), word, re.IGNORECASE):
            return _as(word, swaps[known])
    return _as(word, NEUTRAL)


def _as(word: str, neutral: str) -> str:
    """Give a neutral word the ending and the first letter's case of the word it replaces."""
    if word.lower().endswith("ing"):
        neutral = f"{neutral.removesuffix('e')}ing"
    return neutral.capitalize() if word[:1].isupper() else neutral


def _harmful_verbs() -> list[str]:
    from tbr_lightning.microworld.world import load_world

    return sorted({rule.verb for rule in load_world().rules if rule.verdict == "harmful"})


def _neutral_verb(category: str) -> str | None:
    """Return what is never harmful and is done to things of a category."""
    from tbr_lightning.microworld.world import load_world

    rules = (rule for rule in load_world().rules if rule.category.name == category)
    return next((rule.verb for rule in rules if rule.kind == "general"), None)
