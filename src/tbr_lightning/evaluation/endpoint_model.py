"""A model behind an OpenAI-compatible endpoint, evaluated like one whose weights are here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from tbr_lightning.config.endpoint import EndpointConfig
from tbr_lightning.config.verbs import GenerationConfig
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.data.thoughts import without_thought
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.store import ResponseStore
from tbr_lightning.models.generation import Generated
from tbr_lightning.preflight import is_local

if TYPE_CHECKING:
    from tbr_lightning.models.endpoint import RequestBudget

PREFIX = "openai:"
"""What ``model=`` of ``evaluate`` begins with for such a model."""


@dataclass(frozen=True)
class HostedModel:
    """A model at an endpoint.

    Attributes:
        endpoint: Address, model name, pace and budget of the endpoint.
        think_format: Format with the cue of the prompted arm and the token limit.
    """

    endpoint: EndpointConfig
    think_format: ThinkFormat = field(default_factory=ThinkFormat)

    @property
    def origin(self) -> str:
        """Identity of the model, as far as an endpoint has one: the name and the address."""
        return f"{PREFIX}{self.endpoint.identity}"

    @cached_property
    def _budget(self) -> RequestBudget:
        """What all repeats of an evaluation may spend together."""
        from tbr_lightning.models.endpoint import RequestBudget

        return RequestBudget(self.endpoint, "endpoint")

    def answers(
        self,
        chats: Sequence[list[dict[str, str]]],
        generation: GenerationConfig,
        store: ResponseStore | None,
    ) -> Iterator[tuple[int, Generated]]:
        """Yield (number of the prompt, response), stored ones first, each one once.

        Each is in the store as soon as it is there, so that a run that was killed, or whose budget
        was spent, resumes where it was.

        Raises:
            UserError: The endpoint refuses the key, does not know the model, or does not answer,
                or the budget is spent.
        """
        settings = (
            generation.max_new_tokens or self.think_format.max_new_tokens,
            generation.temperature,
            generation.seed if generation.temperature else None,
        )
        if store is None:
            yield from self._asked(chats, *settings)
            return
        said = [[part for turn in chat for part in turn.values()] for chat in chats]
        yield from store.through(
            [store.key(parts, settings) for parts in said],
            lambda missing: self._asked([chats[n] for n in missing], *settings),
        )

    def _asked(
        self,
        chats: Sequence[list[dict[str, str]]],
        max_tokens: int,
        temperature: float,
        seed: int | None,
    ) -> Iterator[tuple[int, Generated]]:
        from tbr_lightning.models.endpoint import complete

        replies = complete(
            chats,
            self.endpoint,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            budget=self._budget,
        )
        for number, reply in replies:
            yield (
                number,
                Generated(
                    reply.text,
                    reply.completion_tokens,
                    reply.cut,
                    reply.reasoning,
                    reply.filtered,
                ),
            )


def hosted_model(name: str, endpoint: EndpointConfig, arm: str) -> HostedModel:
    """Return the model that ``openai:NAME`` names.

    Raises:
        UserError: There is no name or no key, or the arm needs the weights.
    """
    model = name.removeprefix(PREFIX)
    if not model:
        raise UserError("model='openai:' names no model: give openai:NAME")
    if arm not in ("trained", "prompted"):
        raise UserError(
            f"generation.arm={arm} prefills the response, which model='{name}' does not support: "
            "use trained or prompted"
        )
    if not os.environ.get(endpoint.api_key_env) and not is_local(endpoint.base_url):
        raise UserError(
            f"the environment has no {endpoint.api_key_env} for model='{name}': export it, name "
            "another variable with endpoint.api_key_env, or give a local endpoint with base_url=URL"
        )
    return HostedModel(replace(endpoint, model=model))


def split(response: Generated) -> tuple[str | None, str]:
    """Return reflection (``None`` if there is none) and answer of an endpoint's reply.

    Its own field comes first. Else the markers of published models are looked for.
    """
    text = response.text.strip()
    if response.reasoning is not None:
        return response.reasoning.strip(), text
    answer, thought = without_thought(text)
    return thought, answer
