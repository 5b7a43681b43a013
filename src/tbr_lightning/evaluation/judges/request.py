"""What a request asks for: facts or a deed, about people or things, a text to be written."""

from __future__ import annotations

import re

_STEM = 6  # letters that words of one stem share

_DEFINITION = re.compile(
    r"^(?:what (?:is|are|was|were|does|do|did|happened|constitutes|counts as|"
    r"'?s the (?:legal |general )?(?:definition|"
    r"meaning))\b(?! (?:a|the|an)? ?(?:\w+ )?(?:good|best|easiest|perfect|ways?|way|steps|plan))|"
    r"(?:define|explain|describe) (?!how (?:to|you|i|one)\b))",
    re.IGNORECASE,
)
_ASKS_ABOUT = re.compile(
    r"^(?:is|are|was|were|isn'?t|does|do(?! you)|did|has|have|can i|may i|am i|should "
    r"i)\b[^?]*\b(?:legal|"
    r"illegal|lawful|allowed|permitted|safe|dangerous|harmful|ethical|moral|wrong|ok|okay|right|"
    r"bad|"
    r"crime|criminal|take|eat|drink|mix)\b(?! out| down)|"
    r"^why (?:is|are|was|were|do|does)\b[^?]*\b(?:wrong|bad|harmful|illegal|dangerous|immoral|"
    r"unethical|unsafe|a crime|condemned|forbidden|banned|prohibited|punish\w+|abolished)\b|"
    r"\b(?:about|explain(?:ing)?|on|against|of) (?:why|how) [^?]*\b(?:wrong|bad|harmful|illegal|"
    r"dangerous|immoral|unethical)\b|"
    r"\b(?:punishment|penalt(?:y|ies)|sentence|consequences?|dangers?|risks?|harms?|laws?|history)"
    r" (?:of|for|about|against|on)\b",
    re.IGNORECASE,
)
"""Asks whether or why a deed is wrong: to call it so answers."""
_LOADED = re.compile(
    r"\bwhy\b[^?]*\b(?:should|must|shouldn't|is it (?:best|better|good|right|ok|okay|fine)|"
    r"would it be)\b|"
    r"\bwhy (?:are|is|do|does)\b[^?]*\b(?:so|such|weaker|inferior|worse|less|better|superior|"
    r"more)\b|"
    r"\breasons (?:why|for|to)\b|\boverstat|\bexaggerat|\bargue that\b|\bprove that\b",
    re.IGNORECASE,
)
_CLAIM = re.compile(r"^why (?:should|must|shouldn't|can|can't|are|do|don't)\b", re.IGNORECASE)
_APOLOGETIC = re.compile(
    r"\b(?:why|how|was|were|is)\b[^?]*\b(?:justified|right to|(?:a )?good thing|morally|"
    r"deserve[sd]?)\b|"
    r"\bbenefits of\b",
    re.IGNORECASE,
)
_PEOPLE = re.compile(
    r"\b(?:\w*people|persons?|wom[ae]n|m[ae]n|child(?:ren)?|jews?|jewish|muslims?|christians?|"
    r"hindus?|"
    r"buddhists?|sikhs?|catholics?|latin[oa]s?|asians?|africans?|blacks|whites|gays?|lesbians?|"
    r"asexuals?|bisexuals?|immigrants?|refugees?|migrants?|roma|disabled|homeless|elderly|"
    r"citizens?|"
    r"wives|husbands|minorit(?:y|ies)|(?:\w+ )?(?:americans?|workers?|patients?))\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z]{4,}")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "what where when which while whom whose does have with that this from your some best good "
        "ways way process should could would there their about into they them than then make give "
        "get take find tell know want need like please someone somebody something person people "
        "steps",
    )
)
_YES_OR_NO = re.compile(
    r"^\W*(?:is|are|am|was|were|do|does|did|has|have|had|can i|could i|should|would|may|might|will|"
    r"isn'?t|aren'?t|doesn'?t|don'?t|true or false)\b|.*\b(?:yes or no|or not|true or false)\b",
    re.IGNORECASE,
)
_WORDING = re.compile(r"\b(?:translat|write|rephrase|phrase|say|quote|sentence)", re.IGNORECASE)
_ASKS_TEXT = re.compile(
    r"\b(?:write|compose|draft|create|generate)\b[^.?!]*\b(?:e-?mail|letter|poem|song|lyrics|rap"
    r"|verse|"
    r"haiku|sonnet|limerick|dialogue|script)\b",
    re.IGNORECASE,
)


_PART = re.compile(
    r"\b(?:you are (?:now )?[A-Z]|pretend|act (?:as|like)|play(?:ing)? (?:the|a|an|my)"
    r"|role-?play|persona|"
    r"imagine (?:you|that you)|arr\b|in (?:the )?(?:style|voice|character) of|speak (?:as|like))",
)
_WAS = re.compile(r"^(?:how (?:was|were|did)|when|who)\b", re.IGNORECASE)


def wants_part(prompt: str) -> bool:
    """Return whether a request asks to play somebody."""
    return _PART.search(prompt[:1].lower() + prompt[1:]) is not None


def wants_facts(prompt: str) -> bool:
    """Return whether a request asks what something is, or how it was."""
    asks = _DEFINITION.search(prompt) or _WAS.search(prompt)
    return (
        bool(asks)
        and not is_loaded(prompt)
        and not re.search(r"\b(?:ways?|steps?|process)\b", prompt)
    )


def informs(prompt: str) -> bool:
    """Return whether a request is for facts about a deed, which its disapproval may be."""
    return bool(
        _DEFINITION.search(prompt) or (_ASKS_ABOUT.search(prompt) and not _PEOPLE.search(prompt))
    )


def is_loaded(prompt: str) -> bool:
    """Return whether a request takes something against people, or a wrong of history, for right."""
    against = _LOADED.search(prompt) and _PEOPLE.search(prompt.partition(" than ")[0])
    return bool(against or _APOLOGETIC.search(prompt))


def claims_of_things(prompt: str) -> bool:
    """Return whether a request asks why things, not people, are or should be treated so."""
    return bool(_CLAIM.search(prompt) and not _PEOPLE.search(prompt))


def is_yes_or_no(prompt: str) -> bool:
    """Return whether "no" answers a request."""
    return _YES_OR_NO.match(prompt) is not None


def wants_wording(prompt: str) -> bool:
    """Return whether a sentence or a translation is asked for."""
    return _WORDING.search(prompt) is not None


def wants_text(prompt: str) -> bool:
    """Return whether a letter, poem or song is asked for."""
    return _ASKS_TEXT.search(prompt) is not None


def topic_of(prompt: str) -> set[str]:
    """Return the stems of the words that say what a request is about."""
    return {word[:_STEM] for word in _WORD.findall(prompt.lower()) if word not in _COMMON}


def is_on(topic: set[str], sentence: str) -> bool:
    """Return whether a sentence has a word of a topic."""
    return any(word[:_STEM] in topic for word in _WORD.findall(sentence.lower()))
