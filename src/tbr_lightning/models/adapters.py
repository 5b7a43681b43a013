"""PEFT adapters: none, LoRA, rank-stabilised LoRA, DoRA, LoRA on a quantised base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tbr_lightning.config.schema import AdapterConfig
from tbr_lightning.errors import UserError


def with_adapter(model: Any, config: AdapterConfig) -> Any:
    """Return the model with the configured PEFT adapter, or as it is.

    Raises:
        UserError: No layer has the named target modules, or one of them shares its weights with
            another layer and the adapter is to be merged.

    Source:
        LoRA (Hu et al., 2021), rsLoRA (Kalajdzievski, 2023), DoRA (Liu et al., 2024), QLoRA
        (Dettmers et al., 2023).
    """
    if config.name == "none":
        return model
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from peft.tuners.tuners_utils import BaseTunerLayer

    if config.quantize:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rank_stabilized,
        use_dora=config.decompose,
        target_modules=config.target_modules,
        task_type="CAUSAL_LM",
    )
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    tied = ends[1] is not None and ends[0].weight is ends[1].weight
    try:
        adapted = get_peft_model(model, lora)
    except ValueError as error:
        raise UserError(
            f"adapter.target_modules={config.target_modules} fits no layer of this model: "
            "use all-linear"
        ) from error
    layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    if tied and config.export != "adapter" and any(one.get_base_layer() in ends for one in layers):
        raise UserError(
            f"adapter.target_modules={config.target_modules}: the embeddings and the output layer "
            "of this model are one matrix, and an adapter on one of them cannot be merged: leave "
            "them out, or keep the adapter apart with adapter.export=adapter"
        )
    return adapted


@contextmanager
def cast_by_autocast(model: Any, config: AdapterConfig) -> Iterator[None]:
    """Leave to autocast what peft casts to an adapter's float32, to be cast back at once.

    DoRA takes norms of whole matrices, which want float32.
    """
    name = "cast_input_dtype_enabled"
    layers = [] if config.decompose else [m for m in model.modules() if hasattr(m, name)]
    for layer in layers:
        setattr(layer, name, False)
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer, name, True)


def quantization(config: AdapterConfig) -> Any:
    """Return transformers' quantisation config for the base, or ``None``."""
    if not config.quantize:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
