"""Length-bucketed batches, each knowing how many supervised tokens its optimizer step has."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tbr_lightning.config.schema import ObjectiveConfig
from tbr_lightning.data.layout import Span, TokenRow

_BUCKET_BATCHES = 16  # rows of this many batches are sorted by length together


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
    """Batches of rows of similar length: another order each epoch, reproducible by seed.

    Averaging over micro-batches would weight a token of a short micro-batch more than one of a
    long; dividing by the step's own total keeps ``batch 8`` equal to ``4 x accumulation 2``.
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
        for start in range(0, len(plan), self.accumulate):
            step = plan[start : start + self.accumulate]
            total = sum(sum(self.weights[i]) for indices in step for i in indices)
            for indices in step:
                yield self.collate(indices, total / self.accumulate)

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the micro-batches of one epoch as lists of row numbers."""
        rng = random.Random(self.seed * 1_000_003 + epoch)
        order = list(range(len(self.rows)))
        rng.shuffle(order)
        size = self.batch_size * _BUCKET_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), size):
            bucket = sorted(order[start : start + size], key=lambda i: len(self.rows[i].ids))
            batches += [
                bucket[i : i + self.batch_size] for i in range(0, len(bucket), self.batch_size)
            ]
        rng.shuffle(batches)
        return batches

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
