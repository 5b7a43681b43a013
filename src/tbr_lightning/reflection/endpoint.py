"""Requests to an OpenAI-compatible endpoint: several at once, paced, within a budget."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

import openai

from tbr_lightning.errors import UserError
from tbr_lightning.tracking.traces import traced_call

_RETRIES = 6
_MILLION = 1_000_000
_CHARACTERS_PER_TOKEN = 4  # a guess before the endpoint has counted, for pacing only


class Asking(Protocol):
    """What a config says about an endpoint; those of teachers and of judges both do."""

    base_url: str | None
    model: str | None
    api_key_env: str
    temperature: float
    max_new_tokens: int
    concurrency: int
    timeout: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_requests: int | None
    max_cost: float | None
    prompt_price: float
    completion_price: float
    traces: int


class MalformedReplyError(openai.OpenAIError):
    """The endpoint sent what is no chat completion."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion.

    Attributes:
        text: What was written.
        prompt_tokens: Tokens read, as the endpoint counts.
        completion_tokens: Tokens written.
        cut: It ended by length.
        error: Why there is no completion; only where failures are handed out.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False
    error: str = ""

    def cost(self, config: Asking) -> float:
        """Return what the reply cost, in the currency of the prices."""
        return (
            self.prompt_tokens * config.prompt_price
            + self.completion_tokens * config.completion_price
        ) / _MILLION


@dataclass
class Pace:
    """Keeps a rate by waiting before what would exceed it.

    Attributes:
        per_minute: Units a minute; ``None`` for no limit.
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
class Budget:
    """What one run may still ask for.

    Attributes:
        config: Limits and prices.
        group: Config group that holds them, for messages.
        started: Requests sent so far.
        cost: Of the replies so far.
    """

    config: Asking
    group: str = "reflection"
    started: int = 0
    cost: float = 0.0

    @property
    def spent(self) -> str:
        """The limit that is reached, as its key and value, or an empty text."""
        most, cost = self.config.max_requests, self.config.max_cost
        if most is not None and self.started >= most:
            return f"{self.group}.max_requests={most}"
        return f"{self.group}.max_cost={cost}" if cost is not None and self.cost >= cost else ""


def complete(
    prompts: Sequence[str],
    config: Asking,
    *,
    seed: int | None = None,
    run_id: str | None = None,
    group: str = "reflection",
    reply_form: Any = None,
    retries: int = _RETRIES,
    give_up: int = 0,
) -> Iterator[tuple[int, Reply]]:
    """Yield (number of the prompt, reply) as replies come in.

    At most ``concurrency`` requests are under way, so no more than those are lost by a kill. The
    client retries 429, 5xx and time-outs with exponential backoff and jitter, and honours
    ``Retry-After``.

    Args:
        prompts: What to ask, each a request of its own.
        config: Endpoint, pace and budget.
        seed: Sent along, so that a repeated request may get another reply.
        run_id: MLflow run that the first calls are traced in; ``None`` traces none.
        group: Config group of ``config``, for messages.
        reply_form: ``response_format``; left out from then on if the endpoint refuses it.
        retries: Of each request.
        give_up: 0 raises at the first failure. Else a failure is a reply with its ``error``, and
            after so many in a row, or once the budget is spent, the rest are not asked any more.

    Raises:
        UserError: The endpoint refuses the key, does not know the model, or does not answer, or
            the budget is spent. Every reply that came before was yielded.
    """
    client = openai.OpenAI(
        # A local endpoint commonly asks for no key; the client wants one all the same.
        api_key=os.environ.get(config.api_key_env) or "none",
        base_url=config.base_url,
        timeout=config.timeout,
        max_retries=retries,
    )
    forms = [openai.omit if reply_form is None else reply_form]

    model = config.model or _only_model(client, config, group, retries)

    def ask(number: int) -> Reply:
        messages = [{"role": "user", "content": prompts[number]}]
        traced = run_id if number < config.traces else None
        with traced_call(messages, model, traced) as record:
            try:
                done = _created(client, messages, model, config, seed=seed, forms=forms)
            except ValueError as error:  # a body that is no JSON comes through as such
                raise MalformedReplyError from error
            reply = _reply(done)
            record(reply.text)
        return reply

    requests, tokens = Pace(config.requests_per_minute), Pace(config.tokens_per_minute)
    budget, todo = Budget(config, group), deque(range(len(prompts)))
    failed, last = 0, ""
    under_way: dict[Future[Reply], int] = {}
    pool = ThreadPoolExecutor(config.concurrency)
    try:
        while under_way or (todo and not budget.spent):
            if give_up and failed >= give_up:
                break
            while todo and len(under_way) < config.concurrency and not budget.spent:
                number = todo.popleft()
                requests.wait()
                tokens.wait(len(prompts[number]) / _CHARACTERS_PER_TOKEN + config.max_new_tokens)
                under_way[pool.submit(ask, number)] = number
                budget.started += 1
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                number, problem = under_way.pop(future), future.exception()
                if give_up and isinstance(problem, openai.OpenAIError):
                    failed, last = failed + 1, _explain(problem, config, group, retries)
                    yield number, Reply("", error=last)
                    continue
                failed, reply = 0, future.result()
                budget.cost += reply.cost(config)
                yield number, reply
    except openai.OpenAIError as error:
        # What others have answered meanwhile is paid for.
        for future in wait(under_way).done:
            if future.exception() is None:
                yield under_way[future], future.result()
        raise UserError(_explain(error, config, group, retries)) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
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


def _created(
    client: openai.OpenAI,
    messages: Any,
    model: str,
    config: Asking,
    *,
    seed: int | None,
    forms: list[Any],
) -> Any:
    """Ask once; an endpoint that does not know the form of the reply is asked without it."""
    form = forms[-1]
    try:
        return client.chat.completions.create(
            model=model,
            messages=messages,
            temperature=config.temperature,
            max_tokens=config.max_new_tokens,
            seed=openai.omit if seed is None else seed,
            response_format=form,
        )
    except (openai.BadRequestError, openai.UnprocessableEntityError):
        if form is openai.omit:
            raise
        forms.append(openai.omit)
        return _created(client, messages, model, config, seed=seed, forms=forms)


def _only_model(client: openai.OpenAI, config: Asking, group: str, retries: int) -> str:
    """Return the name of the one model that the endpoint has."""
    try:
        names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        raise UserError(_explain(error, config, group, retries)) from error
    if len(names) == 1:
        return names[0]
    known = f" ({', '.join(names[:8])})" if names else ""
    raise UserError(
        f"{group}.model is not set, and {config.base_url} has {len(names)} models{known}: name one"
    )


def _reply(done: Any) -> Reply:
    try:
        choice, usage = done.choices[0], done.usage
        return Reply(
            choice.message.content or "",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
            choice.finish_reason == "length",
        )
    except (AttributeError, IndexError, TypeError) as error:
        raise MalformedReplyError from error


def _explain(error: openai.OpenAIError, config: Asking, group: str, retries: int) -> str:
    where = config.base_url or "the default endpoint"
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return f"{where} refused the key in {config.api_key_env}: give a valid one"
    if isinstance(error, openai.NotFoundError):
        return f"{group}.model='{config.model}' is not known at {where}: give another"
    if isinstance(error, openai.APITimeoutError):
        return (
            f"{where} did not answer within {group}.timeout={config.timeout} s in "
            f"{retries + 1} tries: raise it, or run again to go on from here"
        )
    if isinstance(error, openai.APIConnectionError):
        return f"{group}.base_url: {where} does not answer: start it or give another"
    if isinstance(error, openai.APIStatusError):
        return (
            f"{where} answered {error.status_code} after {retries + 1} tries: run again to go on "
            "from here"
        )
    return f"{where} sent what is no chat completion: check that it is OpenAI-compatible"
