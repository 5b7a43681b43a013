"""``objective=grpo``: our rows, prompts, judge and run around TRL's ``GRPOTrainer``."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError
from tbr_lightning.training.devices import accelerator_of, world_size
from tbr_lightning.training.precision import precision_of

if TYPE_CHECKING:
    from tbr_lightning.data.example import Example
    from tbr_lightning.evaluation.judged import Judged
    from tbr_lightning.models.backbone import Backbone
    from tbr_lightning.objectives.grpo import GRPO
    from tbr_lightning.training.fit import Fitted, Job
    from tbr_lightning.training.resume import RunFolder


def check_handed_over(config: TrainConfig, *, prunes: bool = False) -> None:
    """Refuse what TRL's trainer does not support here, before anything is loaded.

    Args:
        config: Config of the training run.
        prunes: Whether a pruner may stop the run while it trains.

    Raises:
        UserError: One sentence that names the setting and what to use.
    """
    objective: GRPO = config.objective
    trainer = config.trainer
    answers = trainer.batch_size * trainer.accumulate
    settings = "trainer.strategy=" + trainer.strategy
    refused = {
        f"{settings} with objective=grpo: TRL's trainer runs on one device here: use trainer=cpu "
        "or trainer=gpu": trainer.strategy != "single" or world_size(trainer) > 1,
        f"reflection={config.reflection.teacher} with objective=grpo: the model writes its own "
        "reflections and is rewarded for them (objective.reflection_reward): use "
        "reflection=none": config.reflection.teacher != "none",
        f"data.validation={config.data.validation:g} with objective=grpo: there is no loss on "
        "held-out rows: leave it at 0, and evaluate the model": config.data.validation > 0,
        f"trainer.eval_every={trainer.eval_every} with objective=grpo: nothing is probed while TRL "
        "trains: leave it out": bool(trainer.eval_every),
        f"trainer.batching={trainer.batching} with objective=grpo: TRL lays out its own batches: "
        "use trainer.batching=auto": trainer.batching != "auto",
        f"trainer.precision={precision_of(config)} with objective=grpo: use 32-true or "
        "bf16-mixed": precision_of(config) not in ("32-true", "bf16-mixed"),
        "trainer.compile=true with objective=grpo: leave it out": trainer.compile,
        "trainer.liger=true with objective=grpo: leave it out": trainer.liger,
        f"trainer.batch_size={trainer.batch_size} times trainer.accumulate={trainer.accumulate} "
        f"answers cannot be cut into groups of objective.generations={objective.generations}: "
        "make it a multiple": answers % objective.generations > 0,
        f"objective.beta={objective.beta:g} needs the model as it started beside the one that is "
        "trained, which here is the base under an adapter: use adapter=lora, or "
        "objective.beta=0": objective.beta > 0 and config.adapter.name == "none",
        "objective=grpo cannot be pruned while TRL trains: leave pruner out of the study": prunes,
        "objective=grpo needs TRL, which is not installed: pip install 'tbr-lightning[rl]'": (
            importlib.util.find_spec("trl") is None
        ),
    }
    for sentence, applies in refused.items():
        if applies:
            raise UserError(sentence)


def refuse_resume(folder: RunFolder) -> None:
    """Refuse to resume a run that TRL had not finished; one that is exported is only logged.

    Raises:
        UserError: The run's model was not exported.
    """
    from tbr_lightning.training.finish import exported_before

    if exported_before(folder.path) is None:
        raise UserError(
            f"resume={folder.path.name}: objective=grpo keeps no checkpoints, so that run cannot "
            "go on: start a new one"
        )


def fit_with_trl(job: Job, backbone: Backbone, examples: Sequence[Example]) -> Fitted:
    """Train a backbone with TRL's ``GRPOTrainer``, and return it as our own fit does.

    Args:
        job: Job of the run; its token rows are not used.
        backbone: The model; changed in place, with its adapter if there is one.
        examples: Rows whose prompts are answered.

    Raises:
        UserError: Prompts leave no room for an answer, the judge fails too often, or TRL does not
            take a setting.
    """
    import torch

    from tbr_lightning.models.adapters import with_adapter
    from tbr_lightning.models.generation import stop_tokens
    from tbr_lightning.tracking.metrics import MetricBuffer
    from tbr_lightning.training.fit import Done, Fitted

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore", ".*is an experimental feature.*")
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    config = job.config
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    model = with_adapter(backbone.model, config.adapter)
    game = Game.of(config, backbone, examples)
    steps = _steps(config, len(game.prompts))
    buffer = MetricBuffer(job.run_id, job.folder / "metrics.spool")
    own_stops = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = list(stop_tokens(backbone))
    start = time.monotonic()
    try:
        trainer = GRPOTrainer(
            model=model,
            args=_arguments(job, steps),
            reward_funcs=game.reward,
            rollout_func=game.play,
            train_dataset=Dataset.from_list([{"prompt": one} for one in game.prompts]),
            processing_class=backbone.tokenizer,
            callbacks=[_logging(job.what, steps, buffer)],
        )
    except ValueError as error:
        raise UserError(f"objective=grpo: TRL refuses: {' '.join(str(error).split())}") from error
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"trainer.batch_size={config.trainer.batch_size} does not fit into memory: halve it "
            "and double trainer.accumulate, or use adapter=lora"
        ) from error
    finally:
        buffer.close()
        _put_back(model, own_stops)
    done = Done(trainer.state.global_step, game.tokens, time.monotonic() - start)
    return Fitted(model, None, done)


def _arguments(job: Job, steps: int) -> Any:
    """Return TRL's training arguments."""
    from trl import GRPOConfig

    config, objective = job.config, job.config.objective
    trainer, optimizer = config.trainer, config.optimizer
    schedule = {"constant": "constant_with_warmup"}.get(optimizer.schedule, optimizer.schedule)
    return GRPOConfig(
        output_dir=str(job.folder / "trl"),
        per_device_train_batch_size=trainer.batch_size,
        gradient_accumulation_steps=trainer.accumulate,
        activation_checkpointing=trainer.gradient_checkpointing,
        max_steps=steps,
        max_grad_norm=trainer.clip_norm,
        learning_rate=optimizer.lr,
        lr_scheduler_type=schedule,
        warmup_steps=round(steps * optimizer.warmup),
        weight_decay=optimizer.weight_decay,
        bf16=precision_of(config) == "bf16-mixed",
        use_cpu=accelerator_of(trainer) == "cpu",
        seed=config.seed,
        num_generations=objective.generations,
        temperature=objective.temperature,
        max_completion_length=objective.max_new_tokens or config.model.max_new_tokens,
        beta=objective.beta,
        epsilon=objective.epsilon,
        loss_type=objective.loss_type,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _steps(config: TrainConfig, prompts: int) -> int:
    """Return the number of optimizer steps: an epoch answers each prompt ``generations`` times.

    Raises:
        UserError: There are fewer prompts than one step answers.
    """
    trainer = config.trainer
    groups = trainer.batch_size * trainer.accumulate // config.objective.generations
    if prompts < groups:  # TRL would take no step
        raise UserError(
            f"objective=grpo: a step answers {groups} prompts (trainer.batch_size="
            f"{trainer.batch_size} times trainer.accumulate={trainer.accumulate}, by "
            f"objective.generations) and there are {prompts}: lower the first, or give more rows"
        )
    return trainer.max_steps if trainer.max_steps >= 0 else trainer.epochs * (prompts // groups)


def _put_back(model: Any, stops: Any) -> None:
    """Undo what TRL and we did to the model beside its weights, so that it exports as it came."""
    from peft import PeftModel

    model.generation_config.eos_token_id = stops
    base = model
    if isinstance(model, PeftModel):
        base = model.get_base_model()
        if "ref" in model.peft_config:
            model.delete_adapter("ref")
    base.__dict__.pop("forward", None)  # TRL's head; the class has the model's own
    model.eval()


@dataclass
class Game:
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
    def of(cls, config: TrainConfig, backbone: Backbone, examples: Sequence[Example]) -> Game:
        """Return the game over the prompts that leave room for an answer.

        Raises:
            UserError: No prompt does, or the judge lacks something or cannot label these rows.
        """
        from tbr_lightning.evaluation.judge import make_judge
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

    def play(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
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
            self._worth(row, worthless=dead is not None, log_metric=log_metric)
            for row, dead in zip(judged, degenerate(judged), strict=True)
        ]

    def _unseen(self, row: Example, ids: Sequence[int]) -> Judged:
        from tbr_lightning.evaluation.judged import Judged
        from tbr_lightning.models.generation import text_of_tokens
        from tbr_lightning.training.samples import prompt_of

        text, ended = text_of_tokens(self.backbone, ids)
        reflection, answer = self.backbone.think_format.split(text)
        return Judged.unseen(
            prompt_of(row), answer, reflection=reflection, new_tokens=len(ids), cut=not ended
        )

    def _worth(
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


def _logging(what: str, steps: int, buffer: Any) -> Any:
    """Return a callback that writes TRL's numbers to our run and advances a progress bar."""
    from transformers import TrainerCallback

    from tbr_lightning.progress import bar

    class Logging(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.context = bar(what, steps)
            self.shown = self.context.__enter__()

        def on_log(self, _: Any, state: Any, __: Any, logs: Mapping[str, Any], **___: Any) -> None:
            if "loss" not in logs:  # the summary at the end
                return
            numbers = {
                f"train/{_NAMES.get(name, name)}": float(value)
                for name, value in logs.items()
                if isinstance(value, int | float) and name not in _LEFT_OUT
            }
            buffer.add(numbers, state.global_step)
            self.shown.advance(note=f"reward {logs.get('reward', float('nan')):.3f}")

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.context.__exit__(None, None, None)

    return Logging()


_NAMES = {"learning_rate": "lr", "grad_norm": "gradient_norm"}
_LEFT_OUT = ("rewards/reward/mean", "rewards/reward/std")  # of the one reward there is
