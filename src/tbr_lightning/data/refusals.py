"""Finds the refusals among the responses of general data, by how they begin.

The authors of Safety-Tuned LLaMAs took the safety rows out of Alpaca by topic, as a file (the
``exclude`` of a data config); most of those rows are plain answers about safety, which no rule on
the response can find. This rule finds what is harmful to the mix without that file: rows that
teach to refuse where no harmful instruction was given. It is conservative: an apology alone ("I'm
sorry to hear that") or an inability in the text asked for ("I can't repudiate my fears") is kept.
"""

from __future__ import annotations

import re

_CANNOT = (
    r"(?:can'?t|can ?not|could(?:n'?t| not)|won'?t|will not|"
    r"(?:am|is|are|'m|'re) (?:not able|unable)|"
    r"(?:am|is|are|'m|'re) not (?:going|allowed|permitted|programmed|designed|comfortable)|unable|"
    r"must (?:decline|refuse)|do(?:n'?t| not) (?:have the (?:ability|capability)|feel comfortable))"
)
_SORRY = (
    r"(?:(?:i'?m|i am|we'?re|we are) )?(?:very |truly |so )?(?:sorry|afraid)|(?:my|our) apologies"
)
_ACTS = (
    r"(?:help|assist|provide|give|offer|answer|fulfil+|comply|write|create|generate|"
    r"do (?:that|this)|complete|perform|process|respond|suggest|support|discuss|engage|access|"
    r"share|be (?:generated|completed|performed|done))"
)
_REFUSAL = re.compile(
    rf"(?:(?:{_SORRY})\b[,.!]? (?:but )?(?:as an? (?:ai|language|gpt)\b[^.!?\n]{{0,40}}?)?"
    rf"(?:i|we|this|the|it|that|due|gpt)\b[^!?\n]{{0,160}}?{_CANNOT}\b[^.!?\n]{{0,60}}?\b{_ACTS}"
    rf"|as an? (?:ai|artificial intelligence|(?:large )?language model|gpt)\b[^.!?\n]{{0,60}}?"
    rf"\b(?:i|it)\b[^.!?\n]{{0,30}}?{_CANNOT}\b"
    rf"|i (?:{_CANNOT}) (?:help|assist|comply|fulfil+|provide|answer|do (?:that|this))\b)",
    re.IGNORECASE,
)


def is_refusal(response: str) -> bool:
    """Return whether a response begins as a refusal, e.g. "I'm sorry, but I cannot help"."""
    return _REFUSAL.match(response.strip().replace("’", "'")) is not None
