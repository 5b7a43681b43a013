"""Optional ways to the same numbers in less time or memory."""

from __future__ import annotations

from typing import Any

import torch

from tbr_lightning.config.preflight import unpackable
from tbr_lightning.config.schema import TrainerConfig
from tbr_lightning.errors import UserError

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
    """Undo the compilation, whose rounding differs from what the exported model will do."""
    model.get_decoder()._compiled_call_impl = None


def check_packing(model: Any, name: str) -> None:
    """Raise unless a model keeps packed rows apart: another first row must not change the second.

    Some architectures take no notice of the positions from which the rows are told apart, and say
    nothing. Kernels that need a GPU are not tried here, where the weights are still on the host.

    Raises:
        UserError: It does not.
    """
    if model.config._attn_implementation not in ("eager", "sdpa"):
        return
    first, second = torch.arange(1, 5), torch.arange(1, 5)
    positions = torch.arange(4).repeat(2)[None].to(model.device)
    seen = []
    for before in (first, first.flip(0) + 4):
        ids = torch.cat([before, second])[None].to(model.device)
        with torch.no_grad():
            out = model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False)
        seen.append(out.last_hidden_state[:, 4:].float())
    if not (seen[0] - seen[1]).abs().max() <= _LEAK * seen[0].abs().max():
        raise UserError(unpackable(name))
