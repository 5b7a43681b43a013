"""Several ranks: started here on one machine, or by torchrun on many."""

from __future__ import annotations

import datetime
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbr_lightning import processes
from tbr_lightning.config.schema import TrainerConfig
from tbr_lightning.errors import INTERRUPTED, USAGE_ERROR, UserError
from tbr_lightning.training.devices import accelerator_of, world_size

if TYPE_CHECKING:
    from tbr_lightning.models.backbone import Backbone
    from tbr_lightning.training.fit import Done, Job

TRAINED = "trained.safetensors"
"""What several ranks leave in the run's folder: the trained tensors, whole."""

_ERROR, _STOPPED = "rank-error.txt", "rank-stopped.txt"


@dataclass(frozen=True)
class Place:
    """The rank of a process among those that a launcher such as torchrun started.

    Attributes:
        rank: Global rank.
        world: Number of ranks.
    """

    rank: int
    world: int


@dataclass(frozen=True)
class Starter:
    """The process that started ranks.

    Attributes:
        pid: Process id.
        started: Time at which the process itself was started.
        environment: Its environment variables; a forked rank has those of an earlier moment.
        port: Port at which the ranks meet.
    """

    pid: int
    started: float
    environment: Mapping[str, str]
    port: int


def launched() -> Place | None:
    """Return this process's place if a launcher started it, else ``None``."""
    if "LOCAL_RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def check_launched(place: Place, trainer: TrainerConfig) -> None:
    """Raise unless the launcher started as many ranks as the config wants."""
    if place.world != trainer.devices * trainer.num_nodes:
        raise UserError(
            f"trainer.devices={trainer.devices} x trainer.num_nodes={trainer.num_nodes} are not "
            f"the {place.world} processes that the launcher started: make them agree"
        )


def share(job: Job | None) -> Job:
    """Hand the first rank's job to all ranks; the others wait here while it is prepared."""
    import torch

    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # Reflections of a large data set may take hours to write.
        torch.distributed.init_process_group(backend, timeout=datetime.timedelta(days=2))
    handed: list[Any] = [job]
    torch.distributed.broadcast_object_list(handed, src=0)
    assert handed[0] is not None
    return handed[0]


def warm_up(trainer: TrainerConfig) -> None:
    """Start to import what ranks on a CPU need, if this process will start some; do not wait."""
    if launched() is None and world_size(trainer) > 1 and accelerator_of(trainer) == "cpu":
        processes.warm_up("tbr_lightning.training.preload")


def fit_in_ranks(job: Job, target: Callable[[int, Job, Starter], None]) -> None:
    """Run ``target`` in one process per device of this machine, and wait for all of them.

    Raises:
        UserError: Bad input, as a rank reported it.
        KeyboardInterrupt: This process was asked to stop; the ranks have written a checkpoint.
    """
    from torch.multiprocessing.spawn import ProcessExitedException, start_processes

    for left in (_ERROR, _STOPPED):
        (job.folder / left).unlink(missing_ok=True)
    (job.folder / TRAINED).unlink(missing_ok=True)
    starter = Starter(os.getpid(), processes.start_of(), dict(os.environ), _free_port())
    context = start_processes(
        target,
        args=(job, starter),
        nprocs=job.config.trainer.devices,
        join=False,
        # CUDA does not survive a fork.
        start_method="forkserver" if accelerator_of(job.config.trainer) == "cpu" else "spawn",
    )
    try:
        while not context.join():
            pass
    except KeyboardInterrupt as error:
        # The ranks finish their step and save; Ctrl-C reached them already, SIGTERM did not.
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)
        for process in context.processes:
            process.join()
        raise KeyboardInterrupt(_stopped(job)) from error
    except ProcessExitedException as error:
        said = job.folder / _ERROR
        if said.exists():
            raise UserError(said.read_text()) from error
        if error.exit_code == INTERRUPTED:
            raise KeyboardInterrupt(_stopped(job)) from error
        raise


def _stopped(job: Job) -> str:
    """Return what the first rank said when it was interrupted: how far the training came."""
    said = job.folder / _STOPPED
    return said.read_text() if said.exists() else ""


def as_rank(local_rank: int, job: Job, starter: Starter) -> None:
    """Run one of the ranks of :func:`fit_in_ranks`: fit, and leave the trained tensors behind."""
    processes.die_with(starter.pid, starter.started, lambda: os.kill(os.getpid(), signal.SIGKILL))
    trainer = job.config.trainer
    os.environ.clear()
    os.environ |= {
        **starter.environment,
        "LOCAL_RANK": str(local_rank),
        "RANK": str(local_rank),
        "WORLD_SIZE": str(trainer.devices),
        "LOCAL_WORLD_SIZE": str(trainer.devices),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(starter.port),
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from tbr_lightning.processes import quiet

    quiet()
    try:
        fit_and_leave(job)
    except UserError as error:
        (job.folder / _ERROR).write_text(str(error))
        os._exit(USAGE_ERROR)
    except KeyboardInterrupt as error:
        if local_rank == 0:
            (job.folder / _STOPPED).write_text(str(error))
        os._exit(INTERRUPTED)


def fit_and_leave(job: Job) -> None:
    """Fit on this rank; the first one writes the trained tensors into the run's folder."""
    from safetensors.torch import save_file

    from tbr_lightning.tracking.store import connect
    from tbr_lightning.training.fit import fit

    _share_cores(job.config.trainer)
    connect(job.config.tracking)
    fitted = fit(job, _backbone(job))
    if fitted.trained is not None:
        facts = {name: str(value) for name, value in asdict(fitted.done).items()}
        partial = job.folder / f"{TRAINED}.partial"
        save_file(fitted.trained, partial, metadata=facts)
        partial.replace(job.folder / TRAINED)


def collect_trained(job: Job) -> tuple[Backbone, Done]:
    """Return the base with what the ranks left behind loaded into it, and what they did."""
    from safetensors import safe_open

    from tbr_lightning.models.adapters import with_adapter
    from tbr_lightning.training.fit import Done

    backbone = _backbone(job)
    model = with_adapter(backbone.model, job.config.adapter)
    with safe_open(job.folder / TRAINED, framework="pt") as file:
        facts = file.metadata()
        trained = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # Any other tensor would stay as it began.
    if other := {name for name, p in model.named_parameters() if p.requires_grad} ^ trained.keys():
        raise RuntimeError(f"{min(other)} is not both trained by the ranks and in the model")
    model.load_state_dict(trained, strict=False)
    done = Done(int(facts["steps"]), int(facts["supervised_tokens"]), float(facts["seconds"]))
    return replace(backbone, model=model), done


def _backbone(job: Job) -> Backbone:
    from tbr_lightning.models.backbone import load_backbone
    from tbr_lightning.training.precision import training_dtype

    config = job.config
    return load_backbone(
        config.model,
        data=config.data.name,
        rows=(),
        cache=Path(config.paths.cache),
        seed=config.seed,
        tokenizer=job.tokenizer,
        dtype=training_dtype(config),
        adapter=config.adapter,
    )


def _share_cores(trainer: TrainerConfig) -> None:
    """Give each CPU rank its share of the cores: ranks that fight for them are far slower."""
    import torch

    if trainer.threads is None and accelerator_of(trainer) == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // trainer.devices))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
