"""The LightningModule around any causal language model of Hugging Face."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from transformers import get_scheduler

from tbr_lightning.config.schema import OptimizerConfig
from tbr_lightning.data.batching import Batch

Objective = Callable[[Any, Batch], tuple[Tensor, dict[str, tuple[float, float]]]]


class TbrModule(pl.LightningModule):
    """Optimises an objective over a causal language model.

    The objective is a plain function (``conf/objective/``), so that another one, such as a
    preference loss, needs no other module.
    """

    def __init__(self, model: Any, objective: Objective, optimizer: OptimizerConfig) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.part_sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one micro-batch."""
        loss, parts = self.objective(self.model, batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {self.global_step}: lower optimizer.lr"
            )
        for name, (total, count) in parts.items():
            self.part_sums[name][0] += total
            self.part_sums[name][1] += count
        return loss

    def take_parts(self) -> dict[str, float]:
        """Return the means per part of the data since the last call, and start anew."""
        means = {name: total / count for name, (total, count) in self.part_sums.items()}
        self.part_sums.clear()
        return means

    def configure_optimizers(self) -> Any:
        """AdamW without decay on norms and biases, and the configured schedule."""
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.requires_grad and p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.optimizer.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.optimizer.lr,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = get_scheduler(
            self.optimizer.schedule,
            optimizer,
            num_warmup_steps=round(steps * self.optimizer.warmup),
            num_training_steps=steps,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch; Lightning does not know the type."""
        return batch.to(device)
