"""Metrics that a training run logs every few steps."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import psutil
import torch
from torch import Tensor

from tbr_lightning.objectives.batch import Batch
from tbr_lightning.progress import Bar, bar
from tbr_lightning.tracking.metric_spool import MetricBuffer
from tbr_lightning.training.module import TbrModule
from tbr_lightning.training.speed import Speed


def summed(numbers: Tensor, trainer: pl.Trainer) -> Tensor:
    """Return the sum of a tensor over all ranks."""
    if trainer.world_size == 1:
        return numbers
    numbers = numbers.to(trainer.strategy.root_device)
    torch.distributed.all_reduce(numbers)
    return numbers.cpu()


def is_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Return whether a micro-batch was the last one of an optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class StepLogger(pl.Callback):
    """Logs loss, gradient norm and learning rate of every step, the rest every few; moves the bar.

    Lightning's own MLflow logger writes each metric by itself, cuts params and copies every
    checkpoint; a run here is opened by :func:`tbr_lightning.tracking.open_run.start_run`.

    Args:
        buffer: Metric buffer; ``None`` on all ranks but the first.
        what: Label of the progress bar.
        every: Optimizer steps between two writes of averages.
        speed: Converts tokens per second into utilisation.
    """

    def __init__(
        self, buffer: MetricBuffer | None, what: str, *, every: int, speed: Speed | None
    ) -> None:
        self.buffer, self.what, self.every, self.speed = buffer, what, every, speed
        self.steps: list[tuple[int, float, float | None, float]] = []  # step, loss, norm, rate
        self.real = self.cells = self.supervised = 0
        self.supervised_total = 0
        self.started = 0.0
        self.rate = 0.0  # of the step under way: the schedule moves on before a batch ends
        self._context: Any = None
        self._bar: Bar | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the counts that a resumed run continues from."""
        return {"supervised_total": self.supervised_total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts of a checkpoint."""
        self.supervised_total = state_dict["supervised_total"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if self.buffer is not None:
            self._context = bar(self.what, int(trainer.estimated_stepping_batches))
            self._bar = self._context.__enter__()
            self._bar.advance(trainer.global_step)
        self.started = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note the learning rate that this step takes."""
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the micro-batch; log after an optimizer step."""
        assert isinstance(pl_module, TbrModule)
        self.real += batch.real_tokens
        self.cells += batch.input_ids.numel()
        self.supervised += int((batch.weights > 0).sum())
        if not is_step(trainer, batch_idx):
            return
        loss = pl_module.take_step_loss()
        norm = _gradient_norm(trainer, pl_module)
        self.steps.append((trainer.global_step, loss, norm, self.rate))
        if self._bar is not None:
            self._bar.advance(note=f"loss {loss * trainer.world_size:.3f}")
        if len(self.steps) >= self.every:
            self.write(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what is left and close the bar."""
        assert isinstance(pl_module, TbrModule)
        self.write(trainer, pl_module)
        if self.buffer is not None:
            self.buffer.close()
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, and write what was measured."""
        if self.buffer is not None:
            self.buffer.close()
        self._close()

    def write(self, trainer: pl.Trainer, module: TbrModule) -> None:
        """Log the steps since the last time; every rank must call it."""
        if not self.steps:
            return
        seconds = max(time.monotonic() - self.started, 1e-9)
        losses = [loss for _, loss, _, _ in self.steps]
        mine = torch.tensor([*losses, self.real, self.cells, self.supervised], dtype=torch.float64)
        parts, module.parts = module.parts.cpu(), torch.zeros_like(module.parts)
        total = summed(torch.cat([mine, parts.flatten()]), trainer)
        losses = total[: len(losses)].tolist()
        real, cells, supervised = total[len(losses) : len(losses) + 3].tolist()
        means = total[len(losses) + 3 :].view(-1, 2)
        self.supervised_total += int(supervised)
        if self.buffer is not None:
            for (step, _, norm, rate), loss in zip(self.steps, losses, strict=True):
                numbers = {"train/loss": loss, "train/lr": rate}
                if norm is not None:
                    numbers["train/gradient_norm"] = norm
                self.buffer.add(numbers, step)
            window = {
                "train/supervised_tokens_per_second": supervised / seconds,
                "train/tokens_per_second": real / seconds,
                "train/padding_share": 1 - real / cells,
                "train/epoch": float(trainer.current_epoch),
                "train/memory_gib": _memory(trainer) / 2**30,
            }
            if self.speed is not None:
                window |= self.speed.utilisation(
                    real / seconds / trainer.world_size, supervised / seconds / trainer.world_size
                )
            names = module.objective.parts
            for name, (value, count) in zip(names, means.tolist(), strict=True):
                if count:
                    window[f"train/{name}"] = value / count
            self.buffer.add(window, self.steps[-1][0])
        self.steps.clear()
        self.real = self.cells = self.supervised = 0
        self.started = time.monotonic()

    def _close(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None


def _gradient_norm(trainer: pl.Trainer, module: TbrModule) -> float | None:
    engine = getattr(trainer.strategy, "deepspeed_engine", None)
    if engine is None:
        return module.gradient_norm
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _memory(trainer: pl.Trainer) -> float:
    """Return the bytes in use: the peak on a GPU, the process's resident set elsewhere."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(psutil.Process().memory_info().rss)
