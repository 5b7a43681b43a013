"""Odds ratio preference optimisation: fine-tuning and preference in one loss, no reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.kinds import KINDS
from tbr_lightning.objectives.batch import Batch, StepWeights
from tbr_lightning.objectives.objective import Floats
from tbr_lightning.objectives.pairs import PairObjective, Scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ORPO(PairObjective):
    """Learns the chosen response as ``sft`` does, and raises its odds over the rejected one's.

    The loss of the chosen response is a mean over the tokens of all chosen responses of a
    step; the prompt is not supervised (the authors' code and TRL supervise it too).

    Source:
        Hong et al., ORPO: Monolithic Preference Optimization without Reference Model, EMNLP 2024,
        equations 6 and 7; ``beta`` is its lambda.
    """

    _target_: str = "tbr_lightning.objectives.orpo.ORPO"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_answers()

    def totals(self, rows: TokenRows) -> Floats:
        """Return the weight of the tokens of each row's chosen response."""
        return self.sequence_totals(rows)[::2]

    def step_weights(self, totals: Floats, kinds: npt.NDArray[np.uint8]) -> StepWeights:
        """Return the number of pairs, and the factor that turns a sum over tokens into a mean."""
        pairs = float(np.count_nonzero(totals)) or 1.0
        return StepWeights(pairs, (pairs / (float(sum(totals)) or 1.0),) * len(KINDS))

    def pair_losses(self, scores: Scores, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each pair's part in the mean loss of chosen tokens, and its odds ratio loss."""
        import torch

        # A token's weight is its share of the step, which a mean over one sequence does not see.
        means = scores.means.view(-1, 2).clamp(max=-1e-6)
        log_odds = means - torch.log(-torch.expm1(means))
        learnt = -scores.sums.view(-1, 2)[:, 0]
        odds = self.preference(log_odds[:, 0] - log_odds[:, 1])
        return learnt + self.beta * odds, self.beta * means
