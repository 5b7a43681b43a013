"""Checkpoints that are complete or absent: written, listed, found again, thinned out."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from tbr_lightning.errors import UserError
from tbr_lightning.training.module import TbrModule
from tbr_lightning.training.step_logger import StepLogger, is_step
from tbr_lightning.training.strategies import not_tensors

_LAST = 2  # the newest and, should it turn out truncated, the one before it


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        path: File, or folder of shards (DeepSpeed).
        step: Number of optimizer steps taken.
        loss: Validation loss at that step, if there was one.
    """

    path: Path
    step: int
    loss: float | None


def whole_checkpoints(folder: Path) -> list[Checkpoint]:
    """Return the complete checkpoints of a run's folder, oldest first.

    A checkpoint counts only with the list of its files that is written after all of them; one
    whose files are missing or of another size (a crash, a full disk) is passed over.
    """
    found = []
    for marker in sorted(folder.glob("step-*.json")):
        try:
            facts = json.loads(marker.read_text())
            path = folder / facts["path"]
            if _sizes(path) == facts["sizes"]:
                found.append(Checkpoint(path, facts["step"], facts["loss"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _sizes(path: Path) -> dict[str, int]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path.parent)): file.stat().st_size for file in files}


def _remove(checkpoint: Checkpoint) -> None:
    # The list goes first: what is left of a half removed checkpoint must not count as one.
    checkpoint.path.with_suffix(".json").unlink(missing_ok=True)
    if checkpoint.path.is_dir():
        shutil.rmtree(checkpoint.path, ignore_errors=True)
    else:
        checkpoint.path.unlink(missing_ok=True)


class Checkpoints(pl.Callback):
    """Saves every few optimizer steps, at the last one, and when the run is asked to stop.

    Kept are the last ones and the ``save_top_k`` of lowest validation loss.

    Args:
        folder: Folder of this run's checkpoints.
        every: Optimizer steps between two checkpoints.
        save_top_k: Number of checkpoints to keep besides the last.
        logger: Step logger; it writes its numbers before a checkpoint, so that none is lost.
        validation_loss: Returns the validation loss at this step, if it was measured.
        stop: Returns whether this process was asked to stop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        save_top_k: int,
        logger: StepLogger,
        validation_loss: Callable[[], float | None],
        stop: Callable[[], bool],
    ) -> None:
        self.folder, self.every, self.save_top_k = folder, every, save_top_k
        self.logger, self.validation_loss, self.stop = logger, validation_loss, stop
        self.stopped = False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time, or if any rank was asked to stop: then all of them save."""
        if not is_step(trainer, batch_idx):
            return
        step = trainer.global_step
        last = step >= trainer.estimated_stepping_batches
        self.stopped = trainer.strategy.reduce_boolean_decision(self.stop(), all=False)
        if self.every and (step % self.every == 0 or last or self.stopped):
            self._save(trainer, pl_module, step)
        if self.stopped:
            trainer.should_stop = True

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        assert isinstance(module, TbrModule)
        self.logger.write(trainer, module)
        if self.logger.buffer is not None:
            self.logger.buffer.flush()
        path = self.folder / f"step-{step:08d}.ckpt"
        trainer.save_checkpoint(path)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            facts = {
                "path": path.name,
                "step": step,
                "loss": self.validation_loss(),
                "sizes": _sizes(path),
            }
            written = path.with_suffix(".partial")
            written.write_text(json.dumps(facts))
            written.replace(path.with_suffix(".json"))
            self._thin_out()

    def _thin_out(self) -> None:
        found = whole_checkpoints(self.folder)
        scored = sorted((c for c in found if c.loss is not None), key=lambda c: c.loss or 0.0)
        kept = {c.path for c in (*found[-_LAST:], *scored[: self.save_top_k])}
        for checkpoint in found:
            if checkpoint.path not in kept:
                _remove(checkpoint)


def trained_mismatch(checkpoint: Path, module: TbrModule) -> str | None:
    """Return how a checkpoint's tensors differ from those that a module trains, or ``None``.

    Only single-file checkpoints are looked into; DeepSpeed compares its shards by itself.

    Raises:
        UserError: It holds something other than tensors.
    """
    if checkpoint.is_dir():
        return None
    try:
        saved = torch.load(checkpoint, map_location="meta", weights_only=True)["state_dict"]
    except pickle.UnpicklingError as error:
        raise UserError(not_tensors(checkpoint)) from error
    wanted = {n: p.shape for n, p in module.named_parameters() if p.requires_grad}
    for name, shape in wanted.items():
        if name not in saved:
            return f"it has no {name}"
        if saved[name].shape != shape:
            return f"{name} is {tuple(saved[name].shape)} there and {tuple(shape)} here"
    return None
