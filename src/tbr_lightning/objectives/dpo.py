"""Direct preference optimisation, chosen and rejected each with or without a reflection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError, one_of, within
from tbr_lightning.objectives.objective import (
    Batch,
    Floats,
    Loss,
    Objective,
    StepWeights,
    require,
    token_losses,
)

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 8  # rows of which the reference is computed at once


@dataclass
class DPO(Objective):
    """Prefers the response of a row over its dispreferred one, relative to the starting weights.

    The reference is the model before training: the log-probabilities of both responses are computed
    once under the starting weights (an adapter then changes nothing), so no second model is held.

    Source:
        Rafailov et al., Direct Preference Optimization, NeurIPS 2023; label smoothing: Mitchell,
        A note on DPO with noisy preferences, 2023. That it is combined with reflections is ours:
        the paper on Think-Before-Refusal names it as an open question.
    """

    _target_: str = "tbr_lightning.objectives.dpo.DPO"
    beta: float = 0.1  # how strongly the model is held to its reference
    label_smoothing: float = 0.0  # share of the pairs that are taken to be labelled wrongly
    reflect: str = "chosen"  # chosen | both | none: which responses carry the row's reflection

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise UserError(f"objective.beta={self.beta} is too small: give a value above 0")
        within("objective.label_smoothing", self.label_smoothing, 0, 0.5)
        one_of("objective.reflect", self.reflect, ("chosen", "both", "none"))

    @property
    def parts(self) -> tuple[str, ...]:
        """Share of pairs ranked rightly, the margin, and the reward of either response."""
        return (
            "preferences/accuracy",
            "preferences/margin",
            "preferences/chosen_reward",
            "preferences/rejected_reward",
        )

    @property
    def sequences_per_row(self) -> int:
        """The chosen response, and then the rejected one."""
        return 2

    @property
    def form(self) -> str:
        """Tells pairs from single rows, and which of a pair reflects."""
        return f"pairs/{self.reflect}"

    def check_rows(self, examples: Examples) -> None:
        """Raise :class:`UserError` unless each row has a dispreferred response of its own."""
        require(
            examples,
            {
                "have no dispreferred response": lambda row: not (row.rejected or "").strip(),
                "prefer a response to itself": lambda row: row.rejected == row.response,
            },
            "objective=dpo learns from pairs: give rows with both, or use objective=sft",
        )

    def sequences(
        self, example: Example, reflection: str | None
    ) -> Sequence[tuple[str | None, str]]:
        """Return the chosen sequence and the rejected one."""
        chosen = reflection if self.reflect in ("chosen", "both") else None
        rejected = reflection if self.reflect == "both" else None
        return [(chosen, example.response), (rejected, example.rejected or "")]

    def reference(self, model: Any, rows: TokenRows, pad_id: int) -> Floats:
        """Return the log-probability of each sequence under the starting weights."""
        import torch

        found = np.zeros(len(rows))
        order = sorted(range(rows.data_rows), key=lambda i: int(rows.lengths[2 * i]))
        for start in range(0, len(order), _ROWS):
            some = order[start : start + _ROWS]
            batch = self.collate(rows, some, pad_id, form="padded", step=StepWeights(1.0))
            with torch.no_grad():
                sums = self._log_probabilities(model, batch.to(model.device))
            found[[2 * i + k for i in some for k in range(2)]] = sums.double().cpu().numpy()
        return found

    def weight(self, batch: Batch) -> float:
        """Return the number of pairs."""
        return batch.scale * (int(batch.sequences.max()) + 1) / 2

    def totals(self, rows: TokenRows) -> Floats:
        """Return the weight of each row: a pair counts as one, however long it is."""
        return (super().totals(rows) > 0).astype(np.float64)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the sum over pairs of the negative log-likelihood of the preference."""
        import torch
        from torch.nn.functional import logsigmoid

        assert batch.reference is not None
        gained = self._log_probabilities(model, batch) - batch.reference.to(batch.weights.dtype)
        rewards = self.beta * gained.view(-1, 2)
        margin = rewards[:, 0] - rewards[:, 1]
        right, wrong = 1 - self.label_smoothing, self.label_smoothing
        losses = -right * logsigmoid(margin) - wrong * logsigmoid(-margin)
        seen = rewards.detach().double()
        numbers = torch.stack(
            [(margin.detach() > 0).double(), seen[:, 0] - seen[:, 1], seen[:, 0], seen[:, 1]]
        )
        counts = torch.full_like(numbers, batch.scale).sum(dim=1)
        parts = torch.stack([numbers.sum(dim=1) * batch.scale, counts], dim=1)
        return Loss(losses.sum() * batch.scale, parts)

    def _log_probabilities(self, model: Any, batch: Batch) -> Tensor:
        """Return the weighted log-probability of each sequence, shape ``(sequences,)``."""
        import torch

        losses, chosen = token_losses(model, batch)
        weighted = losses * batch.weights[:, 1:][chosen]
        count = int(batch.sequences.max()) + 1
        sums = torch.zeros(count, dtype=weighted.dtype, device=weighted.device)
        return sums.index_add(0, batch.sequences[:, 1:][chosen], -weighted)
