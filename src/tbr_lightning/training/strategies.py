"""From a trainer config to Lightning's strategy: one device, DDP, FSDP, DeepSpeed ZeRO."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.strategies.strategy import Strategy

from tbr_lightning.config.schema import TrainerConfig
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError
from tbr_lightning.training.devices import accelerator_of, world_size
from tbr_lightning.training.precision import precision_of


class CachedMixedPrecision(MixedPrecision):
    """bfloat16 autocast that casts a weight once for all micro-batches of an optimizer step.

    Lightning's own casts it in each; gradients go back through the cached copy just as well.
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)

    def autocast_context_manager(self) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=True)

    def optimizer_step(self, *args: Any, **options: Any) -> Any:
        """Step, and forget the copies of what has changed."""
        done = super().optimizer_step(*args, **options)
        torch.clear_autocast_cache()
        return done

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep copies from one forward pass to the next within the block."""
        torch.autocast_increment_nesting()
        try:
            yield
        finally:
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()


def precision_plugin(config: TrainConfig) -> CachedMixedPrecision | None:
    """Return the plugin that takes the place of Lightning's own for a precision, if one does."""
    plain = config.trainer.strategy in ("single", "ddp")
    if precision_of(config) != "bf16-mixed" or not plain:
        return None
    return CachedMixedPrecision("cuda" if accelerator_of(config.trainer) == "gpu" else "cpu")


def divisor_of(trainer: TrainerConfig) -> float:
    """Return the number that divides a micro-batch's loss between the module and the optimizer.

    Lightning divides by the micro-batches of a step, and DeepSpeed once more; gradients are
    averaged over the ranks.
    """
    again = trainer.accumulate if trainer.strategy == "deepspeed" else 1
    return float(trainer.accumulate * again * world_size(trainer))


def strategy_of(trainer: TrainerConfig, *, frozen: bool) -> Strategy | str:
    """Return the value for Lightning's ``Trainer(strategy=...)``.

    Args:
        trainer: Config of the trainer.
        frozen: Whether some parameters are not trained.
    """
    if trainer.strategy == "ddp":
        backend = "gloo" if accelerator_of(trainer) == "cpu" else None
        return DDPStrategy(
            process_group_backend=backend, find_unused_parameters=trainer.find_unused_parameters
        )
    if trainer.strategy == "fsdp":
        return FSDPStrategy(
            sharding_strategy="FULL_SHARD", use_orig_params=True, state_dict_type="full"
        )
    if trainer.strategy == "deepspeed":
        return _deepspeed(trainer, frozen=frozen)
    return "auto"


def _deepspeed(trainer: TrainerConfig, *, frozen: bool) -> Strategy:
    settings: dict[str, Any] = {
        "stage": trainer.zero_stage,
        "offload_optimizer": trainer.offload,
        "offload_parameters": trainer.offload and trainer.zero_stage == 3,
        "exclude_frozen_parameters": frozen,
        "logging_batch_size_per_gpu": trainer.batch_size,
    }
    if accelerator_of(trainer) == "gpu":
        return SafeDeepSpeedStrategy(**settings)
    # Overlapping uses CUDA streams; buckets of gigabytes would be reserved for nothing.
    small = {"overlap_comm": False, "allgather_bucket_size": 2**24, "reduce_bucket_size": 2**24}
    return CpuDeepSpeedStrategy(**settings, **small, process_group_backend="gloo")


@contextmanager
def tensors_alone(checkpoint: Path) -> Iterator[None]:
    """Let nothing be unpickled but tensors, plain values, and the records DeepSpeed keeps of them.

    DeepSpeed itself reads its shards as pickles, which may run anything. Its own classes among them
    are data without code of their own.

    Raises:
        UserError: There is something else in the checkpoint.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"  # what torch.load is asked for does not matter then
    try:
        with torch.serialization.safe_globals(known):
            yield
    except pickle.UnpicklingError as error:
        raise UserError(not_tensors(checkpoint)) from error
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def not_tensors(checkpoint: Path) -> str:
    """Return the message about a checkpoint that is not loaded."""
    return (
        f"the checkpoint {checkpoint} contains pickled objects other than tensors, and loading "
        "them could run any code: it is damaged, or another program wrote it: delete it, or start "
        "a new run"
    )


_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class SafeDeepSpeedStrategy(DeepSpeedStrategy):
    """DeepSpeed whose checkpoints are read as tensors alone.

    There is no setting for it: DeepSpeed asks for whole pickles.
    """

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read a checkpoint as Lightning does, see :func:`tensors_alone`."""
        with tensors_alone(Path(checkpoint_path)):
            return super().load_checkpoint(checkpoint_path, weights_only)


class CpuDeepSpeedStrategy(SafeDeepSpeedStrategy):
    """DeepSpeed on CPU ranks over gloo, which Lightning refuses and DeepSpeed itself can do.

    It makes ZeRO testable without a GPU. Lightning's strategy is a class to derive from; there is
    no other way to change its device check.
    """

    def setup_environment(self) -> None:
        """Set up ranks and DeepSpeed's process group without asking for CUDA."""
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        self.accelerator.setup_device(self.root_device)
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        """The CPU, with an index: DeepSpeed takes it for the rank."""
        return torch.device("cpu", self.local_rank)
