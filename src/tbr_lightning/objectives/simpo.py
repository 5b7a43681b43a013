"""Simple preference optimisation: mean log-probabilities, a margin, no reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tbr_lightning.errors import at_least
from tbr_lightning.objectives.batch import Batch
from tbr_lightning.objectives.pairs import PairObjective, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SimPO(PairObjective):
    """Prefers the response whose tokens are likelier on average, by a margin.

    Source:
        Meng et al., SimPO: Simple Preference Optimization with a Reference-Free Reward, NeurIPS
        2024, equation 6.
    """

    _target_: str = "tbr_lightning.objectives.simpo.SimPO"
    beta: float = 2.0  # scale of the rewards, which are means over tokens
    gamma: float = 1.0  # margin by which the chosen reward should be above the rejected one

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("objective.gamma", self.gamma, 0)
        self.needs_answers()

    def pair_losses(self, scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihood of each preference above the margin."""
        rewards = self.beta * scores.means.view(-1, 2)
        return self.preference(rewards[:, 0] - rewards[:, 1] - self.gamma), rewards
