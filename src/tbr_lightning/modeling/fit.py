"""One fit: rows and a backbone in, a tuned model out."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import get_method
from lightning.pytorch.callbacks import ModelCheckpoint

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.batching import TrainBatches
from tbr_lightning.data.layout import TokenRow
from tbr_lightning.errors import UserError
from tbr_lightning.modeling.backbone import Backbone, with_adapter
from tbr_lightning.modeling.module import TbrModule
from tbr_lightning.modeling.step_logger import LogStep, StepLogger


@dataclass(frozen=True)
class Fitted:
    """A tuned model.

    Attributes:
        model: It, with its adapter if there is one.
        steps: Optimizer steps taken.
        supervised_tokens: Supervised tokens seen in all epochs.
        seconds: Time of the steps.
    """

    model: Any
    steps: int
    supervised_tokens: int
    seconds: float


def fit(
    backbone: Backbone,
    rows: Sequence[TokenRow],
    config: TrainConfig,
    *,
    log: LogStep,
    what: str,
    folder: Path,
) -> Fitted:
    """Fine-tune a backbone on tokenised rows; ``log`` gets the numbers of every few steps."""
    settings = config.trainer
    pl.seed_everything(config.seed, verbose=False)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model = with_adapter(backbone.model, config.adapter)
    model.train()
    module = TbrModule(model, get_method(config.objective._target_), config.optimizer)
    batches = TrainBatches(
        rows,
        config.objective,
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        pad_id=backbone.tokenizer.pad_token_id,
        seed=config.seed,
    )
    logger = StepLogger(log, what)
    callbacks: list[pl.Callback] = [logger]
    if settings.checkpoint:
        callbacks.append(
            ModelCheckpoint(folder / "checkpoints", filename="last", save_on_train_epoch_end=True)
        )
    _quiet()
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,
        max_epochs=settings.epochs,
        max_steps=settings.max_steps,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip_norm or None,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=settings.checkpoint,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    start = time.monotonic()
    try:
        trainer.fit(module, train_dataloaders=batches)
    except SystemExit as error:
        # Lightning turns Ctrl-C and SIGTERM into an exit; what is open here must hear of it.
        if trainer.interrupted or trainer.received_sigterm:
            raise KeyboardInterrupt from error
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"trainer.batch_size={settings.batch_size} does not fit into memory: halve it and "
            "double trainer.accumulate, or use adapter=lora"
        ) from error
    return Fitted(
        module.model, trainer.global_step, logger.supervised_total, time.monotonic() - start
    )


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The batches are made in this process: they are a few rows of integers.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
