"""One fit on one rank: prepared rows and a backbone in, trained weights out."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.config.quoting import store_words
from tbr_lightning.config.schema import AdapterConfig
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError, command_of
from tbr_lightning.evaluation.suites import Prompt, load_suite
from tbr_lightning.models.adapters import cast_by_autocast, with_adapter
from tbr_lightning.models.architecture import flops_per_logits, flops_per_token
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.objectives.objective import Floats, Objective
from tbr_lightning.tracking.metric_spool import MetricBuffer, last_logged_steps
from tbr_lightning.training import strategies
from tbr_lightning.training.batch_layout import form_of, split_of
from tbr_lightning.training.batches import TrainBatches
from tbr_lightning.training.checkpoints import Checkpoints, trained_mismatch, whole_checkpoints
from tbr_lightning.training.devices import accelerator_of
from tbr_lightning.training.kernels import check_packing, prepare_kernels, release_kernels
from tbr_lightning.training.module import TbrModule
from tbr_lightning.training.precision import precision_of
from tbr_lightning.training.speed import Speed, compute_dtype, measured_peak
from tbr_lightning.training.step_logger import StepLogger
from tbr_lightning.training.stopping import Stopping
from tbr_lightning.training.trial_pruning import Pruning
from tbr_lightning.training.trial_pruning_channel import Pruned, PruningChannel
from tbr_lightning.training.validation_callback import ValidationCallback


@dataclass(frozen=True)
class Job:
    """The inputs of a rank besides the weights; small, so that another process can receive it.

    Attributes:
        config: Config of the command.
        run_id: ID of the MLflow run that gets the metrics.
        what: Label of the progress bar.
        folder: Folder of this run: checkpoints, spool, export.
        rows: Folder of the tokenised training rows.
        validation: Folder of the tokenised validation rows, if there are any.
        tokenizer: Folder of the tokenizer.
        pruning: Channel to whoever decides whether the run goes on, if anyone does.
    """

    config: TrainConfig
    run_id: str
    what: str
    folder: Path
    rows: Path
    validation: Path | None
    tokenizer: Path
    pruning: PruningChannel | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"


@dataclass(frozen=True)
class Done:
    """Steps, tokens and time of a fit.

    Attributes:
        steps: Number of optimizer steps taken.
        supervised_tokens: Number of supervised tokens seen in all epochs.
        seconds: Time of the steps since the start, or since the run was resumed.
    """

    steps: int
    supervised_tokens: int
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """The result of a fit.

    Attributes:
        model: The tuned model, with its adapter if there is one, as this rank holds it.
        trained: The trained tensors, whole, on the CPU; on the first of several ranks only.
        done: Steps, tokens and time.
    """

    model: Any
    trained: dict[str, Tensor] | None
    done: Done


def fit(job: Job, backbone: Backbone) -> Fitted:
    """Fine-tune a backbone, from the run's last whole checkpoint if it has one.

    Raises:
        UserError: It does not fit into memory, the checkpoint is another model's, or the model
            does not keep packed rows apart.
        KeyboardInterrupt: The process was asked to stop; the checkpoint is written.
        Pruned: The pruner stopped the run.
    """
    config, settings = job.config, job.config.trainer
    pl.seed_everything(config.seed, verbose=False)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    _quiet()
    rows = TokenRows(job.rows)
    validation = TokenRows(job.validation) if job.validation else None
    accelerator = accelerator_of(settings)
    form = form_of(config, accelerator, backbone.model)
    split = split_of(config, accelerator, form, float(rows.lengths.mean()))
    if form == "packed":
        check_packing(backbone.model, config.model.name)
    model = with_adapter(backbone.model, config.adapter)
    prepare_kernels(model, settings)
    model.train()
    module = TbrModule(
        model,
        config.objective,
        config.optimizer,
        seed=config.seed,
        divisor=strategies.divisor_of(settings) * split,
        offload=settings.offload,
    )
    plugin = strategies.precision_plugin(config)
    with plugin.forward_context() if plugin else nullcontext():
        references = [_reference(job, backbone, model, part) for part in (rows, validation)]
    stopping = Stopping()
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategies.strategy_of(settings, frozen=not module.strict_loading),
        **({"plugins": [plugin]} if plugin else {"precision": precision_of(config)}),
        max_epochs=settings.epochs,
        max_steps=settings.max_steps,
        accumulate_grad_batches=settings.accumulate * split,
        gradient_clip_val=settings.clip_norm or None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=job.folder,
    )
    resumed = whole_checkpoints(job.checkpoints) if settings.checkpoint else []
    if resumed and (problem := trained_mismatch(resumed[-1].path, module)):
        raise UserError(
            f"resume={job.run_id}: the checkpoint is from another model: {problem}: start a new run"
        )
    buffer = _buffer(job) if trainer.is_global_zero else None
    logger = StepLogger(
        buffer,
        job.what,
        every=settings.log_every,
        speed=_speed(module, rows, trainer) if trainer.is_global_zero else None,
    )
    observer = ValidationCallback(
        backbone,
        every=settings.eval_every,
        look_every=settings.log_every,
        validation=validation,
        objective=config.objective,
        reference=references[1],
        batch_size=settings.batch_size,
        prompts=probe_prompts(config),
        judge=JudgeConfig(name="rules"),
        buffer=buffer,
    )
    checkpoints = Checkpoints(
        job.checkpoints,
        every=settings.checkpoint_every if settings.checkpoint else 0,
        save_top_k=settings.save_top_k,
        logger=logger,
        validation_loss=lambda: observer.loss_at(trainer.global_step),
        stop=lambda: stopping.requested,
    )
    pruning = [Pruning(job.pruning, lambda: observer.measured)] if job.pruning else []
    # In this order: a checkpoint needs the step's numbers written and its validation loss known.
    trainer.callbacks += [stopping, logger, observer, *pruning, checkpoints]
    batches = TrainBatches(
        rows,
        config.objective,
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        pad_id=backbone.tokenizer.pad_token_id,
        seed=config.seed,
        form=form,
        split=split,
        rank=trainer.global_rank,
        world=trainer.world_size,
        position=lambda: trainer.global_step,
        reference=references[0],
    )
    start = time.monotonic()
    try:
        with _mixed(plugin, model, config.adapter):
            trainer.fit(
                module,
                train_dataloaders=batches,
                ckpt_path=resumed[-1].path if resumed else None,
                weights_only=True,
            )
    except SystemExit as error:
        # Lightning turns an interruption into an exit; what is open here must hear of it.
        if trainer.interrupted or trainer.received_sigterm:
            raise KeyboardInterrupt(_stopped(trainer, job)) from error
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"trainer.batch_size={settings.batch_size} does not fit into memory: halve it and "
            "double trainer.accumulate, or use adapter=lora or trainer.gradient_checkpointing=true"
        ) from error
    release_kernels(model)
    if any(callback.pruned for callback in pruning):
        raise Pruned(f"pruned at step {trainer.global_step}")
    if checkpoints.stopped and trainer.global_step < trainer.estimated_stepping_batches:
        raise KeyboardInterrupt(_stopped(trainer, job))
    trained = whole_trained(module, trainer) if trainer.world_size > 1 else None
    seconds = time.monotonic() - start
    return Fitted(
        module.model, trained, Done(trainer.global_step, logger.supervised_total, seconds)
    )


def _stopped(trainer: pl.Trainer, job: Job) -> str:
    """Say how far an interrupted training came, and what goes on from there."""
    steps = trainer.estimated_stepping_batches
    return (
        f"at step {trainer.global_step} of {steps:.0f}; to resume from its last checkpoint:\n"
        f"  {command_of('train')} resume={job.run_id}{store_words(job.config.given)}"
    )


@contextmanager
def _mixed(
    plugin: strategies.CachedMixedPrecision | None, model: Any, adapter: AdapterConfig
) -> Iterator[None]:
    """Let mixed precision cast each weight once a step, and activations not twice."""
    if plugin is None:
        yield
        return
    with plugin.kept(), cast_by_autocast(model, adapter):
        yield


def _reference(job: Job, backbone: Backbone, model: Any, rows: TokenRows | None) -> Floats | None:
    """Return the objective's reference values of rows under the starting weights.

    They are kept in the run's folder: a resumed run has other weights when it begins.
    """
    if rows is None:
        return None
    file = job.folder / f"reference-{rows.digest}.npy"
    objective, pad = job.config.objective, backbone.tokenizer.pad_token_id
    if type(objective).reference is Objective.reference:
        return None
    if accelerator_of(job.config.trainer) == "gpu":
        # Each rank's own: the trainer sets the device of a process only later.
        model.to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))))
    model.eval()
    try:
        if file.exists():
            return _kept_reference(
                job, file, lambda kept: objective.is_of_start(model, rows, pad, kept)
            )
        found: Floats | None = objective.reference(model, rows, pad)
    finally:
        model.train()
    if found is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as stream:
            np.save(stream, found)
        partial.replace(file)
    return found


def _kept_reference(job: Job, file: Path, is_of_start: Callable[[Floats], bool]) -> Floats:
    """Return the reference that a run stored.

    Raises:
        UserError: It cannot be read, or is not that of the model as it starts now.
    """
    try:
        kept: Floats = np.load(file)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"resume={job.run_id}: {file} cannot be read ({error}): delete it, and the reference "
            "is computed again from the starting weights"
        ) from error
    if not is_of_start(kept):
        raise UserError(
            f"resume={job.run_id}: the reference log-probabilities in {file} are not those of the "
            "model that this run starts from: restore the base model, or start a new run"
        )
    return kept


def probe_prompts(config: TrainConfig) -> Sequence[Prompt]:
    """Return the prompts that are answered during training: none if the suite does not fit.

    The embedded suite is in the micro-world's language, which other models do not know.
    """
    if config.trainer.eval_every == 0:
        return ()
    if config.probe.only_for not in (None, config.data.name):
        return ()
    return load_suite(config.probe)


def whole_trained(module: TbrModule, trainer: pl.Trainer) -> dict[str, Tensor] | None:
    """Return the trained tensors, gathered over the ranks; every rank must call it.

    Returns:
        Names as in ``module.model`` and tensors on the CPU, on the first rank; ``None`` elsewhere.
    """
    named = [(n, p) for n, p in module.model.named_parameters() if p.requires_grad]
    strategy = trainer.strategy
    if getattr(strategy, "zero_stage_3", False):
        import deepspeed

        with deepspeed.zero.GatheredParameters([p for _, p in named]):
            return _copied(named) if trainer.is_global_zero else None
    if hasattr(strategy, "sharding_strategy"):  # FSDP
        state = strategy.lightning_module_state_dict()
        wanted = {f"model.{name}" for name, _ in named}
        whole = {k.removeprefix("model."): v.cpu() for k, v in state.items() if k in wanted}
        return whole if trainer.is_global_zero else None
    return _copied(named) if trainer.is_global_zero else None


def _copied(named: Sequence[tuple[str, Any]]) -> dict[str, Tensor]:
    return {name: parameter.detach().cpu().clone() for name, parameter in named}


def _buffer(job: Job) -> MetricBuffer:
    # Without a whole checkpoint a run starts anew, and what it logs again is there already too.
    spool = job.folder / "metrics.spool"
    return MetricBuffer(job.run_id, spool, after=last_logged_steps(job.run_id, spool))


def _speed(module: TbrModule, rows: TokenRows, trainer: pl.Trainer) -> Speed | None:
    parameters = [(p.numel(), p.requires_grad) for p in module.parameters()]
    flops = flops_per_token(
        module.model.config,
        trainable=sum(n for n, trained in parameters if trained),
        total=sum(n for n, _ in parameters),
        context=int(rows.lengths.mean()),
    )
    head = module.model.get_output_embeddings()
    logits = flops_per_logits(
        module.model.config, trained=any(p.requires_grad for p in head.parameters())
    )
    dtype = compute_dtype(str(trainer.precision))
    return Speed(flops - logits, logits, measured_peak(trainer.strategy.root_device, dtype))


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The batches are made in this process: they are a few rows of integers.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    for chatter in (
        ".*handles gradient clipping internally.*",
        ".*save a shard of the check.*",
        ".*dataloader is not resumable.*",  # it is: it asks the trainer for its position
    ):
        warnings.filterwarnings("ignore", chatter)
