"""Batches, each knowing how many supervised tokens its optimizer step has."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbr_lightning.config.schema import ObjectiveConfig
from tbr_lightning.data.layout import Span, TokenRow


@dataclass
class Batch:
    """Padded rows on the right.

    Attributes:
        input_ids: Shape ``(rows, tokens)``.
        attention_mask: Shape ``(rows, tokens)``, 1 where a token is real.
        weights: Shape ``(rows, tokens)``, loss weight of predicting that token; 0 for prompts.
        spans: Shape ``(rows, tokens)``, see :class:`tbr_lightning.data.layout.Span`.
        kinds: Shape ``(rows,)``, index into :data:`tbr_lightning.data.example.KINDS`.
        triggers: Shape ``(rows,)``, index of each row's first supervised token.
        normalizer: Sum of the weights over all micro-batches of the optimizer step, divided by
            the number of micro-batches, since the trainer averages over them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor
    spans: Tensor
    kinds: Tensor
    triggers: Tensor
    normalizer: float

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device."""
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.weights.to(device),
            self.spans.to(device),
            self.kinds.to(device),
            self.triggers.to(device),
            self.normalizer,
        )


def row_weights(row: TokenRow, objective: ObjectiveConfig) -> list[float]:
    """Return the loss weight of each token of a row."""
    by_span = {
        Span.PROMPT: 0.0,
        Span.REFLECTION: objective.reflection_weight,
        Span.ANSWER: objective.answer_weight,
    }
    weights = [by_span[Span(span)] for span in row.spans]
    weights[row.trigger] *= objective.trigger_weight
    return weights


class TrainBatches:
    """Micro-batches of random optimizer steps: another order each epoch, reproducible by seed.

    The rows of a step are drawn at random and only within it sorted by length into micro-batches.
    Steps of similar length would save more padding and change what is learnt: a step is a mean over
    its tokens, so a row among short ones would weigh more than one among long ones, and rows with a
    reflection are the long ones. Averaging over micro-batches would do the same on a small scale;
    dividing by the step's own total keeps ``batch 8`` equal to ``4 x accumulation 2``.
    """

    def __init__(
        self,
        rows: Sequence[TokenRow],
        objective: ObjectiveConfig,
        *,
        batch_size: int,
        accumulate: int,
        pad_id: int,
        seed: int,
    ) -> None:
        self.rows, self.pad_id, self.seed = rows, pad_id, seed
        self.batch_size, self.accumulate = batch_size, accumulate
        self.weights = [row_weights(row, objective) for row in rows]
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of micro-batches in an epoch."""
        return math.ceil(len(self.rows) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        plan = self.plan(self.epoch)
        self.epoch += 1
        for step in plan:
            total = sum(sum(self.weights[i]) for indices in step for i in indices)
            for indices in step:
                # The trainer divides by `accumulate`, in the last and shorter step as well.
                yield self.collate(indices, total / self.accumulate)

    def plan(self, epoch: int) -> list[list[list[int]]]:
        """Return the optimizer steps of one epoch, each as micro-batches of row numbers."""
        rng = random.Random(self.seed * 1_000_003 + epoch)
        order = list(range(len(self.rows)))
        rng.shuffle(order)
        size = self.batch_size * self.accumulate
        steps = []
        for start in range(0, len(order), size):
            step = sorted(order[start : start + size], key=lambda i: len(self.rows[i].ids))
            steps.append(
                [step[i : i + self.batch_size] for i in range(0, len(step), self.batch_size)]
            )
        return steps

    def collate(self, indices: Sequence[int], normalizer: float) -> Batch:
        """Pad the rows of one micro-batch."""
        shape = (len(indices), max(len(self.rows[i].ids) for i in indices))
        ids = torch.full(shape, self.pad_id)
        mask, spans = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        weights = torch.zeros(shape)
        triggers = torch.tensor([self.rows[i].trigger for i in indices])
        for line, i in enumerate(indices):
            row, length = self.rows[i], len(self.rows[i].ids)
            ids[line, :length] = torch.tensor(row.ids)
            mask[line, :length] = 1
            spans[line, :length] = torch.tensor(row.spans)
            weights[line, :length] = torch.tensor(self.weights[i])
        kinds = torch.tensor([self.rows[i].kind for i in indices])
        return Batch(ids, mask, weights, spans, kinds, triggers, normalizer)
