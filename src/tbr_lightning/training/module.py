"""The LightningModule around any causal language model of Hugging Face."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from transformers import get_scheduler

from tbr_lightning.config.schema import OptimizerConfig
from tbr_lightning.objectives.batch import Batch
from tbr_lightning.objectives.objective import Objective


class TbrModule(pl.LightningModule):
    """Optimises an objective over a causal language model.

    Args:
        model: Causal language model, maybe with an adapter.
        objective: Objective that is minimised.
        optimizer: Settings of the optimizer of the trained parameters.
        seed: Random seed; dropout of a micro-batch depends on seed, step and rank alone, so a
            resumed run draws what an uninterrupted one would have drawn.
        divisor: Number by which the trainer divides a micro-batch's loss before the optimizer steps
            (micro-batches, ranks); the loss itself is normalised by its whole step.
        offload: Whether the optimizer's states are in the host's memory, where DeepSpeed's AdamW is
            meant for them.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        optimizer: OptimizerConfig,
        *,
        seed: int,
        divisor: float,
        offload: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.seed, self.divisor, self.offload = seed, divisor, offload
        self.step_loss = torch.zeros(())  # this rank's share of the loss of the step under way
        self.gradient_norm: float | None = None  # of the last optimizer step, before clipping
        self.parts = torch.zeros(len(objective.parts), 2, dtype=torch.float64)
        # With both names of a tied matrix: loading asks for each.
        named = list(self.named_parameters(remove_duplicate=False))
        self.trained = frozenset(name for name, p in named if p.requires_grad)
        # Asked before FSDP or ZeRO 3 cut them into flat pieces, which all have one dimension.
        self.matrices = frozenset(name for name, p in named if p.ndim >= 2)
        # A checkpoint holds what is trained; the frozen rest comes from the base again.
        self.strict_loading = all(p.requires_grad for p in self.parameters())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the random numbers of this micro-batch."""
        place = (self.global_step * self.trainer.accumulate_grad_batches) + (
            batch_idx % self.trainer.accumulate_grad_batches
        )
        torch.manual_seed((self.seed * 1_000_003 + place) * 4_099 + self.global_rank)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one micro-batch."""
        outcome = self.objective.loss(self.model, batch)
        loss = outcome.total / batch.step_weight
        # Left on the device: reading a number here would wait for the device in every micro-batch.
        self.step_loss = self.step_loss.to(loss.device) + loss.detach()
        self.parts = self.parts.to(loss.device) + outcome.parts
        return loss * self.divisor

    def validation_loss(self, batch: Batch) -> float:
        """Return a batch's share of the validation loss."""
        return self.objective.loss(self.model, batch).total.item() / batch.step_weight

    def take_step_loss(self) -> float:
        """Return this rank's share of the step's loss, and reset it.

        Raises:
            FloatingPointError: The loss is not a finite number.
        """
        loss, self.step_loss = self.step_loss.item(), torch.zeros(())
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} at step {self.global_step}: lower optimizer.lr"
            )
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, and keep the norm for the log. DeepSpeed clips by itself and is asked later."""
        if self.trainer.strategy.handles_gradient_accumulation:
            return
        limit = gradient_clip_val or float("inf")
        wrapped = self.trainer.strategy.model
        if hasattr(wrapped, "clip_grad_norm_"):  # FSDP: each rank holds a part of each gradient
            norm = wrapped.clip_grad_norm_(limit)
        else:
            norm = torch.nn.utils.clip_grad_norm_(
                [p for p in self.parameters() if p.requires_grad], limit
            )
        self.gradient_norm = float(norm)

    def configure_optimizers(self) -> Any:
        """Return AdamW without decay on norms and biases, and the configured schedule."""
        optimizer = self._adamw()(self.parameter_groups(), lr=self.optimizer.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        name = self.optimizer.schedule
        scheduler = get_scheduler(
            # The library's plain "constant" leaves the warm-up out.
            "constant_with_warmup" if name == "constant" else name,
            optimizer,
            num_warmup_steps=round(steps * self.optimizer.warmup),
            num_training_steps=steps,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters in two groups: matrices, which decay, and the rest."""
        decayed: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                plain = name.replace("_fsdp_wrapped_module.", "")
                (decayed if plain in self.matrices else others).append(parameter)
        groups = [(decayed, self.optimizer.weight_decay), (others, 0.0)]
        return [{"params": params, "weight_decay": decay} for params, decay in groups if params]

    def _adamw(self) -> Callable[..., torch.optim.Optimizer]:
        if not self.offload:
            strategy = self.trainer.strategy
            alone = (
                strategy.root_device.type == "cpu" and not strategy.handles_gradient_accumulation
            )
            # On a GPU torch takes all tensors of a group together by default.
            return partial(torch.optim.AdamW, fused=True) if alone else torch.optim.AdamW
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained in a checkpoint."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k in self.trained}

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch; Lightning does not know the type."""
        return batch.to(device)
