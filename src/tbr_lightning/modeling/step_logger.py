"""What a training run tells of itself every few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl

from tbr_lightning.modeling.module import TbrModule
from tbr_lightning.progress import Bar, bar

LogStep = Callable[[Mapping[str, float], int], None]
"""Writes numbers of one step."""


class StepLogger(pl.Callback):
    """Logs training numbers every few steps in one batch, and moves the progress bar.

    Lightning's own MLflow logger writes each metric by itself, cuts params and copies every
    checkpoint; a run here is opened by :func:`tbr_lightning.tracking.runs.start_run`.
    """

    def __init__(self, log: LogStep, what: str, every: int = 10) -> None:
        self._write, self.what, self.every = log, what, every
        self.losses: list[float] = []
        self.tokens = self.supervised = self.padding = 0
        self.supervised_total = 0
        self.started = 0.0
        self._logged_step = 0
        self._context: Any = None
        self._bar: Bar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        self._context = bar(self.what, int(trainer.estimated_stepping_batches))
        self._bar = self._context.__enter__()
        self.started = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the micro-batch; log after every few optimizer steps."""
        # Lightning hands over the loss divided for accumulation.
        self.losses.append(outputs["loss"].item() * trainer.accumulate_grad_batches)
        real = int(batch.attention_mask.sum())
        self.tokens += real
        self.padding += batch.attention_mask.numel() - real
        self.supervised += int((batch.weights > 0).sum())
        if trainer.global_step == self._logged_step:
            return
        if self._bar is not None and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._bar.advance(note=f"loss {self.losses[-1]:.3f}")
        if trainer.global_step - self._logged_step >= self.every:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what is left and close the bar."""
        if self.losses:
            self._log(trainer, pl_module)
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._close()

    def _close(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None

    def _log(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TbrModule)
        seconds = time.monotonic() - self.started
        numbers = {
            "train/loss": sum(self.losses) / len(self.losses),
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/supervised_tokens_per_second": self.supervised / seconds,
            "train/tokens_per_second": self.tokens / seconds,
            "train/padding_share": self.padding / (self.padding + self.tokens),
            "train/epoch": float(trainer.current_epoch),
            **{f"train/{name}": value for name, value in module.take_parts().items()},
        }
        self._write(numbers, trainer.global_step)
        self._logged_step = trainer.global_step
        self.supervised_total += self.supervised
        self.losses.clear()
        self.tokens = self.padding = self.supervised = 0
        self.started = time.monotonic()
