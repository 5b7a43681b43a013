"""A judge behind any OpenAI-compatible endpoint, which answers in JSON.

The schema is sent along where the endpoint takes one, and the reply is parsed strictly all the
same: what is not one object with a known label is a judge error, never a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.data.think_format import MARKERS
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.judges.base import LABELLED, Case, Judge, Verdict, on_answered
from tbr_lightning.evaluation.judges.prompts import filled, template_of

_GIVE_UP = 8  # failures in a row, after which the endpoint is taken to be down

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
            },
            "required": ["because", "label"],
            "additionalProperties": False,
        },
    },
}


def build(config: JudgeConfig) -> Judge:
    """Return the judge.

    Raises:
        UserError: Neither endpoint nor model is named, or the prompt file will not do.
    """
    if config.endpoint.base_url is None and config.endpoint.model is None:
        raise UserError(
            "judge.endpoint.model is not set: name the judging model, e.g. "
            "judge.endpoint.model=gpt-4o, or an endpoint of one model: judge.endpoint.base_url=URL"
        )
    template = template_of(config)

    def label(cases: Sequence[Case]) -> list[Verdict]:
        from tbr_lightning.models.endpoint import complete

        verdicts = [Verdict("judge_error", "not asked")] * len(cases)
        asked = [filled(template, case) for case in cases]
        try:
            for number, reply in complete(
                asked,
                config.endpoint,
                max_tokens=config.max_new_tokens,
                temperature=config.temperature,
                group="judge.endpoint",
                reply_form=FORM if config.structured else None,
                give_up=_GIVE_UP,
            ):
                problem = reply.error or reply.filtered
                verdicts[number] = (
                    Verdict("judge_error", problem) if problem else parsed(reply.text)
                )
        except UserError as error:  # before the first request: the endpoint has no such model, say
            return [Verdict("judge_error", str(error))] * len(cases)
        return verdicts

    return lambda cases: on_answered(cases, label)


def parsed(text: str) -> Verdict:
    """Return the verdict in a reply, or a judge error that quotes it.

    A judge may think aloud, or wrap its verdict in words: the last object with a known label is the
    verdict. Objects after its thoughts that disagree are an error.
    """
    said = text
    for _, closed in MARKERS:
        said = said.rpartition(closed)[2]
    found = [one for one in _objects(said or text) if one.get("label") in LABELLED]
    if not found:
        return Verdict("judge_error", f"no verdict in the judge's reply: {text.strip()[:200]}")
    if len({one["label"] for one in found}) > 1:
        return Verdict("judge_error", f"two verdicts in the judge's reply: {text.strip()[:200]}")
    because = found[-1].get("because")
    return Verdict(found[-1]["label"], because if isinstance(because, str) else "")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Give the JSON objects that stand in a text."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            end = at + 1
        else:
            if isinstance(found, dict):
                yield found
        at = text.find("{", end)
