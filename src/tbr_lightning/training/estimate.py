"""The estimated cost of a training run: parameters, memory per device, time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tbr_lightning.config.schema import AdapterConfig
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.models.architecture import flops_per_token
from tbr_lightning.objectives.objective import CHUNK
from tbr_lightning.training.devices import world_size
from tbr_lightning.training.precision import precision_of, training_dtype

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_QUANTIZED = 0.55  # bytes of a 4-bit weight with its scales
SUSTAINED = 0.4  # of the measured matrix peak; what a well fed transformer reaches


@dataclass(frozen=True)
class RunEstimate:
    """The estimated cost of one training run.

    Attributes:
        parameters: Number of all parameters of the model.
        trained: Number of trained parameters, of the model or its adapter.
        weights: Bytes per device of the weights.
        states: Bytes per device of gradients, optimizer moments and master weights.
        activations: Bytes per device at the largest micro-batch.
        host: Bytes of the host's memory for offloaded states, per rank.
        flops: FLOPs of the whole run, over all devices.
        seconds: Time on devices like this one; ``None`` if the run wants another kind.
    """

    parameters: int
    trained: int
    weights: float
    states: float
    activations: float
    host: float
    flops: float
    seconds: float | None


def estimate(
    config: TrainConfig,
    architecture: Any,
    *,
    tokens: int,
    longest: int,
    peak: float | None,
) -> RunEstimate:
    """Return the estimated cost of a training run.

    Activations follow Korthikanti et al. (2022): 34 bytes a token, layer and unit of width at 16
    bits without attention scores, or the layers' inputs alone with gradient checkpointing; the
    logits of one chunk come on top.

    Args:
        config: Config of the command.
        architecture: transformers' config of the model.
        tokens: Number of tokens of the whole run, all epochs.
        longest: Number of tokens of the longest sequence.
        peak: Measured FLOPs per second of one device; ``None`` if there is none like it here.
    """
    total, trained = parameter_counts(architecture, config.adapter)
    trainer, world = config.trainer, world_size(config.trainer)
    weight = _BYTES[training_dtype(config)]
    full = config.adapter.name == "none"
    frozen = 0 if full else total
    gradient = weight if full else 4.0
    # A float32 weight is its own master; bf16 weights under DeepSpeed have one beside them.
    states = 8.0 + gradient + (4.0 if precision_of(config) == "bf16-true" else 0)
    weights = frozen * (_QUANTIZED if config.adapter.quantize else weight) + trained * weight
    moments = trained * states
    host = 0.0
    if trainer.strategy in ("deepspeed", "fsdp"):
        stage = 3 if trainer.strategy == "fsdp" else trainer.zero_stage
        weights /= world if stage == 3 else 1
        gradients = trained * gradient
        moments = (moments - gradients) / world + gradients if stage == 1 else moments / world
        if trainer.offload:
            host, moments = moments, 0.0
            if stage == 3:
                host, weights = host + weights, 0.0
    text = architecture.get_text_config(decoder=True)
    width, layers = text.hidden_size, text.num_hidden_layers
    unit = 2.0 if precision_of(config).startswith("bf16") else 4.0
    # A row of some objectives is several sequences, such as the two of a pair.
    positions = trainer.batch_size * config.objective.sequences_per_row * longest
    cells = positions * width * layers
    activations = cells * (unit if trainer.gradient_checkpointing else 17 * unit)
    activations += 3 * 4.0 * min(CHUNK, positions) * text.vocab_size
    flops = tokens * flops_per_token(architecture, trained, total, longest // 2)
    if trainer.gradient_checkpointing:
        flops *= 4 / 3
    seconds = None if peak is None else flops / (peak * SUSTAINED * world)
    return RunEstimate(total, trained, weights, moments, activations, host, flops, seconds)


def parameter_counts(architecture: Any, adapter: AdapterConfig) -> tuple[int, int]:
    """Return (all parameters of the base, trained parameters), without allocating memory."""
    from dataclasses import replace

    from tbr_lightning.models.adapters import with_adapter
    from tbr_lightning.models.architecture import auto_class

    with torch.device("meta"):
        model = auto_class(architecture).from_config(architecture)
        total = sum(p.numel() for p in model.parameters())

        tuned = with_adapter(model, replace(adapter, quantize=False))
    return total, sum(p.numel() for p in tuned.parameters() if p.requires_grad)


def describe_devices(config: TrainConfig) -> str:
    """Return how many devices of what kind, the strategy and the precision."""
    trainer = config.trainer
    world = world_size(trainer)
    kind = trainer.strategy
    if kind == "deepspeed":
        kind = f"DeepSpeed ZeRO {trainer.zero_stage}{' with offload' if trainer.offload else ''}"
    return f"{world} device{'s' if world > 1 else ''}, {kind}, {precision_of(config)}"
