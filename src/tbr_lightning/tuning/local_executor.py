"""Processes of trials: forked from one that has imported the stack, or started afresh for ranks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tbr_lightning import processes
from tbr_lightning.tuning import executor
from tbr_lightning.tuning.folder import Spec, TrialFolder
from tbr_lightning.tuning.trial import TrialContext, enter

_PRELOAD = "tbr_lightning.tuning.preload"
_AFTER_TERM = 20.0  # seconds that a trial has to write a checkpoint before it is killed
_LOOK = 0.05


@dataclass(frozen=True)
class Worker:
    """The process of a trial, with all that it started."""

    pid: int  # process id, and id of its group
    begun: float  # start time on the monotonic clock
    _exit: Callable[[], int | None]
    lost: str = ""  # the end of a process of this machine is known

    def exit_code(self) -> int | None:
        """Return its exit code (negative: the signal), or ``None`` while it runs."""
        return self._exit()

    def renew(self) -> None:
        """Nothing: it watches the runner's process itself."""

    def memory(self) -> float:
        """Return the memory of all its processes in GiB; what they share is counted in each."""
        total = 0
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    total += one.memory_info().rss
        return float(total / 2**30)

    def ask_to_stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class LocalExecutor:
    """Starts trials on this machine."""

    def start(self, folder: Path, around: TrialContext, spec: Spec) -> Worker:
        """Fork a trial, or start one of several ranks afresh."""
        if spec.ranks > 1:
            return spawn(folder, around, spec.threads)
        return fork(folder, around)

    def close(self) -> None:
        """Do nothing: there is no connection to close."""


def warm_up(threads: int) -> None:
    """Start to import what trials on one device need; ``threads`` is for each of them."""
    processes.warm_up(_PRELOAD, threads)


def fork(folder: Path, around: TrialContext) -> Worker:
    """Start a trial on one device; in milliseconds, once the stack is imported."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=enter, args=(str(folder), around))
    process.start()
    assert process.pid is not None
    return Worker(process.pid, time.monotonic(), lambda: process.exitcode)


def spawn(
    folder: Path,
    around: TrialContext,
    threads: int | None,
    *,
    cwd: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Worker:
    """Start a trial in a fresh process, as trials of several ranks and schedulers need.

    Args:
        folder: Folder of the trial.
        around: Context of the trial, which it reads from standard input.
        threads: Threads of all ranks together, on a CPU.
        cwd: Working folder; ``None`` for this one.
        environment: Environment variables; ``None`` for those of this process.
    """
    command = [sys.executable, "-m", "tbr_lightning.tuning.trial", str(folder)]
    surroundings = dict(os.environ if environment is None else environment)
    if threads is not None:
        surroundings["OMP_NUM_THREADS"] = str(threads)
    process: Any = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
        cwd=cwd,
        env=surroundings,
    )
    with process.stdin as told:
        told.write(around.as_json())
    return Worker(process.pid, time.monotonic(), process.poll)


def stop_all(workers: Sequence[executor.Worker]) -> None:
    """Let processes end in order; kill those that do not in time."""
    for worker in workers:
        worker.ask_to_stop()
    until = time.monotonic() + _AFTER_TERM
    for worker in workers:
        while worker.exit_code() is None and time.monotonic() < until:
            time.sleep(_LOOK)
        worker.kill()


def death(code: int, folder: TrialFolder) -> str:
    """Return in words how a trial's process died."""
    if code >= 0:
        words = folder.last_words()
        return f"its process ended with code {code}" + (f": {words}" if words else "")
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        return f"its process was killed ({name}), as the kernel does when memory runs out"
    return f"its process was terminated by {name}"
