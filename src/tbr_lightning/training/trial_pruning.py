"""Ends a hopeless run from within: the first rank asks, all ranks get the answer and stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl

from tbr_lightning.training.trial_pruning_channel import PruningChannel


class Pruning(pl.Callback):
    """Reports a metric after each measurement, and stops every rank if the answer is to stop.

    Args:
        channel: Pruning channel; only the first rank uses it.
        measured: Returns (step, metrics) of the last measurement.
    """

    def __init__(
        self, channel: PruningChannel, measured: Callable[[], tuple[int, Mapping[str, float]]]
    ) -> None:
        self.channel, self.measured = channel, measured
        self.pruned = False
        self._reported = -1

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report if there is something new; all ranks measure at the same steps."""
        step, numbers = self.measured()
        if step <= self._reported or step >= trainer.estimated_stepping_batches:
            return  # the last measurement comes too late to save anything
        self._reported = step
        value = numbers.get(self.channel.metric)
        stop = False
        if trainer.is_global_zero and value is not None:
            stop = self.channel.ask({step: value})
        self.pruned = bool(trainer.strategy.broadcast(stop, src=0))
        if self.pruned:
            trainer.should_stop = True
