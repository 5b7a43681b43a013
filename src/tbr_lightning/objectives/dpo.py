"""Direct preference optimisation, and its variant IPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError, one_of
from tbr_lightning.objectives.batch import Batch
from tbr_lightning.objectives.objective import Floats
from tbr_lightning.objectives.pairs import PairObjective, Scores, reference_sums, sums_agree

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class DPO(PairObjective):
    """Prefers the response of a row over its dispreferred one, relative to the starting weights.

    The reference is the model before training: the log-probabilities of both responses are computed
    once under the starting weights (an adapter then changes nothing), so no second model is held.

    Source:
        Rafailov et al., Direct Preference Optimization, NeurIPS 2023; label smoothing: Mitchell,
        A note on DPO with noisy preferences, 2023; ``variant=ipo``: Azar et al., A General
        Theoretical Paradigm to Understand Learning from Human Preferences, 2023, equation 17,
        with log-ratios averaged over tokens as in TRL. The combination with reflections is
        ours: the paper on Think-Before-Refusal names it as an open question.
    """

    _target_: str = "tbr_lightning.objectives.dpo.DPO"
    variant: str = "sigmoid"  # sigmoid | ipo: drives the margin to 1 / (2 beta), not without bound

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("objective.variant", self.variant, ("sigmoid", "ipo"))
        if self.variant == "ipo":
            self.needs_answers()
            if self.label_smoothing:
                raise UserError(
                    f"objective.label_smoothing={self.label_smoothing:g} is of variant=sigmoid: "
                    "leave it out with objective=ipo, whose margin is bounded as it is"
                )

    @property
    def name(self) -> str:
        """Name of the objective, for messages."""
        return "ipo" if self.variant == "ipo" else "dpo"

    def reference(self, model: Any, rows: TokenRows, pad_id: int) -> Floats:
        """Return the log-probability of each sequence under the starting weights."""
        return reference_sums(self, model, rows, pad_id)

    def is_of_start(self, model: Any, rows: TokenRows, pad_id: int, kept: Floats) -> bool:
        """Return whether a stored reference belongs to these rows under these weights."""
        return sums_agree(self, model, rows, pad_id, kept)

    def pair_losses(self, scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihood of each preference, or IPO's squared distance."""
        assert batch.reference is not None
        gained = scores.sums - batch.reference.to(scores.sums.dtype)
        if self.variant == "ipo":
            gained = gained / scores.weights
            pairs = gained.view(-1, 2)
            return (pairs[:, 0] - pairs[:, 1] - 1 / (2 * self.beta)) ** 2, self.beta * pairs
        rewards = self.beta * gained.view(-1, 2)
        return self.preference(rewards[:, 0] - rewards[:, 1]), rewards
