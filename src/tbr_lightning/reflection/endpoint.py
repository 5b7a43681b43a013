"""Requests to an OpenAI-compatible endpoint, several at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import openai

from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.errors import UserError

_RETRIES = 6


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool


def complete(prompts: Sequence[str], config: ReflectionConfig) -> Iterator[tuple[int, Reply]]:
    """Yield (number of the prompt, reply) as replies come in.

    Raises:
        UserError: The endpoint refuses the key, does not know the model, or does not answer.
    """
    client = openai.OpenAI(
        api_key=os.environ[config.api_key_env],
        base_url=config.base_url,
        timeout=config.timeout,
        max_retries=_RETRIES,
    )

    def ask(prompt: str) -> Reply:
        done = client.chat.completions.create(
            model=config.model or "",
            messages=[{"role": "user", "content": prompt}],
            temperature=config.temperature,
            max_tokens=config.max_new_tokens,
        )
        choice = done.choices[0]
        return Reply(
            choice.message.content or "",
            done.usage.prompt_tokens if done.usage else 0,
            done.usage.completion_tokens if done.usage else 0,
            choice.finish_reason == "length",
        )

    where = config.base_url or "the default endpoint"
    with ThreadPoolExecutor(config.concurrency) as pool:
        futures: dict[Future[Reply], int] = {pool.submit(ask, p): n for n, p in enumerate(prompts)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"{where} refused the key in {config.api_key_env}: give a valid one"
            ) from error
        except openai.NotFoundError as error:
            raise UserError(
                f"reflection.model='{config.model}' is not known at {where}: give another"
            ) from error
        except openai.APIConnectionError as error:
            raise UserError(
                f"reflection.base_url: {where} does not answer: start it or give another"
            ) from error
        except openai.APIStatusError as error:
            raise UserError(
                f"{where} answered {error.status_code} after {_RETRIES} retries: run again to go "
                "on from here"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
