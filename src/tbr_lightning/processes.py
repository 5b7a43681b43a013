"""Processes of this machine: forked ones and their end, who holds something, libraries, cores.

The process that others are forked from has imported the stack once, for all of them. They are its
children, not those of the process that wanted them, and so must look for themselves whether that
one lives.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.forkserver
import os
import platform
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

_LOOK = 0.2  # seconds between two checks


def warm_up(preload: str, threads: int | None = None) -> None:
    """Start to import a module in the process that others are forked from, and do not wait.

    It is started once in a process's life: later calls change nothing.

    Args:
        preload: Module that imports what the forked processes need. It may not start a thread,
            open a connection or touch a GPU, for a fork would break it.
        threads: Threads of each forked process; libraries read it from the environment when they
            are loaded. ``None`` leaves that as it is.
    """
    before = dict(os.environ)
    # Threads of numpy's library would be lost in every fork.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        multiprocessing.set_forkserver_preload([preload])
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def import_all(names: Iterable[str]) -> None:
    """Import modules for those that are forked later."""
    for name in names:
        import_module(name)


def start_of(pid: int | None = None) -> float:
    """Return what tells a process of this machine from an earlier one of its id; default: this one.

    On Linux it is the start in clock ticks since the boot: a date would move with the clock, and
    every living process would seem to be another one once the clock is set.

    Raises:
        psutil.NoSuchProcess: There is none.
    """
    pid = os.getpid() if pid is None else pid
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return float(fields[19])
    except (OSError, IndexError):  # it is gone, or this is not Linux
        return psutil.Process(pid).create_time()


def is_gone(pid: int, started: float) -> bool:
    """Return whether a process of this machine has ended.

    Args:
        pid: Process id.
        started: What :func:`start_of` returned for it, since ids are used again.
    """
    try:
        # Who started it may wait for others before it takes note of its end.
        return start_of(pid) != started or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def die_with(pid: int, started: float, end: Callable[[], None]) -> None:
    """Call ``end`` from a thread of this process as soon as another one is gone, however it went.

    Args:
        pid: Process id of the other process.
        started: What :func:`start_of` returned for that process, since ids are used again.
        end: Function that must end this process.
    """

    def watch() -> None:
        while not is_gone(pid, started):
            time.sleep(_LOOK)
        end()

    threading.Thread(target=watch, name=f"watch of {pid}", daemon=True).start()


def cores() -> int:
    """Return the physical cores that this process may use, where the system reports them."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    # A container or a scheduler may have left it fewer than the machine has.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return min(physical, allowed)


def collect_rarely() -> None:
    """Let Python look for cyclic garbage after 50,000 new objects that stay, not after 700.

    The imports of a training make more than a million of them. Looking through these 1,600 times
    takes a tenth of the imports' time and more.
    """
    gc.set_threshold(50_000)


def quiet() -> None:
    """Keep messages of libraries from burying the command's output; let threads sleep."""
    for key, value in {
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin while they wait make torch many times slower on a core that is shared;
        # some microseconds cost little there, and spare an idle machine a fifth of each step.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "2000",
        "TRANSFORMERS_VERBOSITY": "error",
        # It reports each of its retries where the hub is out of reach: our own sentence says so.
        "HF_HUB_VERBOSITY": "error",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(key, value)
    if shutil.which("nvidia-smi") is None:
        # DeepSpeed, which accelerate imports, otherwise warns that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for chatter in (
        ".*LeafSpec.*",
        ".*is_gradient_checkpointing.*",
        ".*c10d_logger.*",
        ".*torch.distributed.*deprecated.*",
    ):
        warnings.filterwarnings("ignore", chatter)
    # Optuna announces what its next versions will do to those who write code against it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"optuna(\.|$)")
    warnings.filterwarnings("ignore", r".*has been deprecated in v\d.*", FutureWarning)


@dataclass(frozen=True)
class Owner:
    """A process that holds something, identified so that another can tell when it is dead."""

    host: str  # name, for people
    machine: str  # boot and process namespace, within which a process id has one meaning
    pid: int  # process id
    started: float  # see start_of: ids are used again

    def known_dead(self) -> bool:
        """Return whether it is surely gone; of a process on another machine nothing is sure."""
        return self.machine == _machine() and is_gone(self.pid, self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def identity_of(pid: int | None = None) -> Owner:
    """Return the identity of a process of this machine: this one, or another."""
    pid = os.getpid() if pid is None else pid
    return Owner(platform.node(), _machine(), pid, start_of(pid))


def read_owner(found: Any) -> Owner | None:
    """Return what :func:`dataclasses.asdict` made of one, or ``None``."""
    return Owner(**found) if isinstance(found, dict) else None


@lru_cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    try:
        return f"{boot.read_text().strip()} {namespace.readlink()}"
    except OSError:  # not Linux
        return f"{platform.node()} {psutil.boot_time():.0f}"
