"""Micro-batches of one rank, each knowing how its optimizer step is weighed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import numpy as np

from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError
from tbr_lightning.objectives.batch import Batch
from tbr_lightning.objectives.objective import Floats, Objective, chunks_of


class TrainBatches:
    """Micro-batches of random optimizer steps: another order each epoch, reproducible by seed.

    The rows of a step are drawn at random and only within it sorted by length into micro-batches.
    Steps of similar length would save more padding and change the training: a step is a mean over
    its tokens, so a row among short ones would weigh more than one among long ones, and rows with a
    reflection are the long ones. Averaging over micro-batches or ranks would do the same on a small
    scale; dividing by the step's own total keeps ``batch 8`` equal to ``4 x accumulation 2`` and to
    two ranks of 4.

    Every rank draws the same plan and takes its own micro-batches of it, so nobody has to ask
    anybody how many tokens a step has. Every step has ``accumulate * split`` micro-batches on every
    rank, the last and shorter one of an epoch too (DeepSpeed counts them).

    ``split`` divides one micro-batch of ``batch_size`` rows into that many parts: the gradient
    is the same, and rows of similar length share less padding.
    """

    def __init__(
        self,
        rows: TokenRows,
        objective: Objective,
        *,
        batch_size: int,
        accumulate: int,
        pad_id: int,
        seed: int,
        form: str = "bucketed",
        split: int = 1,
        rank: int = 0,
        world: int = 1,
        position: Callable[[], int] = lambda: 0,
        reference: Floats | None = None,
    ) -> None:
        self.rows, self.objective, self.pad_id, self.seed = rows, objective, pad_id, seed
        self.batch_size, self.accumulate, self.split = batch_size, accumulate, split
        self.form, self.rank, self.world = form, rank, world
        self.reference = reference
        self.position = position
        """Optimizer steps taken so far: where an epoch goes on, after a restart too."""
        each = objective.sequences_per_row
        self.lengths = rows.lengths.reshape(-1, each).sum(axis=1)
        self.kinds = rows.kinds[::each]
        self.totals = objective.totals(rows)
        self.supervised = objective.supervised(rows)
        if not self.totals.any():
            raise UserError(
                f"objective.answer_weight={objective.answer_weight:g} and "
                f"objective.reflection_weight={objective.reflection_weight:g} leave no token of "
                "these rows to learn: raise one"
            )

    @property
    def rows_per_step(self) -> int:
        """Number of rows of one optimizer step over all micro-batches and ranks."""
        return self.batch_size * self.accumulate * self.world

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps of one epoch."""
        return math.ceil(len(self.lengths) / self.rows_per_step)

    def __len__(self) -> int:
        """Return the number of this rank's micro-batches in an epoch."""
        return self.steps_per_epoch * self.accumulate * self.split

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = divmod(self.position(), self.steps_per_epoch)
        for step in self.plan(epoch)[done:]:
            inside = [i for micro in step for i in micro]
            weights = self.objective.step_weights(self.totals[inside], self.kinds[inside])
            shared = self.objective.shared(
                self.rows,
                step,
                self.pad_id,
                form=self.form,
                rank=self.rank,
                world=self.world,
                reference=self.reference,
            )
            for start in range(0, len(step), self.world):
                together = step[start : start + self.world]
                chunks, micro = chunks_of(self.supervised, together), together[self.rank]
                # A rank without a row repeats one of the step at weight zero: all must take part.
                yield self.objective.collate(
                    self.rows,
                    micro or step[0][:1],
                    self.pad_id,
                    form=self.form,
                    step=weights,
                    scale=1.0 if micro else 0.0,
                    chunks=chunks,
                    reference=self.reference,
                    shared=shared,
                )

    def plan(self, epoch: int) -> list[list[list[int]]]:
        """Return an epoch's optimizer steps, each as micro-batches (of all ranks) of row numbers.

        Micro-batches that the ranks work on at the same time are neighbours in length.
        """
        rng = random.Random(self.seed * 1_000_003 + epoch)
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        parts = self.accumulate * self.split * self.world
        steps = []
        for start in range(0, len(order), self.rows_per_step):
            step = order[start : start + self.rows_per_step]
            if self.form != "padded":
                step.sort(key=lambda i: self.lengths[i])
            steps.append([part.tolist() for part in np.array_split(np.array(step), parts)])
        return steps
