"""How many processes train, and on which kind of device."""

from __future__ import annotations

import shutil

from tbr_lightning.config.schema import TrainerConfig


def accelerator_of(trainer: TrainerConfig) -> str:
    """Return ``gpu`` or ``cpu``; ``auto`` takes a GPU where there is one."""
    if trainer.accelerator != "auto":
        return trainer.accelerator
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def world_size(trainer: TrainerConfig) -> int:
    """Return the number of ranks."""
    return trainer.devices * trainer.num_nodes
