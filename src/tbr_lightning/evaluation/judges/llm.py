"""A judge behind any OpenAI-compatible endpoint, which answers in JSON.

The schema is sent along where the endpoint takes one, and the reply is parsed strictly all the
same: what is not one object with a known label is a judge error, never a verdict.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.data.think_markers import MARKERS
from tbr_lightning.evaluation.judges.base import LABELLED, Case, Judge, Label, Verdict, on_answered
from tbr_lightning.evaluation.judges.endpoint_judge import ask, check_endpoint
from tbr_lightning.evaluation.judges.prompts import filled, template_of

_FLAT = re.compile(r"\{[^{}]{0,4000}\}")
_SCORES = (0, 1, 2)  # scores of helpfulness: of no use, of some, an answer
FORM: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "because": {"type": "string"},
                "label": {"type": "string", "enum": list(LABELLED)},
                "helpfulness": {"type": "integer", "enum": list(_SCORES)},
            },
            "required": ["because", "label", "helpfulness"],
            "additionalProperties": False,
        },
    },
}


def build(config: JudgeConfig) -> Judge:
    """Return the judge.

    Raises:
        UserError: Neither endpoint nor model is named, or the prompt file is unusable.
    """
    check_endpoint(config)
    template = template_of(config)

    def label(cases: Sequence[Case]) -> list[Verdict]:
        asked = [filled(template, case) for case in cases]
        return ask(asked, config, parsed, FORM if config.structured else None)

    return lambda cases: on_answered(cases, label)


def parsed(text: str) -> Verdict:
    """Return the verdict in a reply, or a judge error that quotes it.

    A judge may think aloud, or wrap its verdict in words: the last object with a known label is the
    verdict. Objects after its thoughts that disagree are an error.
    """
    found = [
        (label, one)
        for one in _objects(after_thoughts(text) or text)
        if (label := _label(one)) is not None
    ]
    if not found:
        return Verdict("judge_error", f"no verdict in the judge's reply: {text.strip()[:200]}")
    if len({label for label, _ in found}) > 1:
        return Verdict("judge_error", f"two verdicts in the judge's reply: {text.strip()[:200]}")
    label, last = found[-1]
    because, score = last.get("because"), last.get("helpfulness")
    return Verdict(
        label,
        because if isinstance(because, str) else "",
        helpful=score if type(score) is int and score in _SCORES else None,
    )


def _label(said: dict[str, Any]) -> Label | None:
    """Return the label of an object, in whatever case and with blanks or dashes for ``_``."""
    label = said.get("label")
    spelled = re.sub(r"[\s-]+", "_", label.strip().lower()) if isinstance(label, str) else ""
    return next((known for known in LABELLED if known == spelled), None)


def after_thoughts(text: str) -> str:
    """Return what follows the last think block of a reply."""
    for _, closed in MARKERS:
        text = text.rpartition(closed)[2]
    return text


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects in a text, nested ones too.

    They are JSON, or what Python writes in its place: with single quotes.
    """
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            found, end = _python_object(text, at)
        yield from _dicts(found)
        at = text.find("{", end)


def _python_object(text: str, at: int) -> tuple[Any, int]:
    """Return the flat object that begins at a place as Python would write it, and where it ends."""
    written = _FLAT.match(text, at)
    if written is not None:
        try:
            return ast.literal_eval(written[0]), written.end()
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    return None, at + 1


def _dicts(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        yield found
    if isinstance(found, dict | list):
        for part in found.values() if isinstance(found, dict) else found:
            yield from _dicts(part)
