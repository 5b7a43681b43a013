"""Supervised fine-tuning on reflection and answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tbr_lightning.data.think_format import Span
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError, at_least, one_of
from tbr_lightning.kinds import KINDS
from tbr_lightning.objectives.batch import Batch, StepWeights
from tbr_lightning.objectives.objective import Floats, Loss, Objective, token_losses

if TYPE_CHECKING:
    from torch import Tensor

_GENERAL = KINDS.index("general")


@dataclass
class SFT(Objective):
    """Weighted negative log-likelihood of reflection and answer, given the prompt.

    Source:
        The loss that we assume for Think-Before-Refusal (arXiv 2503.17882), as a mean over all
        supervised tokens of an optimizer step or, as a summary of the paper words it, as one term
        for safety rows and one for general rows.
    """

    _target_: str = "tbr_lightning.objectives.sft.SFT"
    trigger_weight: float = 1.0  # of the first supervised token, which decides whether to reflect
    normalise: str = "pooled"  # pooled: one mean | by_kind: safety and general rows averaged apart
    safety_weight: float = 1.0  # by_kind: weight of the mean over harmful and look-alike rows
    general_weight: float = 1.0  # by_kind: weight of the mean over general rows

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("objective.normalise", self.normalise, ("pooled", "by_kind"))
        for name in ("trigger_weight", "safety_weight", "general_weight"):
            at_least(f"objective.{name}", getattr(self, name), 0)
        if self.normalise == "pooled" and (self.safety_weight, self.general_weight) != (1, 1):
            raise UserError(
                f"objective.safety_weight={self.safety_weight:g} and objective.general_weight="
                f"{self.general_weight:g} weigh means apart: add objective.normalise=by_kind"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The mean loss of each span, and the probability of the right first token.

        The first token decides whether the model reflects at all.
        """
        return (
            *(f"loss/{kind}/{span}" for kind in KINDS for span in ("reflection", "answer")),
            *(f"trigger/{kind}" for kind in KINDS),
        )

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the weighted sum of the token losses."""
        losses, chosen = token_losses(model, batch)
        total = (losses * batch.weights[:, 1:][chosen]).sum()
        return Loss(total, self._parts(losses.detach(), batch, chosen))

    def token_weights(self, spans: npt.NDArray[Any], trigger: int) -> npt.NDArray[np.float32]:
        """Return the loss weight of each token of a sequence, shape ``(tokens,)``."""
        weights = super().token_weights(spans, trigger)
        weights[trigger] *= self.trigger_weight
        return weights

    def totals(self, rows: TokenRows) -> Floats:
        """Return the sum of the loss weights of each row, without reading tokens."""
        reflects = rows.span_counts[:, Span.REFLECTION] > 0
        first = np.where(reflects, self.reflection_weight, self.answer_weight)
        return super().totals(rows) + first * (self.trigger_weight - 1)

    def step_weights(self, totals: Floats, kinds: npt.NDArray[np.uint8]) -> StepWeights:
        """Return one divisor, or with ``by_kind`` a factor for either kind of row."""
        if self.normalise == "pooled":
            return super().step_weights(totals, kinds)
        general = kinds == _GENERAL
        of_general = _share(self.general_weight, totals[general])
        of_safety = _share(self.safety_weight, totals[~general])
        return StepWeights(
            1.0, tuple(of_general if k == _GENERAL else of_safety for k in range(len(KINDS)))
        )

    def _parts(self, losses: Tensor, batch: Batch, chosen: Tensor) -> Tensor:
        import torch

        kinds, spans = batch.kinds[:, 1:][chosen], batch.spans[:, 1:][chosen]
        first = batch.triggers[:, 1:][chosen]
        sums = torch.zeros(len(self.parts), 2, dtype=torch.float64, device=losses.device)
        values = torch.stack([losses.double(), torch.ones_like(losses, dtype=torch.float64)], dim=1)
        sums.index_add_(0, kinds * 2 + (spans - int(Span.REFLECTION)), values)
        certainty = torch.stack([losses.double().neg().exp(), values[:, 1]], dim=1)
        sums.index_add_(0, 2 * len(KINDS) + kinds[first], certainty[first])
        return sums


def _share(weight: float, totals: Floats) -> float:
    """Return the factor of each token of a term; 0 where a step has no rows of it."""
    found = float(totals.sum())
    return weight / found if found else 0.0
