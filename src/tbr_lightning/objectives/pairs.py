"""Shared by objectives over pairs: the rows they need, sequence scores, and what is logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError, above, one_of, within
from tbr_lightning.objectives.batch import Batch, StepWeights
from tbr_lightning.objectives.objective import Floats, Loss, Objective, require, token_losses

if TYPE_CHECKING:
    from torch import Tensor

_CHECKED = 4  # rows whose values distinguish one model from another
_ROWS = 8  # rows of which the reference is computed at once


@dataclass(frozen=True)
class Scores:
    """The sequences of a batch under a model.

    Attributes:
        sums: Shape ``(sequences,)``, weighted sums of the tokens' log-probabilities.
        weights: Shape ``(sequences,)``, sums of the token weights; 1 where there are none.
    """

    sums: Tensor
    weights: Tensor

    @property
    def means(self) -> Tensor:
        """Weighted means of the tokens' log-probabilities, shape ``(sequences,)``."""
        return self.sums / self.weights


def sequence_scores(model: Any, batch: Batch) -> Scores:
    """Return the log-probability of each sequence: of reflection, answer or both, by weight."""
    import torch

    losses, chosen = token_losses(model, batch)
    weights, owner = batch.weights[:, 1:][chosen], batch.sequences[:, 1:][chosen]
    count = int(batch.sequences.max()) + 1
    zeros = torch.zeros(count, dtype=losses.dtype, device=losses.device)
    total = zeros.index_add(0, owner, weights.to(losses.dtype))
    return Scores(zeros.index_add(0, owner, -losses * weights), torch.where(total > 0, total, 1.0))


def reference_sums(
    objective: Objective, model: Any, rows: TokenRows, pad_id: int, most: int | None = None
) -> Floats:
    """Return the log-probability of each sequence under the starting weights, without gradients.

    Args:
        objective: Objective that lays the rows out.
        model: Model before its first step, so that an adapter changes nothing yet.
        rows: Tokenised rows.
        pad_id: Token id of the padding.
        most: Number of first rows to compute; ``None`` for all. The others' values are 0.
    """
    import torch

    each = objective.sequences_per_row
    found = np.zeros(len(rows))
    count = rows.data_rows if most is None else min(most, rows.data_rows)
    order = sorted(range(count), key=lambda i: int(rows.lengths[i * each]))
    for start in range(0, len(order), _ROWS):
        some = order[start : start + _ROWS]
        batch = objective.collate(rows, some, pad_id, form="padded", step=StepWeights(1.0))
        with torch.no_grad():
            sums = sequence_scores(model, batch.to(model.device)).sums
        places = [n for i in some for n in range(i * each, (i + 1) * each) if rows.lengths[n]]
        found[places] = sums.double().cpu().numpy()
    return found


def sums_agree(
    objective: Objective, model: Any, rows: TokenRows, pad_id: int, kept: Floats
) -> bool:
    """Return whether the kept log-probabilities of the first rows are those under these weights.

    The tolerance allows for other kernels, thread counts and number types of the same weights.
    """
    if len(kept) != len(rows):
        return False
    looked = _CHECKED * objective.sequences_per_row
    found = reference_sums(objective, model, rows, pad_id, most=_CHECKED)[:looked]
    return bool(np.allclose(found, kept[:looked], rtol=0.02, atol=0.2))


@dataclass
class PairObjective(Objective):
    """Base of objectives over pairs: the chosen response of a row, and then the rejected one.

    Either carries the row's reflection or does not; how much a token counts is set by its span.
    A pair counts as one, however long it is.
    """

    beta: float = 0.1  # scale of the rewards
    label_smoothing: float = 0.0  # share of the pairs that are taken to be labelled wrongly
    reflect: str = "chosen"  # chosen | both | none: which responses carry the row's reflection

    def __post_init__(self) -> None:
        super().__post_init__()
        above("objective.beta", self.beta, 0)
        within("objective.label_smoothing", self.label_smoothing, 0, 0.5)
        one_of("objective.reflect", self.reflect, ("chosen", "both", "none"))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the logged numbers: pairs ranked correctly, the margin, and both rewards."""
        return (
            "preferences/accuracy",
            "preferences/margin",
            "preferences/chosen_reward",
            "preferences/rejected_reward",
        )

    @property
    def sequences_per_row(self) -> int:
        """Two: the chosen response, then the rejected one."""
        return 2

    @property
    def uses_rejected(self) -> bool:
        """True: it learns from dispreferred responses."""
        return True

    @property
    def form(self) -> str:
        """Name that distinguishes pairs from single rows, and shows which of a pair reflects."""
        return f"pairs/{self.reflect}"

    def check_rows(self, examples: Examples) -> None:
        """Raise :class:`UserError` unless each row has a dispreferred response of its own."""
        require(
            examples,
            {
                "have no preferred response": lambda row: not row.response.strip(),
                "have no dispreferred response": lambda row: not (row.rejected or "").strip(),
                "prefer a response to itself": lambda row: row.rejected == row.response,
            },
            f"objective={self.name} learns from pairs: give rows with both, or use objective=sft "
            "(which needs no dispreferred one) or objective=kto (which needs no pairs)",
        )

    @property
    def name(self) -> str:
        """Name of the objective, for messages."""
        return self._target_.rpartition(".")[2].lower()

    def sequences(
        self, example: Example, reflection: str | None
    ) -> Sequence[tuple[str | None, str | None]]:
        """Return the chosen sequence and the rejected one."""
        chosen = reflection if self.reflect in ("chosen", "both") else None
        rejected = reflection if self.reflect == "both" else None
        return [(chosen, example.response), (rejected, example.rejected or "")]

    def totals(self, rows: TokenRows) -> Floats:
        """Return the weight of each row: a pair counts as one, however long it is."""
        return (super().totals(rows) > 0).astype(np.float64)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the sum of the pairs' losses."""
        import torch

        scores = sequence_scores(model, batch)
        if not batch.scale:  # only fills a rank's place: it takes part, and counts nothing
            none = torch.zeros(len(self.parts), 2, dtype=torch.float64, device=scores.sums.device)
            return Loss(scores.sums.sum() * 0, none)
        losses, rewards = self.pair_losses(scores, batch)
        seen = rewards.detach().double()
        margin = seen[:, 0] - seen[:, 1]
        numbers = torch.stack([(margin > 0).double(), margin, seen[:, 0], seen[:, 1]])
        counts = torch.full_like(numbers, 1).sum(dim=1)
        return Loss(losses.sum(), torch.stack([numbers.sum(dim=1), counts], dim=1))

    def pair_losses(self, scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of each pair, shape ``(pairs,)``, and its rewards, ``(pairs, 2)``.

        Args:
            scores: Scores of the sequences; the chosen and rejected one of a pair are consecutive.
            batch: Batch of those sequences.
        """
        raise NotImplementedError(f"{type(self).__name__} must define pair_losses")

    def preference(self, margin: Tensor) -> Tensor:
        """Return the smoothed negative log-likelihood of preferring by a margin of rewards."""
        from torch.nn.functional import logsigmoid

        right, wrong = 1 - self.label_smoothing, self.label_smoothing
        return -right * logsigmoid(margin) - wrong * logsigmoid(-margin)

    def needs_answers(self) -> None:
        """Raise :class:`UserError` where a response may have no tokens to average over."""
        if self.answer_weight == 0:
            raise UserError(
                f"objective.answer_weight=0 leaves objective={self.name} nothing to average in a "
                "response without a reflection: give a value above 0"
            )
