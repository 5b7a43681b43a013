"""How the rows of a micro-batch are laid out: what is fastest on the device and for the model."""

from __future__ import annotations

from typing import Any

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.preflight import UNPACKABLE
from tbr_lightning.training.kernels import attend_by_row

_PART_TOKENS = {"bucketed": 192, "packed": 384}
"""Tokens of a part of a micro-batch on a CPU; smaller ones cost more than they save."""


def form_of(config: TrainConfig, accelerator: str, model: Any) -> str:
    """Return how rows are laid out, and let the model attend accordingly.

    ``auto`` packs them: on a GPU with flash or flex attention, on a CPU where the model can attend
    row by row. A mask over a packed line costs the square of its length, so all others get rows
    that are bucketed by length (``benchmarks/batching.py``).
    """
    asked, auto = config.trainer.batching, config.trainer.batching == "auto"
    if accelerator == "cpu":
        # Its loop over the rows would be compiled anew for every combination of lengths.
        fit = asked in ("auto", "packed") and not config.trainer.compile and attend_by_row(model)
    else:
        fit = config.model.attention in ("flash_attention_2", "flex_attention")
        fit = fit and config.model.architecture.get("model_type") not in UNPACKABLE
    return asked if not auto else "packed" if fit else "bucketed"


def split_of(config: TrainConfig, accelerator: str, form: str, mean_length: float) -> int:
    """Return the number of parts that a micro-batch is divided into; it affects the speed only.

    A core is busy with a few rows already. Fewer at once take less memory, and those that are
    bucketed less padding: the random rows of a batch are else half padding. A GPU wants them all at
    once, and ranks that exchange gradients want few exchanges.
    """
    trainer = config.trainer
    if accelerator != "cpu" or trainer.strategy != "single" or form not in _PART_TOKENS:
        return 1
    parts = round(trainer.batch_size * mean_length / _PART_TOKENS[form])
    return min(max(parts, 1), trainer.batch_size)
