"""PEFT adapters: none, LoRA, rank-stabilised LoRA, DoRA, LoRA on a quantised base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tbr_lightning.config.schema import AdapterConfig
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.models.architecture import outside_text


def with_adapter(model: Any, config: AdapterConfig) -> Any:
    """Return the model with the configured PEFT adapter, or as it is.

    Raises:
        UserError: No layer has the named target modules, or one of them shares its weights with
            another layer and the adapter is to be merged.

    Source:
        LoRA (Hu et al., 2021), rsLoRA (Kalajdzievski, 2023), DoRA (Liu et al., 2024), QLoRA
        (Dettmers et al., 2023).
    """
    outside = dict(outside_text(model))
    for weight in outside.values():
        weight.requires_grad_(False)
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
        exclude_modules=[name.rpartition(".")[0] for name in outside] or None,
        task_type="CAUSAL_LM",
    )
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    tied = _is_tied(model)
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


def merged_with(model: Any, folder: Path) -> Any:
    """Return a model with the adapter in a folder merged into it.

    Where the adapter changes only one of two layers that share a matrix, each gets its own first;
    where it was trained with a larger vocabulary, the embeddings are made as large.

    Args:
        model: Base model of the adapter.
        folder: Adapter folder, as PEFT saves it.

    Raises:
        UserError: The adapter does not fit the model, or cannot be merged into it.
    """
    import torch
    from peft import PeftConfig, PeftModel

    settings = PeftConfig.from_pretrained(str(folder))
    settings.inference_mode = True
    rows = _vocabulary_of(folder)
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    if _is_tied(model) and _touches_ends(model, folder):
        _untie(model)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), config=settings).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"the adapter in {folder} does not fit its base ({in_one_line(error, 200)}): give the "
            "base that it was trained on"
        ) from error
    probe = torch.arange(1, 17).unsqueeze(0).to(model.device)
    with torch.inference_mode():
        apart = adapted(input_ids=probe).logits.float()
    try:
        merged = adapted.merge_and_unload(safe_merge=True).eval()
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise UserError(
            f"the adapter in {folder} cannot be merged into its base ({in_one_line(error, 200)}): "
            "give another, or a whole model"
        ) from error
    with torch.inference_mode():
        off = (merged(input_ids=probe).logits.float() - apart).abs().max().item()
    bound = max(1e-3, 32 * torch.finfo(merged.dtype).eps) * max(1.0, apart.abs().max().item())
    if not off <= bound:
        raise UserError(
            f"the adapter in {folder} gives another model once it is merged (logits by {off:.3g}): "
            "merge it with the program that made it, and give the whole model"
        )
    return merged


def merged(model: Any) -> Any:
    """Return a model with its adapter, if it has one, merged into its base.

    Where the adapter changes only one of two layers that share a matrix, each gets its own first.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if _is_tied(base) and any(isinstance(end, BaseTunerLayer) for end in ends):
        _untie(base)
    return model.merge_and_unload()


def _untie(model: Any) -> None:
    import torch

    output = model.get_output_embeddings()
    output = output.get_base_layer() if hasattr(output, "get_base_layer") else output
    output.weight = torch.nn.Parameter(output.weight.detach().clone())
    model.config.get_text_config().tie_word_embeddings = False
    model.config.tie_word_embeddings = False


def _is_tied(model: Any) -> bool:
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def _touches_ends(model: Any, folder: Path) -> bool:
    """Return whether an adapter has weights of the embeddings or of the output layer."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    named = [name for name, module in model.named_modules() if module in ends]
    words = {name.rpartition(".")[2] for name in named}
    return any(words & set(name.split(".")) for name in _tensors(folder))


def _vocabulary_of(folder: Path) -> int | None:
    """Return the number of embedding rows saved whole with an adapter, if they were."""
    whole = [
        shape[0]
        for name, shape in _tensors(folder).items()
        if name.endswith(("embed_tokens.weight", "lm_head.weight", "wte.weight"))
    ]
    return max(whole, default=None)


def _tensors(folder: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("adapter_model*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                found[name] = list(opened.get_slice(name).get_shape())
    return found


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
