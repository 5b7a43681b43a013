"""A micro-batch as an objective gets it, and the weights of its losses."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tbr_lightning.kinds import KINDS

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class Batch:
    """The sequences of a micro-batch, one below the other with padding on the right, or packed.

    Packed sequences follow each other in a single line without any padding. Their positions
    start anew with each, and from that every attention kernel of transformers keeps them apart.

    Attributes:
        input_ids: Shape ``(lines, tokens)``.
        attention_mask: Shape ``(lines, tokens)``, 1 where a token is real; ``None`` when packed.
        position_ids: Shape ``(lines, tokens)`` when packed, else ``None``.
        weights: Shape ``(lines, tokens)``, loss weight of predicting that token; 0 for prompts.
        spans: Shape ``(lines, tokens)``, see :class:`tbr_lightning.data.think_format.Span`.
        kinds: Shape ``(lines, tokens)``, index into :data:`tbr_lightning.kinds.KINDS`.
        triggers: Shape ``(lines, tokens)``, true at each sequence's first supervised token.
        sequences: Shape ``(lines, tokens)``, which sequence of the batch a token belongs to.
        step_weight: Divisor of the sum of the losses: the weight of the whole optimizer
            step, over all micro-batches and ranks.
        real_tokens: Number of tokens that are neither padding nor of a row that only fills a place.
        scale: 1, or 0 for a batch that only fills a rank's place.
        chunks: Parts in which the logits are computed. The same on all ranks at the same time, for
            where each holds a part of the weights they all gather them once for each chunk.
        reference: Shape ``(sequences, …)``, values that the objective computed before training.
        sides: Shape ``(sequences,)``, index of each sequence among those of its row.
        shared: Data that the micro-batches of a step share, see :meth:`Objective.shared`.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    weights: Tensor
    spans: Tensor
    kinds: Tensor
    triggers: Tensor
    sequences: Tensor
    step_weight: float
    real_tokens: int
    scale: float = 1.0
    chunks: int = 1
    reference: Tensor | None = None
    sides: Tensor | None = None
    shared: Any = None

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device."""
        tensors = {
            item.name: value.to(device)
            for item in fields(self)
            if hasattr(value := getattr(self, item.name), "device")
        }
        return replace(self, **tensors)


@dataclass(frozen=True)
class StepWeights:
    """The weights of the losses of one optimizer step against each other.

    Attributes:
        divisor: Divisor of the sum of all losses.
        by_kind: Loss factor of each of :data:`tbr_lightning.kinds.KINDS`.
    """

    divisor: float
    by_kind: tuple[float, ...] = (1.0,) * len(KINDS)
