"""Asking a judge behind an OpenAI-compatible endpoint: one request per case, one verdict each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.judges.base import Verdict

_GIVE_UP = 8  # failures in a row, after which the endpoint is taken to be down


def check_endpoint(config: JudgeConfig) -> None:
    """Refuse a judge for which neither endpoint nor model is named.

    Raises:
        UserError: Neither is named.
    """
    if config.endpoint.base_url is None and config.endpoint.model is None:
        raise UserError(
            "judge.endpoint.model is not set: name the judging model, e.g. "
            "judge.endpoint.model=gpt-4o, or an endpoint of one model: judge.endpoint.base_url=URL"
        )


def ask(
    prompts: Sequence[Any],
    config: JudgeConfig,
    parsed: Callable[[str], Verdict],
    reply_form: Any = None,
) -> list[Verdict]:
    """Return a verdict for each prompt; a failure is a judge error with the reason.

    Args:
        prompts: For each case a turn of the user, or whole messages.
        config: Config of the judge, with its endpoint.
        parsed: Makes a verdict of a reply.
        reply_form: ``response_format``, where the reply has a schema.
    """
    from tbr_lightning.models.endpoint import complete

    verdicts = [Verdict("judge_error", "not asked")] * len(prompts)
    try:
        for number, reply in complete(
            prompts,
            config.endpoint,
            max_tokens=config.max_new_tokens,
            temperature=config.temperature,
            group="judge.endpoint",
            reply_form=reply_form,
            give_up=_GIVE_UP,
        ):
            if problem := reply.error or reply.filtered:
                verdicts[number] = Verdict("judge_error", problem)
                continue
            # Some servers take the whole reply of a judge that reasons for its reasoning.
            said = reply.text if reply.text.strip() or reply.cut else reply.reasoning or ""
            found = parsed(said)
            if reply.cut and found.label == "judge_error":
                told = f"cut off at judge.max_new_tokens={config.max_new_tokens}: {found.because}"
                found = Verdict("judge_error", told)
            verdicts[number] = found
    except UserError as error:  # before the first request: the endpoint has no such model, say
        return [Verdict("judge_error", str(error))] * len(prompts)
    return verdicts
