"""Optional ways to the same numbers in less time or memory."""

from __future__ import annotations

from typing import Any

from tbr_lightning.config.schema import TrainerConfig


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
