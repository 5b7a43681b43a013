"""Which think markers a chat template uses, found out by rendering it.

Templates open a block at the end of the prompt (DeepSeek-R1), close one there (DeepSeek-V3.1,
Gemma 4 where thinking is off), put reasoning into a channel of its own (gpt-oss), or leave the
block to the model. What cannot be known is refused rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from tbr_lightning.errors import UserError

Render = Callable[[Sequence[Mapping[str, str]], bool], str]
"""Renders messages; the second argument lets the assistant begin."""

MARKERS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("Here is my thought process:", "Here is my response:"),
)
"""Think markers of published models, by which a template or a text that has a block is known."""

_ASKED = {"role": "user", "content": "x"}
_ANSWER, _REASONING = "\ue001a\ue001", "\ue001r\ue001"  # private use: placeholders
_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")  # of a message, by family
_TAG = re.compile(
    r"(?:<[|/]?|\[|◁)[^<>\[\]\s]*(?:think|thought|reason|reflect|scratchpad|analysis|cot)"
    r"[^<>\[\]\s]*(?:[|]?>|\]|▷)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Markers:
    """How a template writes a think block.

    Attributes:
        opens: Text before a reflection.
        closes: Text after it, before the answer.
        opened: The prompt ends within a block.
        closed: The prompt ends after a closed block: no reflection can follow it.
        answers: Text before an answer that has no reflection, as the name of a channel.
    """

    opens: str
    closes: str
    opened: bool = False
    closed: bool = False
    answers: str = ""


def state_of(prompt: str, opens: str, closes: str) -> str:
    """Return whether a rendered prompt ends within a block (``opened``), after one, or neither."""
    end = prompt.rstrip()
    if end.endswith(opens.strip()):
        return "opened"
    return "closed" if end.endswith(closes.strip()) else ""


def of_configured(render: Render, opens: str, closes: str) -> Markers:
    """Return markers that a person has given, with what the template does to their block."""
    state = state_of(render([_ASKED], True), opens, closes)
    return Markers(opens, closes, state == "opened", state == "closed", _before_answer(render))


def of_template(
    render: Render, source: str, own: Iterable[str], configured: tuple[str, str], name: str
) -> Markers:
    """Return the markers of a chat template.

    Args:
        render: Renders messages with it.
        source: Its text.
        own: The tokens that were added to the tokenizer's vocabulary, as they are written.
        configured: Markers to use where the template knows none.
        name: Name of the tokenizer, for messages.

    Raises:
        UserError: The template has a think block whose markers cannot be told.
    """
    begun = render([_ASKED], True)
    pairs = dict.fromkeys((configured, *MARKERS))
    written = _rendered_block(render)
    for state in ("opened", "closed"):
        for pair in pairs:
            if state_of(begun, *pair) == state:
                own_blanks = written is not None and written[0].strip() == pair[0].strip()
                marks = written if written is not None and own_blanks else pair
                return Markers(*marks, state == "opened", state == "closed")
    if _TAG.search(begun.rstrip()):
        tag = begun.rstrip().splitlines()[-1]
        raise UserError(
            f"the chat template of {name} ends the prompt with '{tag}', which is no think marker "
            "that is known: give model.think_open='…' and model.think_close='…'"
        )
    if written is not None:
        if not all(part.strip() for part in written):
            raise UserError(
                f"the chat template of {name} writes reasoning without a marker before and after "
                "it, so answers could not be split: give model.think_open='…' and "
                "model.think_close='…', or model.chat_template=FILE"
            )
        return Markers(*written, answers=_before_answer(render))
    found = _named(source, own, pairs)
    if len(found) > 1 and configured not in found:
        known = ", ".join(opens for opens, _ in found)
        raise UserError(
            f"the chat template of {name} names several think markers ({known}): give "
            "model.think_open='…' and model.think_close='…'"
        )
    opens, closes = configured if configured in found or not found else found[0]
    return Markers(opens, closes, answers=_before_answer(render))


def _named(
    source: str, own: Iterable[str], pairs: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the pairs that occur in the template, or else in the vocabulary."""
    tokens = set(own)
    in_source = [pair for pair in pairs if all(mark.strip() in source for mark in pair)]
    return in_source or [pair for pair in pairs if {mark.strip() for mark in pair} <= tokens]


def _rendered_block(render: Render) -> tuple[str, str] | None:
    """Return what stands around the reasoning of a turn of the assistant, if it is rendered."""
    turn = {"role": "assistant", "content": _ANSWER, **dict.fromkeys(_FIELDS, _REASONING)}
    tail = _turn(render, turn)
    before, answer, _ = tail.partition(_ANSWER)
    opens, reasoning, closes = before.partition(_REASONING)
    if not answer or not reasoning:
        return None
    begun = render([_ASKED], True)
    blank = begun[len(begun.rstrip()) :]  # in the prompt already
    return (opens.removeprefix(blank) if blank else opens), closes


def _before_answer(render: Render) -> str:
    """Return what precedes an answer beside an empty think block: a channel's name."""
    tail = _turn(render, {"role": "assistant", "content": _ANSWER})
    before, answer, _ = tail.partition(_ANSWER)
    before = before.strip()
    known = any(mark.strip() in before for pair in MARKERS for mark in pair)
    return "" if not answer or known else before


def _turn(render: Render, turn: Mapping[str, str]) -> str:
    """Return a last turn of the assistant without what the prompt before it ends with."""
    begun = render([_ASKED], True)
    try:
        whole = render([_ASKED, turn], False)
    except (TemplateError, ValueError, TypeError):
        return ""
    # Templates that drop the block of earlier turns write blanks where the prompt has none.
    head = begun.rstrip()
    for opens, _ in MARKERS:
        head = head.removesuffix(opens.strip()).rstrip()
    return whole[len(head) :] if whole.startswith(head) else ""
