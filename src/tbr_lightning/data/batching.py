"""Micro-batches of one rank, each knowing how many supervised tokens its optimizer step has."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from tbr_lightning.config.schema import ObjectiveConfig
from tbr_lightning.data.think_format import Span
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError

CHUNK = 1024
"""Supervised positions whose logits are in memory at once."""


@dataclass
class Batch:
    """The rows of a micro-batch, one below the other with padding on the right, or packed.

    Packed rows stand one after the other in a single line without any padding. Their positions
    start anew with each row, and from that every attention kernel of transformers keeps them apart.

    Attributes:
        input_ids: Shape ``(lines, tokens)``.
        attention_mask: Shape ``(lines, tokens)``, 1 where a token is real; ``None`` when packed.
        position_ids: Shape ``(lines, tokens)`` when packed, else ``None``.
        weights: Shape ``(lines, tokens)``, loss weight of predicting that token; 0 for prompts.
        spans: Shape ``(lines, tokens)``, see :class:`tbr_lightning.data.think_format.Span`.
        kinds: Shape ``(lines, tokens)``, index into :data:`tbr_lightning.kinds.KINDS`.
        triggers: Shape ``(lines, tokens)``, true at each row's first supervised token.
        step_weight: Sum of the weights over all micro-batches and ranks of the optimizer step.
        real_tokens: Tokens that are neither padding nor of a row that only fills a place.
        chunks: Parts in which the logits are computed. The same on all ranks at the same time, for
            where each holds a part of the weights they all gather them once for each chunk.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    weights: Tensor
    spans: Tensor
    kinds: Tensor
    triggers: Tensor
    step_weight: float
    real_tokens: int
    chunks: int = 1

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device."""
        tensors = {
            item.name: value.to(device)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **tensors)  # type: ignore[arg-type]


def row_weights(spans: np.ndarray, trigger: int, objective: ObjectiveConfig) -> np.ndarray:
    """Return the loss weight of each token of a row, shape ``(tokens,)``."""
    by_span = np.zeros(len(Span), dtype=np.float32)
    by_span[Span.REFLECTION] = objective.reflection_weight
    by_span[Span.ANSWER] = objective.answer_weight
    weights = by_span[spans]
    weights[trigger] *= objective.trigger_weight
    return weights


def total_weights(rows: TokenRows, objective: ObjectiveConfig) -> np.ndarray:
    """Return the sum of the loss weights of each row, shape ``(rows,)``, without reading tokens."""
    reflection = rows.span_counts[:, Span.REFLECTION].astype(np.float64)
    answer = rows.span_counts[:, Span.ANSWER].astype(np.float64)
    first = np.where(reflection > 0, objective.reflection_weight, objective.answer_weight)
    return (
        reflection * objective.reflection_weight
        + answer * objective.answer_weight
        + first * (objective.trigger_weight - 1)
    )


def supervised_counts(rows: TokenRows, objective: ObjectiveConfig) -> np.ndarray:
    """Return how many tokens of each row are learnt, shape ``(rows,)``, without reading them."""
    counts = np.zeros(len(rows), dtype=np.int64)
    for span, weight in (
        (Span.REFLECTION, objective.reflection_weight),
        (Span.ANSWER, objective.answer_weight),
    ):
        counts += rows.span_counts[:, span].astype(np.int64) * (weight > 0)
    return counts


def chunks_of(supervised: np.ndarray, batches: Sequence[Sequence[int]]) -> int:
    """Return in how many chunks the logits of batches are computed that ranks take together.

    Args:
        supervised: Of each row, see :func:`supervised_counts`.
        batches: The row numbers of each rank's batch.
    """
    most = max(int(supervised[list(batch)].sum()) for batch in batches)
    return max(1, math.ceil(most / CHUNK))


class TrainBatches:
    """Micro-batches of random optimizer steps: another order each epoch, reproducible by seed.

    The rows of a step are drawn at random and only within it sorted by length into micro-batches.
    Steps of similar length would save more padding and change what is learnt: a step is a mean over
    its tokens, so a row among short ones would weigh more than one among long ones, and rows with a
    reflection are the long ones. Averaging over micro-batches or ranks would do the same on a small
    scale; dividing by the step's own total keeps ``batch 8`` equal to ``4 x accumulation 2`` and to
    two ranks of 4.

    Every rank draws the same plan and takes its own micro-batches of it, so nobody has to ask
    anybody how many tokens a step has. Every step has ``accumulate * split`` micro-batches on every
    rank, the last and shorter one of an epoch too (DeepSpeed counts them).

    ``split`` cuts what would be one micro-batch of ``batch_size`` rows into so many: the gradient
    is the same, and rows of similar length share less padding.
    """

    def __init__(
        self,
        rows: TokenRows,
        objective: ObjectiveConfig,
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
    ) -> None:
        self.rows, self.objective, self.pad_id, self.seed = rows, objective, pad_id, seed
        self.batch_size, self.accumulate, self.split = batch_size, accumulate, split
        self.form, self.rank, self.world = form, rank, world
        self.position = position
        """Optimizer steps taken so far: where an epoch goes on, after a restart too."""
        self.totals = total_weights(rows, objective)
        self.supervised = supervised_counts(rows, objective)
        if not self.totals.any():
            raise UserError(
                f"objective.answer_weight={objective.answer_weight:g} and "
                f"objective.reflection_weight={objective.reflection_weight:g} leave no token of "
                "these rows to learn: raise one"
            )

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step over all micro-batches and ranks."""
        return self.batch_size * self.accumulate * self.world

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return math.ceil(len(self.rows) / self.rows_per_step)

    def __len__(self) -> int:
        """Return the number of this rank's micro-batches in an epoch."""
        return self.steps_per_epoch * self.accumulate * self.split

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = divmod(self.position(), self.steps_per_epoch)
        for step in self.plan(epoch)[done:]:
            # A step without any weight has a loss of zero, not of zero over zero.
            total = float(sum(self.totals[i] for micro in step for i in micro)) or 1.0
            for start in range(0, len(step), self.world):
                together = step[start : start + self.world]
                chunks, micro = chunks_of(self.supervised, together), together[self.rank]
                # A rank without a row repeats one of the step at weight zero: all must take part.
                yield (
                    self.collate(micro, total, chunks=chunks)
                    if micro
                    else self.collate(step[0][:1], total, scale=0.0, chunks=chunks)
                )

    def plan(self, epoch: int) -> list[list[list[int]]]:
        """Return an epoch's optimizer steps, each as micro-batches (of all ranks) of row numbers.

        Micro-batches that the ranks work on at the same time are neighbours in length.
        """
        rng = random.Random(self.seed * 1_000_003 + epoch)
        order = list(range(len(self.rows)))
        rng.shuffle(order)
        parts = self.accumulate * self.split * self.world
        steps = []
        for start in range(0, len(order), self.rows_per_step):
            step = order[start : start + self.rows_per_step]
            if self.form != "padded":
                step.sort(key=lambda i: self.rows.lengths[i])
            steps.append([part.tolist() for part in np.array_split(np.array(step), parts)])
        return steps

    def collate(
        self, indices: Sequence[int], step_weight: float, scale: float = 1.0, chunks: int = 1
    ) -> Batch:
        """Lay out the rows of one micro-batch; ``scale`` multiplies all weights."""
        return collate(
            self.rows,
            indices,
            self.objective,
            self.pad_id,
            form=self.form,
            step_weight=step_weight,
            scale=scale,
            chunks=chunks,
        )


def collate(
    rows: TokenRows,
    indices: Sequence[int],
    objective: ObjectiveConfig,
    pad_id: int,
    *,
    form: str,
    step_weight: float,
    scale: float = 1.0,
    chunks: int = 1,
) -> Batch:
    """Lay out rows as one batch, padded or (``form="packed"``) one after the other."""
    lengths = [int(rows.lengths[i]) for i in indices]
    packed = form == "packed"
    shape = (1, sum(lengths)) if packed else (len(indices), max(lengths))
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask, positions, spans, kinds = (np.zeros(shape, dtype=np.int64) for _ in range(4))
    weights = np.zeros(shape, dtype=np.float32)
    triggers = np.zeros(shape, dtype=bool)
    start = 0
    for number, (i, length) in enumerate(zip(indices, lengths, strict=True)):
        row, line = rows[i], 0 if packed else number
        here = slice(start, start + length) if packed else slice(0, length)
        ids[line, here] = row.ids
        mask[line, here] = 1
        positions[line, here] = np.arange(length)
        spans[line, here] = row.spans
        kinds[line, here] = row.kind
        weights[line, here] = row_weights(np.asarray(row.spans), row.trigger, objective) * scale
        triggers[line, here.start + row.trigger] = True
        start += length
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=None if packed else torch.from_numpy(mask),
        position_ids=torch.from_numpy(positions) if packed else None,
        weights=torch.from_numpy(weights),
        spans=torch.from_numpy(spans),
        kinds=torch.from_numpy(kinds),
        triggers=torch.from_numpy(triggers),
        step_weight=step_weight,
        real_tokens=sum(lengths) if scale else 0,
        chunks=chunks,
    )
