"""Requests to an OpenAI-compatible endpoint: several at once, paced, within a budget."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import openai

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.credentials import hidden, shown_url
from tbr_lightning.errors import UserError
from tbr_lightning.models.endpoint_errors import (
    MalformedReplyError,
    explain,
    is_filter,
    refusal_of_prompt,
)
from tbr_lightning.preflight import is_local
from tbr_lightning.tracking.teacher_traces import traced_call

_MILLION = 1_000_000
_ALL_REFUSED = 8  # prompts refused in a row from the start: it is not the prompts
_FILTERED = {"content_filter", "safety", "refusal", "prohibited_content", "blocklist", "recitation"}
_TOO_LONG = re.compile(r"context.{0,20}(?:length|window|size)|too (?:large|long)|exceeds?\b", re.I)
_REASONING = ("reasoning_content", "reasoning")  # beside `content` in a message, by server
_CHARACTERS_PER_TOKEN = 4  # a guess before the endpoint has counted, for pacing only


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion.

    Attributes:
        text: Text of the completion, without reasoning where the endpoint returns that separately.
        prompt_tokens: Tokens read, as counted by the endpoint.
        completion_tokens: Tokens written.
        cut: Whether it ended at the length limit.
        error: Reason why there is no completion; only where failures are returned.
        filtered: Reason that the endpoint gave for refusing this prompt; else empty.
        reasoning: Reasoning before the text, where the endpoint has a field for it.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False
    error: str = ""
    filtered: str = ""
    reasoning: str | None = None

    def cost(self, config: EndpointConfig) -> float:
        """Return what the reply cost, in the currency of the prices."""
        return (
            self.prompt_tokens * config.prompt_price
            + self.completion_tokens * config.completion_price
        ) / _MILLION


@dataclass
class Pace:
    """Keeps a rate by waiting before a request that would exceed it.

    Attributes:
        per_minute: Units per minute; ``None`` for no limit.
    """

    per_minute: float | None
    _free_at: float = field(default=0.0, init=False)

    def wait(self, units: float = 1.0) -> None:
        """Wait until ``units`` more are within the rate."""
        if self.per_minute is None:
            return
        now = time.monotonic()
        if self._free_at > now:
            time.sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + 60 * units / self.per_minute


@dataclass
class RequestBudget:
    """The request budget of one run.

    Attributes:
        config: Limits and prices.
        group: Config group that holds them, for messages.
        started: Number of requests sent so far.
        cost: Cost of the replies so far.
    """

    config: EndpointConfig
    group: str
    started: int = 0
    cost: float = 0.0

    @property
    def spent(self) -> str:
        """Key and value of the limit that is reached, or an empty text."""
        most, cost = self.config.max_requests, self.config.max_cost
        if most is not None and self.started >= most:
            return f"{self.group}.max_requests={most}"
        return f"{self.group}.max_cost={cost}" if cost is not None and self.cost >= cost else ""


def complete(  # noqa: PLR0912, PLR0915 - one loop, whose cases are read best together
    prompts: Sequence[str | list[dict[str, str]]],
    config: EndpointConfig,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int | None = None,
    run_id: str | None = None,
    group: str = "endpoint",
    reply_form: Any = None,
    give_up: int = 0,
    budget: RequestBudget | None = None,
) -> Iterator[tuple[int, Reply]]:
    """Yield (number of the prompt, reply) as replies come in.

    At most ``concurrency`` requests are under way, so no more than those are lost by a kill. The
    client retries 429, 5xx and time-outs with exponential backoff and jitter, and honours
    ``Retry-After``.

    Args:
        prompts: Prompts, each a request of its own: a turn of the user, or whole messages.
        config: Endpoint, pace and budget.
        max_tokens: Token limit of each reply.
        temperature: Sampling temperature.
        seed: Seed sent along, so that a repeated request may get another reply.
        run_id: MLflow run that traces the first calls; ``None`` traces none.
        group: Key of ``config`` on the command line, for messages.
        reply_form: ``response_format`` of the requests; left out once the endpoint refuses it.
        give_up: 0 raises at the first failure. Else a failure is a reply with its ``error``, and
            after this many in a row, or once the budget is spent, the rest are not sent any more.
        budget: What earlier calls of this run have spent; ``None`` for a run of one call.

    Raises:
        UserError: The endpoint refuses the key, does not know the model, or does not answer, or
            the budget is spent. Every reply that came before was yielded.
    """
    client = _client(config, group)
    dialect = Dialect(temperature, max_tokens, reply_form)

    model = config.model or _only_model(client, config, group)

    def ask(number: int) -> Reply:
        asked = prompts[number]
        messages = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
        traced = run_id if number < config.traces else None
        with traced_call(messages, model, traced) as record:
            try:
                done = _created(client, messages, model, seed=seed, dialect=dialect)
            except ValueError as error:  # raised for a body that is not JSON
                raise MalformedReplyError from error
            reply = _reply(done)
            record(reply.text)
        return reply

    requests, tokens = Pace(config.requests_per_minute), Pace(config.tokens_per_minute)
    budget, todo = budget or RequestBudget(config, group), deque(range(len(prompts)))
    failed, last = 0, ""
    held: list[tuple[int, Reply]] = []  # refused before any was understood: it may be all of them
    understood = False
    under_way: dict[Future[Reply], int] = {}
    pool = ThreadPoolExecutor(config.concurrency)
    try:
        while under_way or (todo and not budget.spent):
            if give_up and failed >= give_up:
                break
            while todo and len(under_way) < config.concurrency and not budget.spent:
                number = todo.popleft()
                requests.wait()
                tokens.wait(_characters(prompts[number]) / _CHARACTERS_PER_TOKEN + max_tokens)
                under_way[pool.submit(ask, number)] = number
                budget.started += 1
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                number, problem = under_way.pop(future), future.exception()
                if give_up and isinstance(problem, openai.OpenAIError):
                    failed, last = failed + 1, explain(problem, config, group)
                    yield number, Reply("", error=last)
                    continue
                words = refusal_of_prompt(problem)
                filtered = isinstance(problem, openai.APIStatusError) and is_filter(problem)
                if words and (filtered or understood):
                    yield number, Reply("", filtered=words)
                    continue
                if words and len(held) < _ALL_REFUSED:
                    held.append((number, Reply("", filtered=words)))
                    continue
                failed, reply, understood = 0, future.result(), True
                yield from held
                held.clear()
                budget.cost += reply.cost(config)
                yield number, reply
    except openai.OpenAIError as error:
        # What others have answered meanwhile is paid for.
        for future in wait(under_way).done:
            if future.exception() is None:
                yield under_way[future], future.result()
        raise UserError(explain(error, config, group)) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    yield from held
    if give_up:
        reason = last if failed >= give_up else f"{budget.spent} is spent"
        for number in [*under_way.values(), *todo]:
            yield number, Reply("", error=f"not asked any more: {reason}")
        return
    if todo:
        raise UserError(
            f"{budget.spent} is spent after {budget.started} requests (cost {budget.cost:.4f}): "
            "raise it and run again for the rest"
        )


def _characters(asked: str | list[dict[str, str]]) -> int:
    """Return the length of what is asked, over all messages of a chat."""
    if isinstance(asked, str):
        return len(asked)
    return sum(len(str(message.get("content", ""))) for message in asked)


class Dialect:
    """The parameters that an endpoint accepts, found out once for a whole run.

    Newer endpoints refuse ``max_tokens``, or any temperature but their own, and name what they
    refuse; older ones do not know ``response_format``.
    """

    def __init__(self, temperature: float, max_tokens: int, reply_form: Any) -> None:
        self.parameters: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        if reply_form is not None:
            self.parameters["response_format"] = reply_form
        self.without: set[str] = set()

    def of(self, seed: int | None) -> dict[str, Any]:
        """Return the parameters of a request."""
        found = self.parameters if seed is None else {**self.parameters, "seed": seed}
        return {name: value for name, value in found.items() if name not in self.without}

    def learns(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Leave out, or rename, what an endpoint refused; return whether to try again."""
        named = str(getattr(error, "param", "") or "")
        told = f"{named} {error.message}"
        if _TOO_LONG.search(told):
            return False  # it is this prompt that is too long, not the parameter that is unknown
        for name in ("max_tokens", "max_completion_tokens", "temperature", "seed"):
            if name in sent and re.search(rf"\b{name}\b", told):
                if name == "max_tokens":
                    self.parameters["max_completion_tokens"] = self.parameters["max_tokens"]
                self.without.add(name)
                return True
        if "response_format" in sent and named in ("", "response_format"):
            self.without.add("response_format")
            return True
        return any(name in self.without for name in sent)  # another thread has found it out


def _created(
    client: openai.OpenAI,
    messages: Any,
    model: str,
    *,
    seed: int | None,
    dialect: Dialect,
) -> Any:
    """Send a request, and again without the parameters that the endpoint refuses."""
    while True:
        sent = dialect.of(seed)
        try:
            return client.chat.completions.create(model=model, messages=messages, **sent)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if is_filter(error) or not dialect.learns(error, sent):
                raise


def _key(config: EndpointConfig, group: str) -> str | None:
    """Return the endpoint's key; raise :class:`UserError` where it would go unencrypted."""
    key, parts = os.environ.get(config.api_key_env), urlsplit(config.base_url or "")
    if (key or parts.password) and parts.scheme == "http" and not is_local(config.base_url):
        what = f"the key in {config.api_key_env}" if key else "a password"
        raise UserError(
            f"{group}.base_url={shown_url(config.base_url or '')} would send {what} unencrypted: "
            "give an https address, or a loopback one of a tunnel; for an endpoint that asks for "
            f"no key give {group}.api_key_env=NONE"
        )
    return key


def with_model(config: EndpointConfig, group: str) -> EndpointConfig:
    """Return the config of an endpoint with the name of its only model, where none was given.

    Raises:
        UserError: It does not answer, or has several.
    """
    if config.model is not None or config.base_url is None:
        return config
    return replace(config, model=_only_model(_client(config, group), config, group))


def _client(config: EndpointConfig, group: str) -> openai.OpenAI:
    http = None
    if is_local(config.base_url):  # a proxy would look for it on a machine of its own
        http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(
        http_client=http,
        # A local endpoint commonly asks for no key; the client wants one all the same.
        api_key=_key(config, group) or "none",
        base_url=config.base_url,
        timeout=config.timeout,
        max_retries=config.retries,
    )


def _only_model(client: openai.OpenAI, config: EndpointConfig, group: str) -> str:
    """Return the name of the one model that the endpoint has."""
    try:
        names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        raise UserError(explain(error, config, group)) from error
    if len(names) == 1:
        return names[0]
    known = f" ({', '.join(names[:8])})" if names else ""
    raise UserError(
        f"{group}.model is not set, and {shown_url(config.base_url or '')} has {len(names)} "
        f"models{known}: name one"
    )


def _reply(done: Any) -> Reply:
    try:
        choice, usage = done.choices[0], done.usage
        message = choice.message
        text = message.content or ""
        fields = [getattr(message, name, None) for name in _REASONING]
        reasoning = next((found for found in fields if found), None)
        if not isinstance(text, str) or not isinstance(reasoning, str | None):
            raise MalformedReplyError
        return Reply(
            text,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
            choice.finish_reason == "length",
            filtered=_filtered(choice),
            reasoning=reasoning,
        )
    except (AttributeError, IndexError, TypeError) as error:
        raise MalformedReplyError from error


def _filtered(choice: Any) -> str:
    """Return why a reply was withheld, as its reason to finish or its refusal says."""
    reason = str(choice.finish_reason or "").lower()
    refusal = getattr(choice.message, "refusal", None)
    if isinstance(refusal, str) and refusal and not choice.message.content:
        return hidden(refusal)
    return f"finish_reason {reason}" if reason in _FILTERED else ""
