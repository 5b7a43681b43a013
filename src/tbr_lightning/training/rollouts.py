"""What TRL's trainer asks of us: answers to prompts by the model, and the reward of each."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.data.example import Example
    from tbr_lightning.evaluation.judged_response import Judged
    from tbr_lightning.models.backbone import Backbone
    from tbr_lightning.objectives.grpo import GRPO


@dataclass
class Rollouts:
    """What TRL asks for: answers to prompts, and the reward of each.

    Attributes:
        config: Config of the training run.
        backbone: The model that answers, with its tokenizer and think format.
        rows: Rows, by the request as TRL hands it back.
        judge: Judge that labels answers.
        steps: Number of rollouts so far.
        tokens: Number of tokens of all answers so far.
    """

    config: TrainConfig
    backbone: Backbone
    rows: Mapping[str, Example]
    judge: Callable[..., Any]
    steps: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, config: TrainConfig, backbone: Backbone, examples: Sequence[Example]) -> Rollouts:
        """Return rollouts for the prompts that leave room for an answer.

        Raises:
            UserError: No prompt does, or the judge lacks something or cannot label these rows.
        """
        from tbr_lightning.evaluation.judges.loading import make_judge
        from tbr_lightning.evaluation.verdicts import check_judges

        check_judges(sorted({example.kind for example in examples}), config.judge)
        limit = config.objective.max_new_tokens or config.model.max_new_tokens
        found = cls(config, backbone, {}, make_judge(config.judge))
        room = config.model.max_length - limit
        rows = {
            _request(example.messages): example
            for example in examples
            if len(found.ids_of(example.messages)) <= room
        }
        if left_out := len({e.id for e in examples}) - len(rows):
            print(
                f"train: {left_out} prompts leave no room for {limit} new tokens within "
                "model.max_length and are left out",
                file=sys.stderr,
            )
        if not rows:
            raise UserError(
                f"model.max_length={config.model.max_length} leaves no room for {limit} new tokens "
                "after any prompt: raise it, or lower objective.max_new_tokens"
            )
        found.rows = rows
        return found

    @property
    def prompts(self) -> list[list[dict[str, str]]]:
        """The prompts as messages, as TRL takes them."""
        return [row.messages for row in self.rows.values()]

    def ids_of(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return a prompt's tokens, laid out as in training and evaluation."""
        from tbr_lightning.data.chat_template import prompt_ids

        return prompt_ids(
            self.backbone.tokenizer, messages[-1]["content"], before=list(messages[:-1])
        )

    def answer(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Answer prompts by the model, TRL's ``rollout_func``; repeated ones get other answers."""
        from tbr_lightning.models.generation import draw_tokens

        ids = [self.ids_of(prompt) for prompt in prompts]
        rounds: dict[int, list[int]] = defaultdict(list)
        seen: Counter[str] = Counter()
        for place, prompt in enumerate(prompts):
            key = _request(prompt)
            rounds[seen[key]].append(place)
            seen[key] += 1
        answers: list[list[int]] = [[] for _ in prompts]
        objective = self.config.objective
        model = trainer.model
        model.eval()
        for number, places in rounds.items():
            made = draw_tokens(
                self.backbone,
                [ids[place] for place in places],
                model=model,
                max_new_tokens=objective.max_new_tokens or self.config.model.max_new_tokens,
                temperature=objective.temperature,
                seed=(self.config.seed * 1_000_003 + self.steps) * 4096 + number,
            )
            for place, tokens in zip(places, made, strict=True):
                answers[place] = tokens
        model.train()
        self.steps += 1
        self.tokens += sum(map(len, answers))
        return {"prompt_ids": ids, "completion_ids": answers, "logprobs": None}

    def reward(
        self,
        prompts: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """Return the reward of each answer for TRL, ``None`` where the judge failed.

        Raises:
            UserError: The judge fails on more than ``judge.max_errors`` of the answers.
        """
        from tbr_lightning.evaluation.degenerate import degenerate
        from tbr_lightning.evaluation.verdicts import with_verdicts

        rows = [self.rows[_request(prompt)] for prompt in prompts]
        pairs = zip(rows, completion_ids, strict=True)
        judged = with_verdicts([self._unseen(row, ids) for row, ids in pairs], self.judge)
        failed = [row for row in judged if row.label == "judge_error"]
        if len(failed) > self.config.judge.max_errors * len(judged):
            raise UserError(
                f"judge={self.config.judge.name} failed on {len(failed)} of {len(judged)} answers "
                f"({failed[0].because[:200]}): check it, or raise judge.max_errors"
            )
        return [
            self._reward_of(row, worthless=dead is not None, log_metric=log_metric)
            for row, dead in zip(judged, degenerate(judged), strict=True)
        ]

    def _unseen(self, row: Example, ids: Sequence[int]) -> Judged:
        from tbr_lightning.evaluation.judged_response import Judged
        from tbr_lightning.models.generation import text_of_tokens
        from tbr_lightning.training.samples import prompt_of

        text, ended = text_of_tokens(self.backbone, ids)
        reflection, answer = self.backbone.think_format.split(text)
        return Judged.unseen(
            prompt_of(row), answer, reflection=reflection, new_tokens=len(ids), cut=not ended
        )

    def _reward_of(
        self, row: Judged, *, worthless: bool, log_metric: Callable[[str, float], None]
    ) -> float | None:
        from tbr_lightning.training.sampled_pairs import is_right, readable

        if row.label == "judge_error":
            return None
        objective: GRPO = self.config.objective
        right = float(is_right(row, worthless=worthless))
        log_metric(f"right/{row.kind}", right)
        if row.kind not in objective.reflect or not objective.reflection_reward:
            return right
        reflects = float(readable(row.reflection, row, self.config))
        log_metric(f"reflects/{row.kind}", reflects)
        return right + objective.reflection_reward * reflects


def _request(messages: Sequence[Mapping[str, str]]) -> str:
    return "\x1f".join(f"{turn['role']}\x1e{turn['content']}" for turn in messages)
