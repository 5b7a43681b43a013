"""Objectives: functions from model and batch to a loss and numbers worth logging."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tbr_lightning.data.batching import Batch
from tbr_lightning.data.example import KINDS
from tbr_lightning.data.layout import Span

# Architectures that change logits after the output projection: theirs must come from the model.
_POST_PROJECTION = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def sft(model: Any, batch: Batch) -> tuple[Tensor, dict[str, tuple[float, float]]]:
    """Return the weighted negative log-likelihood of the supervised tokens.

    The loss is the sum of the token losses, each times its weight, over the batch's normalizer.
    Logits are computed only where the next token is supervised, so their memory grows with
    reflections and answers, not with prompts.

    Returns:
        The loss, and for each part of the data (``general``, ``harmful/reflection``, …, and
        ``trigger/KIND``, the probability of the right first token) a pair (sum, count).

    Source:
        The loss that we assume for Think-Before-Refusal (arXiv 2503.17882).
    """
    targets, weights = batch.input_ids[:, 1:], batch.weights[:, 1:]
    chosen = weights > 0
    logits = _logits_at(model, batch, chosen)
    losses = functional.cross_entropy(logits.float(), targets[chosen], reduction="none")
    loss = (losses * weights[chosen]).sum() / batch.normalizer
    return loss, _parts(losses.detach(), batch, chosen)


def _logits_at(model: Any, batch: Batch, chosen: Tensor) -> Tensor:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if any(getattr(model.config, name, None) not in (None, 1.0) for name in _POST_PROJECTION):
        return model(**inputs, use_cache=False).logits[:, :-1][chosen]
    hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    return model.get_output_embeddings()(hidden[:, :-1][chosen])


def _parts(losses: Tensor, batch: Batch, chosen: Tensor) -> dict[str, tuple[float, float]]:
    spans = batch.spans[:, 1:][chosen]
    kinds = batch.kinds[:, None].expand_as(chosen)[chosen]
    positions = torch.arange(1, batch.input_ids.shape[1], device=chosen.device)
    first = (positions[None] == batch.triggers[:, None])[chosen]
    parts: dict[str, tuple[float, float]] = {}
    for number, kind in enumerate(KINDS):
        of_kind = kinds == number
        for span in (Span.REFLECTION, Span.ANSWER):
            picked = losses[of_kind & (spans == span)]
            if picked.numel():
                parts[f"loss/{kind}/{span.name.lower()}"] = (picked.sum().item(), picked.numel())
        picked = losses[of_kind & first]
        if picked.numel():
            parts[f"trigger/{kind}"] = (picked.neg().exp().sum().item(), picked.numel())
    return parts
