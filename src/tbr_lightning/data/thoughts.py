"""Think blocks within texts that people or models wrote: taken out of an answer, and kept."""

from __future__ import annotations

import re

from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.data.think_markers import MARKERS

# Markers that no ordinary answer has: others count at the beginning of a text only.
_SURE = tuple(pair for pair in MARKERS if re.search("think|thought", pair[0], re.I))
_PLAIN = re.compile(r"\bthought process\b|^</?(?:thought|reason)", re.I)
_CASE = re.compile(r"</?think(?:ing)?>|\[/?think\]", re.I)
_WRAPPED = re.compile(
    r"\s*(?:<answer>(?P<a>.*)</answer>|<response>(?P<r>.*)</response>|"
    r"<\|begin_of_solution\|>(?P<s>.*)<\|end_of_solution\|>|"
    r"<\|START_RESPONSE\|>(?P<c>.*)<\|END_RESPONSE\|>)\s*",
    re.DOTALL,
)
_ENDS = ("<|return|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>")


def without_thought(response: str) -> tuple[str, str | None]:
    """Return a response without its think blocks, and the text of the blocks.

    Blocks of published models are known, also where one stands within another, where the opening
    marker is missing (it was in the prompt), and where a block never closes: then there is no
    answer.
    """
    for opened, closed in MARKERS:
        text = _like(response, opened)
        if not _has_block(text, opened, closed):
            continue
        thought, answer = ThinkFormat(think_open=opened, think_close=closed).split(text)
        if thought is not None:
            return _unwrapped(answer), thought
    return response, None


def _has_block(text: str, opened: str, closed: str) -> bool:
    start = text.lstrip()
    if _PLAIN.search(opened) or (opened, closed) not in _SURE:
        return start.startswith(opened) and closed in start
    first = start.startswith(opened)
    # A closing marker within a sentence is a word of the answer.
    closes = re.search(rf"(?:^|\n|[.!?…。！？])\s*{re.escape(closed)}", text.partition(opened)[0])
    return (
        first
        or closes is not None
        or re.search(rf"^[ \t]*{re.escape(opened)}", text, re.M) is not None
    )


def _like(text: str, opened: str) -> str:
    """Return a text whose tags are written as the marker is."""
    if opened not in ("<think>", "<thinking>", "[THINK]"):
        return text
    upper = opened == "[THINK]"
    return _CASE.sub(lambda tag: tag[0].upper() if upper else tag[0].lower(), text)


def _unwrapped(answer: str) -> str:
    """Return an answer without the tags that some models put round it after thinking."""
    for end in _ENDS:
        answer = answer.removesuffix(end)
    found = _WRAPPED.fullmatch(answer)
    inside = next((part for part in found.groups() if part is not None), "") if found else answer
    return inside.strip()
