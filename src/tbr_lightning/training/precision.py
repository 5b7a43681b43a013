"""The precision in which a training run computes, and the type in which its weights are loaded."""

from __future__ import annotations

from dataclasses import replace

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.models.config_facts import weights_dtype
from tbr_lightning.models.precision import has_bfloat16_units
from tbr_lightning.training.devices import accelerator_of


def precision_of(config: TrainConfig) -> str:
    """Return the value of Lightning's ``precision``.

    ``auto`` means bfloat16 compute where the device has units for it and the model is published in
    that type, float32 elsewhere. Mixed precision keeps what is trained in float32; DeepSpeed keeps
    float32 masters by itself, on GPUs (on CPU ranks it computes in float32).
    """
    trainer = config.trainer
    if trainer.precision != "auto":
        return trainer.precision
    where = accelerator_of(trainer)
    slow = trainer.strategy == "deepspeed" and where == "cpu"
    if slow or weights_dtype(config.model) == "float32" or not has_bfloat16_units(where):
        return "32-true"
    return "bf16-true" if trainer.strategy == "deepspeed" else "bf16-mixed"


def settled(config: TrainConfig, *, earlier: bool) -> TrainConfig:
    """Return the config with its precision decided, so that a run resumes with it anywhere.

    Args:
        config: Config of the command.
        earlier: Whether a run that was started with it is resumed now. If it still says ``auto``,
            that version took float32 on every CPU, and bfloat16 on every GPU.
    """
    if not earlier or config.trainer.precision != "auto":
        found = precision_of(config)
    elif accelerator_of(config.trainer) == "cpu":
        found = "32-true"
    else:
        found = "bf16-true" if config.trainer.strategy == "deepspeed" else "bf16-mixed"
    return replace(config, trainer=replace(config.trainer, precision=found))


def training_dtype(config: TrainConfig) -> str:
    """Return the type in which the base's weights are loaded.

    What mixed precision trains is kept in float32; a frozen base needs no more than the model's
    own type, and DeepSpeed keeps float32 masters by itself.
    """
    precision = precision_of(config)
    if precision == "bf16-true":
        return "bfloat16"
    if precision == "32-true" or config.adapter.name == "none":
        return "float32"
    return weights_dtype(config.model)
