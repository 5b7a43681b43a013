"""``objective=grpo``: our rows, prompts, judge and run around TRL's ``GRPOTrainer``."""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError
from tbr_lightning.training.devices import accelerator_of, world_size
from tbr_lightning.training.precision import precision_of

if TYPE_CHECKING:
    from tbr_lightning.data.example import Example
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
    from tbr_lightning.tracking.metric_spool import MetricBuffer
    from tbr_lightning.training.fit import Done, Fitted
    from tbr_lightning.training.rollouts import Rollouts

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore", ".*is an experimental feature.*")
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    config = job.config
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    model = with_adapter(backbone.model, config.adapter)
    rollouts = Rollouts.of(config, backbone, examples)
    steps = _steps(config, len(rollouts.prompts))
    buffer = MetricBuffer(job.run_id, job.folder / "metrics.spool")
    own_stops = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = list(stop_tokens(backbone))
    start = time.monotonic()
    try:
        trainer = GRPOTrainer(
            model=model,
            args=_arguments(job, steps),
            reward_funcs=rollouts.reward,
            rollout_func=rollouts.answer,
            train_dataset=Dataset.from_list([{"prompt": one} for one in rollouts.prompts]),
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
    done = Done(trainer.state.global_step, rollouts.tokens, time.monotonic() - start)
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
