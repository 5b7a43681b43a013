"""How prose tells what to do: orders, and chains of actions in whatever person, tense or voice."""

from __future__ import annotations

import re

_VERBS = re.findall(
    r"\w+",
    "add aim align apply approach arrange assemble attach bend blend boil break bring build "
    "bump burn buy bypass carry change clean click climb close coat collect combine compile "
    "conceal configure connect cook copy cover create cross crush cut deposit dial dig dilute "
    "disable disconnect disguise dissolve distract download drain drill drive drop dry dump "
    "enter extract fill filter fire fit fling fold force forge gather get grab grind hammer "
    "hang heat hide hit hold hook ignite inject insert inspect install jab jam keep knock "
    "lace launch lay leave lift light load lock log loop loosen lower lure make mark measure "
    "melt mix modify mount move obtain offer open order pack paste peel pick place plant plug "
    "point pour prepare press print pry pull pump punch purchase push put raise rake register "
    "release remove repeat replace rig rinse rotate rub run scan scrape screw seal search "
    "select send serve set shake shim shoot shove sign slide slip smash sneak soak splice "
    "spray spread sprinkle squeeze stab start steal stir store strap strike strip stuff swap "
    "swing switch take tap tape target threaten throw tie tighten tilt toss touch transfer "
    "trick tug turn twist type unhook unlock unscrew upload use vent visit wait walk wash "
    "watch wear wedge weigh weld wipe wire wrap write",
)
_IRREGULAR = re.findall(
    r"\w+",
    "bent broke broken brought built bought dug drove driven flung got ground hung hid hidden "
    "held kept laid left lit made ran sent shook shaken shot slid snuck stole stolen struck "
    "swung took taken threw thrown wore worn wrote written tying",
)


def _inflected(verb: str) -> str:
    """Return a pattern of a regular verb's forms."""
    if verb.endswith("e"):
        return rf"{verb[:-1]}(?:e[sd]?|ing)"
    if verb.endswith("y") and verb[-2] not in "aeou":
        return rf"{verb[:-1]}(?:y|ies|ied|ying)"
    return rf"{verb}(?:e?s|{verb[-1]}?(?:ed|ing))?"


_VERB = f"(?:{'|'.join(_VERBS)})"
_FORM = f"(?:{'|'.join([*map(_inflected, _VERBS), *_IRREGULAR])})"
_ORDER = (
    r"(?:first|second|third|fourth|then|next|after (?:that|this)|afterwards|finally|lastly|"
    r"now|once [^,.;]{1,40}|to (?:begin|start)(?: with)?|step \w+)"
)
_SOMEONE = (
    r"(?:you|one|people|they|someone|he|she|attackers?|thieves|criminals|burglars?|hackers?|"
    r"(?:a|an|the|some|many|most) (?:\w+ )?(?:attackers?|thie(?:f|ves)|burglars?|hackers?|"
    r"criminals?|persons?|killers?|m[ae]n|wom[ae]n|experts?|professionals?|characters?))"
)
_STEP = re.compile(
    rf"^(?:[^.!?:]{{0,60}}: )?(?:[-*•\"'(]|\d+[.)])*\s*(?:(?:and |but |so )?{_ORDER}[,:]? )?"
    rf"(?:(?:and )?(?:simply|just|carefully|slowly|quickly|gently|quietly) )?{_VERB}\b"
    rf"(?! (?:care|note|sure|part in|it seriously))"
    rf"|^(?:[^.!?:]{{0,60}}[,:] )?{_SOMEONE}"
    rf"(?:'d| (?:would|will|could|can|should|might|must|may|(?:\w+ )?(?:have|need|want) to|"
    rf"usually|often|typically|simply|just))* (?:\w+ly )?(?:first |then |just |simply )?"
    rf"{_VERB}(?:e?s)?\b"
    rf"|^(?:[^.!?:]{{0,60}}[,:] )?(?:what (?:you|one|they) (?:\w+ )?do(?:es)? is|"
    rf"(?:the|one) (?:trick|way|method|idea|key) is to|"
    rf"all (?:you|it) (?:need|take)s? (?:to do )?is(?: to)?) {_VERB}\b",
    re.IGNORECASE,
)
_CHAIN = re.compile(rf"(?:, (?:and |then |and then )?|; | and (?:then )?){_VERB}(?:e?s)?\b", re.I)
_CHAINED = rf"(?:, (?:and |then |and then )?|; | and (?:then )?){_FORM}\b"
_ACTION = re.compile(
    rf"{_CHAINED}|\b(?:is|are|was|were|gets?|got) (?:\w+ly )?{_FORM}\b|"
    rf"\b{_FORM}(?= (?:the|an?|it|them|each|every|his|her|their|your|its|some|with|into|inside|"
    rf"through|on|onto|over|off|under|between|behind|from|around|until|\d+)\b)",
    re.IGNORECASE,
)
_ACTIONS = 3  # in one sentence tell a procedure
_ORDERED = re.compile(
    rf"^\W*(?:please )?(?:you (?:can|could|may|might) )?(?:simply |just )?{_VERB} \w+ \w+", re.I
)


def orders(sentence: str) -> bool:
    """Return whether a sentence tells somebody to do something."""
    return _STEP.search(sentence) is not None


def chains(sentence: str) -> bool:
    """Return whether one order follows another in a sentence."""
    return _CHAIN.search(sentence) is not None


def recounts(sentence: str) -> bool:
    """Return whether a sentence goes through several actions, whoever does them, and when."""
    return len(_ACTION.findall(sentence)) >= _ACTIONS


def turns_to(clause: str) -> bool:
    """Return whether a clause after "but" begins with an order."""
    return _ORDERED.search(clause) is not None
