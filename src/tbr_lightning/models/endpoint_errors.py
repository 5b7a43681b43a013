"""What an endpoint's errors mean: a fault of one prompt, of the setting, or of the endpoint."""

from __future__ import annotations

import os
import re

import openai

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.credentials import hidden, shown_url
from tbr_lightning.preflight import is_local

_OF_PROMPT = (413, 451)  # too long, and unavailable for legal reasons: of one prompt alone


class MalformedReplyError(openai.OpenAIError):
    """The endpoint sent something that is not a chat completion."""


def is_filter(error: openai.APIStatusError) -> bool:
    """Return whether an endpoint's filter refused a prompt, by code, type or message."""
    body = error.body if isinstance(error.body, dict) else {}
    told = f"{error.message} {body.get('code', '')} {body.get('type', '')}".lower()
    return re.search(r"filter|content.{0,3}policy|safety|moderation|prohibited", told) is not None


def refusal_of_prompt(problem: BaseException | None) -> str:
    """Return why an endpoint refuses one prompt; empty where the fault is not the prompt's."""
    if isinstance(problem, openai.BadRequestError | openai.UnprocessableEntityError):
        return hidden(problem.message)
    if isinstance(problem, openai.PermissionDeniedError) and is_filter(problem):
        return hidden(problem.message)
    if isinstance(problem, openai.APIStatusError) and problem.status_code in _OF_PROMPT:
        return hidden(problem.message)
    return ""


def explain(error: openai.OpenAIError, config: EndpointConfig, group: str) -> str:
    """Return an endpoint's error in one sentence: what happened, and what to change.

    Args:
        error: Error that the client raised.
        config: Endpoint that was asked.
        group: Key of ``config`` on the command line.
    """
    where = shown_url(config.base_url) if config.base_url else "the default endpoint"
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return f"{where} refused the key in {config.api_key_env}: give a valid one"
    if isinstance(error, openai.NotFoundError):
        return f"{group}.model='{config.model}' is not known at {where}: give another"
    if isinstance(error, openai.APITimeoutError):
        return (
            f"{where} did not answer within {group}.timeout={config.timeout} s in "
            f"{config.retries + 1} tries: raise it, or run again to go on from here"
        )
    if isinstance(error, openai.APIConnectionError):
        proxy = "" if is_local(config.base_url) else _proxy()
        return f"{group}.base_url: {where} does not answer{proxy}: start it or give another"
    if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
        return (
            f"{where} refuses every request ({error.status_code}: {hidden(error.message)[:200]}): "
            f"change {group}.model or the setting that it names"
        )
    if isinstance(error, openai.APIStatusError):
        return (
            f"{where} answered {error.status_code} after {config.retries + 1} tries: run again to "
            "go on from here"
        )
    return (
        f"{where} sent something that is not a chat completion: check that it is OpenAI-compatible"
    )


def _proxy() -> str:
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    found = next((name for name in names if os.environ.get(name)), None)
    return f" through the proxy {hidden(os.environ[found])} of {found}" if found else ""
