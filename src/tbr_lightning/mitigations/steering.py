"""Conditional activation steering: against refusal where a prompt looks harmless to the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tbr_lightning.data.cache import content_key
from tbr_lightning.errors import UserError, at_least, within
from tbr_lightning.evaluation.suites import digest
from tbr_lightning.mitigations.directions import (
    at_depth,
    check_enough,
    dev_prompts,
    difference,
    last_states,
    layers_of,
    states_of,
)
from tbr_lightning.mitigations.mitigation import Mitigation
from tbr_lightning.models.decoding import Guidance

if TYPE_CHECKING:
    from tbr_lightning.config.verbs import EvaluateConfig
    from tbr_lightning.models.backbone import Backbone


@dataclass
class Steering(Mitigation):
    """Moves hidden states from harmful to harmless where a prompt is taken to be harmless.

    Source:
        Cao et al., 2025 (AAAI), arXiv 2408.11491 (SCANS: harmful minus harmless at the last token,
        subtracted in the middle blocks for prompts taken to be safe, added for others); Lee et
        al., 2025 (ICLR), arXiv 2409.05907 (CAST: the condition is a projection and a threshold).
        SCANS scales unit vectors by 3.5; here the unit is the difference of the means itself, which
        is the same share of the stream in every block and model.
    """

    _target_: str = "tbr_lightning.mitigations.steering.Steering"
    name: str = "steering"
    strength: float = 0.5  # in differences of the means; 0 changes nothing
    strength_harmful: float = 0.0  # the same towards harmful, for prompts that look harmful
    first: float = 0.3  # where the steered blocks begin, as a share of the depth
    last: float = 0.6  # where the steered blocks end, as a share of the depth
    condition_depth: float = 0.7  # where harmful and harmless prompts are distinguished, likewise
    prompts: int = 128  # maximum number of dev prompts of each kind
    fewest: int = 8  # minimum number of dev prompts of each kind

    uses_dev: ClassVar[bool] = True
    unservable: ClassVar[str] = (
        "changes hidden states prompt by prompt in our own loop, which no serving engine does: it "
        "can be evaluated, not kept or served"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("strength", "strength_harmful"):
            within(f"mitigation.{name}", getattr(self, name), 0, 10)
        for name in ("first", "last", "condition_depth"):
            within(f"mitigation.{name}", getattr(self, name), 0, 1)
        if self.first > self.last:
            raise UserError(
                f"mitigation.first={self.first} is above mitigation.last={self.last}: swap them"
            )
        for name in ("prompts", "fewest"):
            at_least(f"mitigation.{name}", getattr(self, name), 1)

    def check(self, config: EvaluateConfig) -> None:
        """Refuse engines and suites that give no direction."""
        super().check(config)
        dev_prompts(self.name, config, self.prompts, self.fewest)

    def apply(self, backbone: Backbone, config: EvaluateConfig) -> Backbone:
        """Return the model steered by directions and a threshold of the dev prompts."""
        if not self.strength and not self.strength_harmful:
            return backbone
        prompts = dev_prompts(self.name, config, self.prompts, self.fewest)
        harmful = [prompt for prompt in prompts if prompt.kind == "harmful"]
        harmless = [prompt for prompt in prompts if prompt.kind != "harmful"]
        check_enough(self.name, len(harmless), self.fewest, "harmless dev prompts")
        bad, good = (last_states(backbone, config, part) for part in (harmful, harmless))
        block = at_depth(backbone.model, self.condition_depth)
        condition = difference(bad[:, block], good[:, block])
        scores = (bad[:, block] @ condition, good[:, block] @ condition)
        first, last = (at_depth(backbone.model, share) for share in (self.first, self.last))
        towards = difference(bad, good)
        guide = Steered(
            name=self.name,
            # Other dev prompts give other directions, and by that other answers.
            identity=content_key(self.identity, digest(prompts)),
            pad=backbone.tokenizer.pad_token_id,
            block=block,
            condition=condition,
            threshold=best_threshold(*scores),
            directions={n: towards[n] for n in range(first, last + 1)},
            strengths=(self.strength, self.strength_harmful),
        )
        return replace(backbone, guide=guide)


def best_threshold(harmful: Tensor, harmless: Tensor) -> float:
    """Return the threshold of best balanced accuracy between two groups; of several the middle one.

    Args:
        harmful: Scores of one group, meant to be higher, shape ``(prompts,)``.
        harmless: Scores of the other group.
    """
    values = torch.cat([harmful, harmless]).unique()
    between = torch.cat([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
    right = (harmful[None] > between[:, None]).float().mean(1)
    right += (harmless[None] <= between[:, None]).float().mean(1)
    best = (right >= right.max() - 1e-6).nonzero()[:, 0]
    return float(between[best[len(best) // 2]])


@dataclass(frozen=True, eq=False)
class Steered:
    """The guide that steers: what :class:`Steering` found on the dev prompts."""

    name: str
    identity: str
    pad: int
    block: int
    condition: Tensor
    threshold: float
    directions: dict[int, Tensor]
    strengths: tuple[float, float]

    @contextmanager
    def __call__(self, model: Any, prompts: Sequence[Sequence[int]]) -> Iterator[Guidance]:
        """Steer the blocks while these prompts are decoded."""
        scores = states_of(model, prompts, self.pad)[:, self.block] @ self.condition
        harmless, harmful = self.strengths
        each = torch.where(scores > self.threshold, harmful, -harmless)
        now = torch.zeros(0)

        def watch(numbers: Sequence[int]) -> None:
            nonlocal now
            now = each[list(numbers)].to(model.device, model.dtype)[:, None, None]

        def hook(direction: Tensor) -> Any:
            moved = direction.to(model.device, model.dtype)

            def add(_: Any, __: Any, output: Any) -> Any:
                states = output[0] if isinstance(output, tuple) else output
                states = states + now * moved
                return (states, *output[1:]) if isinstance(output, tuple) else states

            return add

        blocks = layers_of(model)
        handles = [blocks[n - 1].register_forward_hook(hook(d)) for n, d in self.directions.items()]
        try:
            yield Guidance(watch=watch)
        finally:
            for handle in handles:
                handle.remove()
