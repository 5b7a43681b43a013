"""Logits of hidden states, by the model's own forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Return float32 logits of hidden states, with all that an architecture does to them.

    Architectures scale their logits, cap them, or keep the cap in a part of a larger config. The
    model's own ``forward`` knows; it is run on states that are there already, in place of its
    decoder's.

    Args:
        model: A causal language model, maybe with a PEFT adapter.
        hidden: Last hidden states, shape ``(positions, width)``.

    Returns:
        Shape ``(positions, vocabulary)``.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    tokens = torch.zeros(1, hidden.shape[0], dtype=torch.long, device=hidden.device)
    with _decoded(base, hidden[None]):
        # Not through ``__call__``: hooks around the whole model are for whole passes.
        logits: Tensor = base.forward(input_ids=tokens, use_cache=False).logits
    return logits[0].float()


class _States:
    """The output of a decoder, reduced to its last hidden states."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getitem__(self, index: int) -> Tensor | None:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        return None


@contextmanager
def _decoded(model: Any, states: Tensor) -> Iterator[None]:
    """Let a model's decoder return states instead of computing them."""
    decoder = getattr(model, model.base_model_prefix)
    compiled, decoder._compiled_call_impl = decoder._compiled_call_impl, None
    decoder.forward = lambda *_, **__: _States(states)
    try:
        yield
    finally:
        del decoder.forward
        decoder._compiled_call_impl = compiled
