"""Objectives: functions from model and batch to a loss and numbers worth logging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tbr_lightning.data.batching import Batch
from tbr_lightning.data.think_format import Span
from tbr_lightning.kinds import KINDS
from tbr_lightning.models.row_attention import decode_packed

PARTS = (
    *(f"loss/{kind}/{span}" for kind in KINDS for span in ("reflection", "answer")),
    *(f"trigger/{kind}" for kind in KINDS),
)
"""What is told apart while training: the mean loss of each span, and the probability of the right
first token, which decides whether the model reflects at all."""


@dataclass(frozen=True)
class Outcome:
    """What an objective returns for one micro-batch.

    Attributes:
        total: Weighted sum of the token losses, a scalar with its graph.
        parts: Shape ``(len(PARTS), 2)``: sum and count of each of :data:`PARTS`, detached.
    """

    total: Tensor
    parts: Tensor


def sft(model: Any, batch: Batch) -> Outcome:
    """Return the weighted negative log-likelihood of the supervised tokens.

    Logits are computed only where the next token is supervised, and in chunks that backward
    computes again, so their memory grows neither with prompts nor with the batch.

    Source:
        The loss that we assume for Think-Before-Refusal (arXiv 2503.17882).
    """
    targets, weights = batch.input_ids[:, 1:], batch.weights[:, 1:]
    # A batch that only fills a rank's place has no weight anywhere, and no position to look at.
    chosen = weights > 0
    hidden = decode(model, batch)[:, :-1][chosen]
    losses = _token_losses(model, hidden, targets[chosen], batch.chunks)
    total = (losses * weights[chosen]).sum()
    return Outcome(total, _parts(losses.detach(), batch, chosen))


def decode(model: Any, batch: Batch) -> Tensor:
    """Return the last hidden states, shape ``(lines, tokens, width)``."""
    if batch.position_ids is not None:
        return decode_packed(model, batch.input_ids, batch.position_ids)
    states: Tensor = model.get_decoder()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    return states


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Return float32 logits of hidden states, with what an architecture does after projecting."""
    config = model.config
    logits = model.get_output_embeddings()(hidden).float()
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = torch.tanh(logits / cap) * cap
    return logits


def _token_losses(model: Any, hidden: Tensor, targets: Tensor, chunks: int) -> Tensor:
    def losses(states: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(logits_of(model, states), wanted, reduction="none")

    if chunks == 1:
        return losses(hidden, targets)
    pieces = zip(hidden.tensor_split(chunks), targets.tensor_split(chunks), strict=True)
    return torch.cat([checkpoint(losses, a, b, use_reentrant=False) for a, b in pieces])


def _parts(losses: Tensor, batch: Batch, chosen: Tensor) -> Tensor:
    kinds, spans = batch.kinds[:, 1:][chosen], batch.spans[:, 1:][chosen]
    first = batch.triggers[:, 1:][chosen]
    sums = torch.zeros(len(PARTS), 2, dtype=torch.float64, device=losses.device)
    values = torch.stack([losses.double(), torch.ones_like(losses, dtype=torch.float64)], dim=1)
    sums.index_add_(0, kinds * 2 + (spans - int(Span.REFLECTION)), values)
    certainty = torch.stack([losses.double().neg().exp(), values[:, 1]], dim=1)
    sums.index_add_(0, 2 * len(KINDS) + kinds[first], certainty[first])
    return sums
