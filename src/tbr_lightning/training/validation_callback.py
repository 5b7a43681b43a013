"""Measurements during training: validation loss, and refusals on a few prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.plugins import MixedPrecision

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.config.verbs import GenerationConfig
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.evaluation.judged_response import table_rows
from tbr_lightning.evaluation.respond import respond
from tbr_lightning.evaluation.results import metrics
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.objectives.objective import Floats, Objective, chunks_of
from tbr_lightning.tracking.metric_spool import MetricBuffer
from tbr_lightning.training.module import TbrModule
from tbr_lightning.training.step_logger import is_step, summed

# A probe is small and read often: its intervals and counts would bury its rates.
_SHOWN = (
    "false_refusal_rate",
    "harmful_compliance_rate",
    "general_accuracy",
    "reflection_rate/general",
    "reflection_rate/harmful",
    "reflection_rate/look_alike",
    "unparsed_share",
)


SHARE = 0.03
"""Share of a run's time that measurements may take where no number of steps is given."""

_FIRST = 600.0  # seconds of training before the first of them, whose cost nobody knows


class ValidationCallback(pl.Callback):
    """Measures every few optimizer steps, and at the end.

    All ranks answer the same prompts at the same time: where each holds a part of the weights,
    none could do it alone.

    Args:
        every: Optimizer steps between two measurements; 0 measures at the end only; ``None``
            waits after each until it was less than :data:`SHARE` of the time.
        look_every: Optimizer steps between two looks at the clock, where ``every`` is ``None``.
        validation: Rows held out of training.
        objective: Objective that is minimised; validation computes the same.
        reference: Reference of the validation rows, see :meth:`Objective.reference`.
        prompts: Probe prompts, dev split only: what is seen while choosing must not decide later.
        buffer: Metric buffer; ``None`` on all ranks but the first.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        every: int | None,
        look_every: int,
        validation: TokenRows | None,
        objective: Objective,
        reference: Floats | None,
        batch_size: int,
        prompts: Sequence[Prompt],
        judge: JudgeConfig,
        buffer: MetricBuffer | None,
    ) -> None:
        self.backbone, self.every, self.look_every = backbone, every, look_every
        self.validation = validation
        self.objective, self.batch_size, self.prompts = objective, batch_size, prompts
        self.reference = reference
        self.judge, self.buffer = judge, buffer
        self.validation_loss: float | None = None
        self.latest: dict[str, float] = {}
        self._measured = -1
        self._since, self._cost = time.monotonic(), SHARE * _FIRST  # seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count the time."""
        self._since = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure if it is time."""
        if not is_step(trainer, batch_idx):
            return
        last = trainer.global_step >= trainer.estimated_stepping_batches
        if self.every is not None:
            if last or (self.every and trainer.global_step % self.every == 0):
                self.measure(trainer, pl_module)
        elif last or trainer.global_step % self.look_every == 0:
            due = self._is_due(trainer)
            if last or due:
                self.measure(trainer, pl_module, probe=due)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Return whether a measurement is a small share of the time since the last; on all ranks.

        The first rank's clock decides for all.
        """
        due = trainer.is_global_zero and SHARE * (time.monotonic() - self._since) >= self._cost
        return bool(summed(torch.tensor([float(due)]), trainer).item())

    def measure(
        self, trainer: pl.Trainer, module: pl.LightningModule, *, probe: bool = True
    ) -> None:
        """Measure now, the answers to the probe prompts only on demand; every rank must call it."""
        assert isinstance(module, TbrModule)
        step = trainer.global_step
        if step == self._measured:
            return
        self._measured = step
        start = time.monotonic()
        module.model.eval()
        plugin = trainer.precision_plugin
        mixed = plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext()
        with torch.no_grad(), mixed:
            if self.validation is not None:
                self.validation_loss = self._validate(trainer, module, self.validation)
                self._add({"validation/loss": self.validation_loss}, step)
            if self.prompts and probe:
                self._probe(module, step)
        # Copies of weights that were made here carry no gradient back.
        torch.clear_autocast_cache()
        module.model.train()
        self._since = time.monotonic()
        self._cost = self._since - start

    def _validate(self, trainer: pl.Trainer, module: TbrModule, rows: TokenRows) -> float:
        each, pad_id = self.objective.sequences_per_row, self.backbone.tokenizer.pad_token_id
        lengths = rows.lengths.reshape(-1, each).sum(axis=1)
        order = sorted(range(len(lengths)), key=lambda i: int(lengths[i]))
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        # Every rank takes the same number of batches; the last may be one that another has too.
        share = -(-len(batches) // trainer.world_size)
        batches += [[]] * (share * trainer.world_size - len(batches))
        total = torch.zeros(1, dtype=torch.float64)
        supervised = self.objective.supervised(rows)
        # As if all held-out rows were one step.
        step = self.objective.step_weights(self.objective.totals(rows), rows.kinds[::each])
        shared = self.objective.shared(
            rows,
            batches,
            pad_id,
            form="bucketed",
            rank=trainer.global_rank,
            world=trainer.world_size,
            reference=self.reference,
        )
        for turn in range(share):
            number = turn * trainer.world_size + trainer.global_rank
            together = batches[turn * trainer.world_size :][: trainer.world_size]
            batch = self.objective.collate(
                rows,
                batches[number] or batches[0],
                pad_id,
                form="bucketed",
                step=step,
                scale=1.0 if batches[number] else 0.0,
                chunks=chunks_of(supervised, together),
                reference=self.reference,
                shared=shared,
            )
            total += module.validation_loss(batch.to(module.device))
        return float(summed(total, trainer).item())

    def _probe(self, module: TbrModule, step: int) -> None:
        from dataclasses import replace

        tuned = replace(self.backbone, model=module.model)
        judged = respond(tuned, self.prompts, self.judge, GenerationConfig(), "probe")
        found = metrics(judged)
        numbers = {f"probe/{name}": found[name] for name in _SHOWN if name in found}
        self._add(numbers, step)
        if self.buffer is not None and any(step > self.buffer.after.get(n, -1) for n in numbers):
            self.buffer.table(pd.DataFrame(table_rows(judged)), f"probe/step-{step:08d}.json")

    @property
    def measured(self) -> tuple[int, dict[str, float]]:
        """The step of the last measurement and its numbers, the same on all ranks."""
        return self._measured, self.latest

    def loss_at(self, step: int) -> float | None:
        """Return the validation loss at a step; ``None`` where it was not measured then."""
        return self.validation_loss if step == self._measured else None

    def _add(self, numbers: dict[str, float], step: int) -> None:
        self.latest |= numbers
        if self.buffer is not None:
            self.buffer.add(numbers, step)
