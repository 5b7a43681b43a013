"""From a model's config to a transformers config, and what follows from it without weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING as CAUSAL
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as READERS
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from tbr_lightning.config.schema import TINY_CONTEXT, ModelConfig
from tbr_lightning.errors import UserError, in_one_line

_LAYERS, _HIDDEN, _WIDE, _HEADS, _HEAD, _EXPERTS, _ACTIVE = 2, 64, 128, 4, 16, 4, 2  # scale=tiny
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def build_config(
    model: ModelConfig,
    *,
    vocab_size: int | None = None,
    special: Mapping[str, int | None] | None = None,
) -> PretrainedConfig:
    """Return the transformers config of ``model.architecture`` at ``model.scale``.

    Args:
        model: Model config whose architecture to build.
        vocab_size: Vocabulary size of the tokenizer in use; ``None`` for the published one.
        special: Special ids of the tokenizer: ``bos_token_id``, ``eos_token_id``, ``pad_token_id``.
            Where ``vocab_size`` is given, an id that is missing is ``None``: the default belongs to
            another vocabulary.

    Raises:
        UserError: The architecture cannot be built.
    """
    settings = dict(model.architecture)
    own: dict[str, Any] = dict(special or {})
    if vocab_size is not None:
        own = dict.fromkeys(_SPECIAL) | {"vocab_size": vocab_size} | own
    try:
        if "text_config" in settings:  # text is one modality of several
            settings["text_config"] = dict(settings["text_config"]) | own
        else:
            settings |= own
        config = AutoConfig.for_model(**settings)
        if model.scale == "tiny":
            config = AutoConfig.for_model(**_tiny_settings(settings, config))
    except (KeyError, ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"model.architecture cannot be built: {in_one_line(error)}") from error
    if type(config) not in CAUSAL and type(config) not in READERS:
        raise UserError(
            f"model.architecture cannot be built: model_type={config.model_type} is not a causal "
            "language model: name one such as llama"
        )
    return config


def auto_class(config: PretrainedConfig) -> Any:
    """Return transformers' auto class for the text-generating model of a config.

    For some vision models that is the whole model, for others the text part alone.
    """
    if type(config) in READERS and type(config) not in CAUSAL:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def is_composite(config: PretrainedConfig) -> bool:
    """Return whether the text model is a part of a larger one with vision or audio."""
    return config.get_text_config(decoder=True) is not config


def _tiny_settings(settings: Mapping[str, Any], full: PretrainedConfig) -> dict[str, Any]:
    if "text_config" not in settings:
        return {**settings, **_tiny(full)}
    made = dict(settings)
    made["text_config"] = settings["text_config"] | _tiny(full.get_text_config(decoder=True))
    seeing = dict.fromkeys(("num_hidden_layers", "depth"), 1)
    seeing |= dict.fromkeys(("hidden_size", "out_hidden_size"), _HIDDEN)
    seeing |= {"intermediate_size": _WIDE, "num_attention_heads": _HEADS, "num_heads": _HEADS}
    seeing |= {"head_dim": _HEAD, "image_size": 56, "patch_size": 14}
    vision = getattr(full, "vision_config", None)
    if vision is not None:
        stated = vision.to_dict()
        smaller = {name: value for name, value in seeing.items() if stated.get(name) is not None}
        made["vision_config"] = {**settings.get("vision_config", {}), **smaller}
        made["vision_config"].setdefault("model_type", vision.model_type)
    return made


def _tiny(full: PretrainedConfig) -> dict[str, Any]:
    """Return the sizes that make a config tiny; all other settings define the architecture."""
    context = min(context_length(full), TINY_CONTEXT)
    shared = _of(full, "num_key_value_heads", "num_kv_heads", default=full.num_attention_heads)
    ratio = _HEADS * shared // full.num_attention_heads
    kv = next(heads for heads in (4, 2, 1) if heads <= max(ratio, 1))  # divides the query heads
    known: dict[str, Any] = {
        "num_hidden_layers": _LAYERS,
        "hidden_size": _HIDDEN,
        "num_attention_heads": _HEADS,
        "head_dim": _HEAD,
        "query_pre_attn_scalar": _HEAD,
        "max_position_embeddings": context,
    }
    known |= dict.fromkeys(("num_key_value_heads", "num_kv_heads"), kv)
    wide = ("intermediate_size", "ffn_hidden_size", "moe_intermediate_size")
    known |= dict.fromkeys((*wide, "shared_expert_intermediate_size"), _WIDE)
    known |= dict.fromkeys(("num_local_experts", "num_experts"), _EXPERTS)
    known |= {"linear_num_key_heads": 2, "linear_num_value_heads": _HEADS}
    known |= dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), _HEAD)
    known["num_experts_per_tok"] = min(_of(full, "num_experts_per_tok", default=1), _ACTIVE)
    stated = full.to_dict()  # without what a class computes, such as the head_dim of some
    sizes = {name: value for name, value in known.items() if stated.get(name) is not None}
    if stated.get("sliding_window"):
        sizes["sliding_window"] = min(stated["sliding_window"], context // 2)
    for name, value in stated.items():  # one entry a layer
        if isinstance(value, list) and len(value) == full.num_hidden_layers:
            sizes[name] = [*dict.fromkeys(value), *value][:_LAYERS]
    rope = dict(stated.get("rope_parameters") or {})
    if "full_attention" in rope:
        sizes["rope_parameters"] = {
            kind: _tiny_rope(dict(one), context, full) for kind, one in rope.items()
        }
    elif rope:
        sizes["rope_parameters"] = _tiny_rope(rope, context, full)
    return sizes


def _tiny_rope(rope: dict[str, Any], context: int, full: PretrainedConfig) -> dict[str, Any]:
    if "original_max_position_embeddings" in rope:
        before = rope["original_max_position_embeddings"] * context // context_length(full)
        rope["original_max_position_embeddings"] = max(before, 1)
    if "max_position_embeddings" in rope:
        rope["max_position_embeddings"] = context
    if "mrope_section" in rope:
        pairs = int(_HEAD * rope.get("partial_rotary_factor", 1.0)) // 2
        rope["mrope_section"] = [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]
    return rope


def _of(config: PretrainedConfig, *names: str, default: int) -> int:
    """Return the first of several attributes that is set."""
    values = (getattr(config, name, None) for name in names)
    return next((int(value) for value in values if value), default)


def context_length(config: PretrainedConfig) -> int:
    """Return how many tokens a model has positions for; ``sys.maxsize`` where none are counted."""
    return _of(config, "max_position_embeddings", default=sys.maxsize)


def count_parameters(config: PretrainedConfig) -> int:
    """Return the number of parameters, tied ones once; no memory is allocated."""
    return sum(weight.numel() for weight in _on_meta(config).parameters())


def _on_meta(config: PretrainedConfig) -> Any:
    with torch.device("meta"):
        return auto_class(config).from_config(config, trust_remote_code=False)


def outside_text(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and parameter of what text never reaches, such as a vision part."""
    if not is_composite(model.config):
        return
    decoder, output = model.get_decoder(), model.get_output_embeddings()
    inside = {id(weight) for part in (decoder, output) if part for weight in part.parameters()}
    for name, weight in model.named_parameters():
        if id(weight) not in inside:
            yield name, weight


def flops_per_logits(config: PretrainedConfig, *, trained: bool) -> float:
    """Return the part of :func:`flops_per_token` that the logits of one position cost.

    Args:
        config: Config of the model.
        trained: Whether the matrix that makes them gets a gradient.
    """
    text = config.get_text_config(decoder=True)
    return (6.0 if trained else 4.0) * text.vocab_size * text.hidden_size


def flops_per_token(config: PretrainedConfig, trainable: int, total: int, context: int) -> float:
    """Return the usual estimate of the floating point operations of training, per token.

    Each weight costs two operations (multiply, add) in the forward pass, two for the gradient of
    its input and, if it is trained, two for its own (Kaplan et al., 2020, section 2.1). The
    products of queries with keys and of weights with values come on top (Chowdhery et al., 2022,
    PaLM, appendix B), here over the positions that a causal or sliding mask leaves. Left out:
    embedding look-ups, which multiply nothing, and the experts that a token is not routed to;
    also norms, activations, the soft-max, and what recomputation adds.

    Args:
        config: Config of the model.
        trainable: Number of parameters that get a gradient.
        total: Number of all parameters, adapters included.
        context: Number of tokens of a row, padding included.
    """
    model = _on_meta(config)
    idle = sum(weight.numel() for _, weight in outside_text(model))
    config = config.get_text_config(decoder=True)
    if not config.tie_word_embeddings:  # a tied matrix also computes the logits
        idle += model.get_input_embeddings().weight.numel()
    experts = _of(config, "num_local_experts", "num_experts", default=1)
    active = _of(config, "num_experts_per_tok", default=experts)
    routed = (weight.numel() for name, weight in model.named_parameters() if ".experts." in name)
    idle += sum(routed) * (1 - active / experts)
    used = total - idle
    width = config.num_attention_heads * _of(
        config, "head_dim", default=config.hidden_size // config.num_attention_heads
    )
    # Query i of a causal mask sees i keys, at most a window's: half the context without one.
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) or context
    seen = 0.0
    for layer in range(config.num_hidden_layers):
        full = kinds is not None and kinds[layer] == "full_attention"
        span = context if full else min(window, context)
        seen += span - span**2 / (2 * context)
    attention = 2 * 2 * seen * width  # forward; its gradients cost twice as much
    return 4 * used + 2 * min(trainable, used) + 3 * attention
