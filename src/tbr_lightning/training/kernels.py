"""Optional ways to the same numbers in less time or memory."""

from __future__ import annotations

from typing import Any

import torch

from tbr_lightning.config.schema import TrainerConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models import row_attention
from tbr_lightning.preflight import unpackable

_LEAK = 1e-3  # relative; rows that are kept apart differ by rounding at most


def prepare_kernels(model: Any, trainer: TrainerConfig) -> None:
    """Switch on gradient checkpointing, Liger kernels and compilation as configured."""
    if trainer.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if any(not p.requires_grad for p in model.parameters()):
            # With frozen embeddings nothing before the first adapter asks for a gradient.
            model.enable_input_require_grads()
    if trainer.liger:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        # The loss is ours already: it is computed at supervised positions only.
        _apply_liger_kernel_to_instance(
            model.get_base_model() if hasattr(model, "get_base_model") else model,
            fused_linear_cross_entropy=False,
            cross_entropy=False,
        )
    if trainer.compile:
        model.get_decoder().compile(dynamic=True)


def release_kernels(model: Any) -> None:
    """Undo what the exported model must not have, since its rounding may differ."""
    decoder = model.get_decoder()
    decoder._compiled_call_impl = None
    if decoder.config._attn_implementation == row_attention.NAME:
        _set_attention(model, "sdpa")


def attend_by_row(model: Any) -> bool:
    """Let a model on the CPU attend to packed rows one by one, if it can.

    Returns:
        Whether it does so now. It is unchanged if its attention is another one, or if it would
        not keep the rows apart.
    """
    if model.config._attn_implementation != "sdpa":
        return False
    _set_attention(model, row_attention.NAME)
    try:
        apart = model.config._attn_implementation == row_attention.NAME and _keeps_apart(model)
    except (TypeError, ValueError, RuntimeError, IndexError):  # what a mask of one element may meet
        apart = False
    if not apart:
        _set_attention(model, "sdpa")
    return apart


def check_packing(model: Any, name: str) -> None:
    """Raise unless a model keeps packed rows apart.

    Some architectures ignore the positions from which the rows are told apart, and report nothing.
    Kernels that need a GPU are not tried here, where the weights are still on the host.

    Raises:
        UserError: The model does not keep them apart.
    """
    tried = ("eager", "sdpa", row_attention.NAME)
    if model.config._attn_implementation in tried and not _keeps_apart(model):
        raise UserError(unpackable(name))


def _keeps_apart(model: Any) -> bool:
    """Return whether changing the first row of a packed line leaves the second one unchanged."""
    first, second = torch.arange(1, 5), torch.arange(1, 5)
    positions = torch.arange(4).repeat(2)[None].to(model.device)
    seen = []
    for before in (first, first.flip(0) + 4):
        ids = torch.cat([before, second])[None].to(model.device)
        with torch.no_grad():
            seen.append(row_attention.decode_packed(model, ids, positions)[:, 4:].float())
    return bool((seen[0] - seen[1]).abs().max() <= _LEAK * seen[0].abs().max())


def _set_attention(model: Any, name: str) -> None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation(name)
