"""The interface of an objective, and what objectives share.

An objective is one dataclass in one file, named by ``_target_`` in ``conf/objective/``: its fields
are its settings, its methods define which rows it needs, what sequences they become, how these are
laid out as a batch, and what is minimised. Trainer, logger, estimate and preview use only these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError, at_least
from tbr_lightning.objectives.batch import Batch, StepWeights

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1024
"""Supervised positions whose logits are in memory at once."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """The loss of one micro-batch.

    Attributes:
        total: Weighted sum of the losses, a scalar with its graph.
        parts: Shape ``(len(objective.parts), 2)``: sum and count of each number worth logging,
            detached.
    """

    total: Tensor
    parts: Tensor


@dataclass
class Objective:
    """Base of every objective: supervised tokens weighed by span, a sequence for each row.

    Attributes:
        sequences_per_row: Number of token sequences that one row of the data becomes.
    """

    _target_: str = ""  # set by each class to its own path
    reflection_weight: float = 1.0  # loss weight of each token of the reflection
    answer_weight: float = 1.0  # loss weight of each token of the answer

    def __post_init__(self) -> None:
        for name in ("reflection_weight", "answer_weight"):
            at_least(f"objective.{name}", getattr(self, name), 0)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the numbers in :attr:`Loss.parts`, logged as ``train/NAME``."""
        return ()

    @property
    def sequences_per_row(self) -> int:
        """Number of token sequences that one row of the data becomes."""
        return 1

    @property
    def trained_by(self) -> str:
        """Trainer that minimises it: empty for ours, or ``trl``, which needs no :meth:`loss`."""
        return ""

    @property
    def uses_rejected(self) -> bool:
        """Whether it learns from dispreferred responses."""
        return False

    @property
    def form(self) -> str:
        """Name of what :meth:`sequences` makes of a row; empty for the row as it is."""
        return ""

    def check_rows(self, examples: Examples) -> None:
        """Raise :class:`UserError` unless the rows have what the objective needs."""
        require(
            examples,
            {"have no answer to learn, only one to avoid": lambda row: not row.response},
            "remove them, or use objective=kto",
        )

    def sequences(
        self, example: Example, reflection: str | None
    ) -> Sequence[tuple[str | None, str | None]]:
        """Return the (reflection, response) of each sequence that a row becomes.

        A response of ``None`` is a sequence that this row lacks.
        """
        return [(reflection, example.response)]

    def reference(self, model: Any, rows: TokenRows, pad_id: int) -> Floats | None:
        """Return values of each sequence under the starting weights, or ``None``.

        It is computed once before training and comes back in :attr:`Batch.reference`.
        """
        return None

    def is_of_start(self, model: Any, rows: TokenRows, pad_id: int, kept: Floats) -> bool:
        """Return whether a stored reference belongs to these rows under these weights.

        Args:
            model: Model as it starts the run.
            rows: Tokenised rows.
            pad_id: Token id of the padding.
            kept: Result of :meth:`reference` when the run began.
        """
        return len(kept) == len(rows)

    def shared(
        self,
        rows: TokenRows,
        step: Sequence[Sequence[int]],
        pad_id: int,
        *,
        form: str,
        rank: int,
        world: int,
        reference: Floats | None,
    ) -> Any:
        """Return what a rank's micro-batches of one step share: comes back in :attr:`Batch.shared`.

        Args:
            rows: Tokenised rows.
            step: Row numbers of every micro-batch of the step, those of ranks side by side.
            pad_id: Token id of the padding.
            form: Layout of the rows, see :meth:`collate`.
            rank: Rank of this process.
            world: Number of ranks.
            reference: Values of :meth:`reference`.
        """
        return None

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the loss of one micro-batch."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def token_weights(self, spans: npt.NDArray[Any], trigger: int) -> npt.NDArray[np.float32]:
        """Return the loss weight of each token of a sequence, shape ``(tokens,)``."""
        by_span = np.zeros(len(Span), dtype=np.float32)
        by_span[Span.REFLECTION] = self.reflection_weight
        by_span[Span.ANSWER] = self.answer_weight
        weights: npt.NDArray[np.float32] = by_span[spans]
        return weights

    def totals(self, rows: TokenRows) -> Floats:
        """Return the weight of each row of the data, shape ``(rows,)``, without reading tokens."""
        return self.sequence_totals(rows).reshape(-1, self.sequences_per_row).sum(axis=1)

    def sequence_totals(self, rows: TokenRows) -> Floats:
        """Return the sum of the token weights of each sequence, shape ``(sequences,)``."""
        counts = rows.span_counts.astype(np.float64)
        totals: Floats = (
            counts[:, Span.REFLECTION] * self.reflection_weight
            + counts[:, Span.ANSWER] * self.answer_weight
        )
        return totals

    def supervised(self, rows: TokenRows) -> npt.NDArray[np.int64]:
        """Return the number of supervised tokens of each row of the data, without reading them."""
        counts = np.zeros(len(rows), dtype=np.int64)
        for span, weight in (
            (Span.REFLECTION, self.reflection_weight),
            (Span.ANSWER, self.answer_weight),
        ):
            counts += rows.span_counts[:, span].astype(np.int64) * (weight > 0)
        return counts.reshape(-1, self.sequences_per_row).sum(axis=1)

    def step_weights(self, totals: Floats, kinds: npt.NDArray[np.uint8]) -> StepWeights:
        """Return how a step's losses are weighed.

        Args:
            totals: Weights of the step's rows over all micro-batches and ranks, see :meth:`totals`.
            kinds: Kinds of the same rows, as indices into :data:`tbr_lightning.kinds.KINDS`.
        """
        # A step without any weight has a loss of zero, not of zero over zero.
        return StepWeights(float(sum(totals)) or 1.0)

    def collate(
        self,
        rows: TokenRows,
        indices: Sequence[int],
        pad_id: int,
        *,
        form: str,
        step: StepWeights,
        scale: float = 1.0,
        chunks: int = 1,
        reference: Floats | None = None,
        shared: Any = None,
    ) -> Batch:
        """Lay out rows of the data as one batch.

        Args:
            rows: Tokenised rows.
            indices: Numbers of the rows of the data.
            pad_id: Token id of the padding.
            form: ``padded`` or ``bucketed``, or ``packed`` (one after the other).
            step: Weights of the step's losses.
            scale: Multiplies all weights; 0 for a batch that only fills a rank's place.
            chunks: Parts in which the logits are computed.
            reference: Values of :meth:`reference`.
            shared: Result of :meth:`shared`.
        """
        import torch

        each = self.sequences_per_row
        wanted = [n for i in indices for n in range(i * each, (i + 1) * each) if rows.lengths[n]]
        lengths = [int(rows.lengths[i]) for i in wanted]
        packed = form == "packed"
        shape = (1, sum(lengths)) if packed else (len(wanted), max(lengths))
        ids = np.full(shape, pad_id, dtype=np.int64)
        zeros = [np.zeros(shape, dtype=np.int64) for _ in range(5)]
        mask, positions, spans, kinds, sequences = zeros
        weights = np.zeros(shape, dtype=np.float32)
        triggers = np.zeros(shape, dtype=bool)
        start = 0
        for number, (i, length) in enumerate(zip(wanted, lengths, strict=True)):
            row, line = rows[i], 0 if packed else number
            here = slice(start, start + length) if packed else slice(0, length)
            ids[line, here] = row.ids
            mask[line, here] = 1
            positions[line, here] = np.arange(length)
            spans[line, here] = row.spans
            kinds[line, here] = row.kind
            sequences[line, here] = number
            own = self.token_weights(np.asarray(row.spans), row.trigger)
            weights[line, here] = own * (scale * step.by_kind[row.kind])
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
            sequences=torch.from_numpy(sequences),
            step_weight=step.divisor,
            real_tokens=sum(lengths) if scale else 0,
            scale=scale,
            chunks=chunks,
            reference=None if reference is None else torch.from_numpy(reference[wanted]),
            sides=torch.tensor([n % each for n in wanted]),
            shared=shared,
        )


def chunks_of(supervised: npt.NDArray[np.int64], batches: Sequence[Sequence[int]]) -> int:
    """Return the number of chunks in which ranks compute the logits of their batches together.

    Args:
        supervised: Supervised tokens of each row, see :meth:`Objective.supervised`.
        batches: Row numbers of each rank's batch.
    """
    most = max(int(supervised[list(batch)].sum()) for batch in batches)
    return max(1, math.ceil(most / CHUNK))


def token_losses(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of each supervised token, and where they are.

    Logits are computed only where the next token is supervised, and in chunks that backward
    computes again, so their memory grows neither with prompts nor with the batch. They are those
    of the model's own forward pass, whatever it does after projecting.

    Returns:
        Negative log-likelihoods, shape ``(supervised,)``, and a mask of shape
        ``(lines, tokens - 1)`` over the tokens but the first.
    """
    from torch.nn import functional

    from tbr_lightning.models.lm_head import logits_of

    targets, weights = batch.input_ids[:, 1:], batch.weights[:, 1:]
    # A batch that only fills a rank's place has no weight anywhere, and no position to look at.
    chosen = weights > 0
    hidden, wanted = decode(model, batch)[:, :-1][chosen], targets[chosen]

    def losses(states: Tensor, tokens: Tensor) -> Tensor:
        return functional.cross_entropy(logits_of(model, states), tokens, reduction="none")

    return in_chunks(losses, hidden, wanted, batch.chunks), chosen


def in_chunks(
    compute: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, chunks: int
) -> Tensor:
    """Return ``compute(a, b)``, a part at a time, each computed again by backward."""
    import torch
    from torch.utils.checkpoint import checkpoint

    if chunks == 1:
        return compute(a, b)
    pieces = zip(a.tensor_split(chunks), b.tensor_split(chunks), strict=True)
    return torch.cat([checkpoint(compute, one, two, use_reentrant=False) for one, two in pieces])


def decode(model: Any, batch: Batch) -> Tensor:
    """Return the last hidden states, shape ``(lines, tokens, width)``."""
    from tbr_lightning.models.row_attention import decode_packed

    if batch.position_ids is not None:
        return decode_packed(model, batch.input_ids, batch.position_ids)
    states: Tensor = model.get_decoder()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    return states


def require(examples: Examples, lacking: Mapping[str, Callable[[Example], bool]], fix: str) -> None:
    """Raise :class:`UserError` with the first row that lacks something, and how many do."""
    for what, lacks in lacking.items():
        found = [row for row in examples if lacks(row)]
        if found:
            raise UserError(
                f"{len(found)} of {len(examples)} rows {what}, the first is "
                f"'{found[0].instruction[:60]}' of {found[0].source}: {fix}"
            )
