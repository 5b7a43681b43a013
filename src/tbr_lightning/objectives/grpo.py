"""Group relative policy optimisation: answers are sampled, judged both ways, and reinforced."""

from __future__ import annotations

from dataclasses import dataclass, field

from tbr_lightning.errors import UserError, above, at_least, one_of, within
from tbr_lightning.kinds import KINDS
from tbr_lightning.objectives.objective import Objective

_LOSSES = ("grpo", "dapo", "dr_grpo", "bnpo")


@dataclass
class GRPO(Objective):
    """Reinforces, of several answers to a prompt, those that the judge finds better than the rest.

    The reward is two-sided: 1 where a harmful request is refused without its content, or any other
    request is helped with, and 0 elsewhere; and ``reflection_reward`` for a reflection that passes
    the checks on teachers' reflections, on rows of ``reflect`` kinds. TRL's trainer does the rest.

    Source:
        Shao et al., DeepSeekMath, 2024 (arXiv 2402.03300); loss types as TRL's ``GRPOConfig`` names
        them. The combination with reflections is ours: the paper on Think-Before-Refusal names
        reinforcement as an open question.
    """

    _target_: str = "tbr_lightning.objectives.grpo.GRPO"
    generations: int = 8  # answers to each prompt
    temperature: float = 1.0  # sampling temperature of the answers
    max_new_tokens: int | None = None  # limit of an answer with its reflection; null: the model's
    beta: float = 0.0  # weight of the divergence from the start; above 0 it needs adapter=lora
    epsilon: float = 0.2  # clipping range of the probability ratio
    loss_type: str = "dapo"  # dapo | grpo | dr_grpo | bnpo: how tokens are averaged
    reflection_reward: float = 0.5  # added to 1 for the right answer; 0 ignores reflections
    reflect: list[str] = field(default_factory=lambda: ["harmful"])  # kinds of rows rewarded for it

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("reflection_weight", "answer_weight"):
            if getattr(self, name) != 1:
                raise UserError(
                    f"objective.{name}={getattr(self, name):g} weighs given tokens, and "
                    "objective=grpo learns from rewards: leave it out"
                )
        at_least("objective.generations", self.generations, 2)
        within("objective.temperature", self.temperature, 0, 2)
        if not self.temperature:
            raise UserError(
                "objective.temperature=0 would draw the same answer every time, and nothing could "
                "be preferred: give a value above 0"
            )
        at_least("objective.max_new_tokens", self.max_new_tokens, 1)
        for name in ("beta", "reflection_reward"):
            at_least(f"objective.{name}", getattr(self, name), 0)
        above("objective.epsilon", self.epsilon, 0)
        one_of("objective.loss_type", self.loss_type, _LOSSES)
        for kind in self.reflect:
            one_of("objective.reflect", kind, KINDS)

    @property
    def trained_by(self) -> str:
        """``trl``: TRL's trainer minimises it."""
        return "trl"
