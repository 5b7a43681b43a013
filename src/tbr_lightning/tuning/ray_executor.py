"""Trials as tasks of a Ray cluster: Ray decides where they run, and with which devices."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, TaskCancelledError

from tbr_lightning.config.sweep import SweepSettings
from tbr_lightning.errors import UserError, first_line
from tbr_lightning.tuning.executor import devices_asked
from tbr_lightning.tuning.folder import Spec
from tbr_lightning.tuning.lease import Lease, environment_of_runner, run_trial
from tbr_lightning.tuning.trial import TrialContext


class RayWorker:
    """A trial that runs as a Ray task."""

    def __init__(self, task: Any, lease: Lease) -> None:
        self._task, self._lease = task, lease
        self._code: int | None = None
        self.lost = ""

    @property
    def begun(self) -> float:
        """See :class:`tbr_lightning.tuning.executor.Worker`, also for the other methods."""
        return self._lease.begun

    def exit_code(self) -> int | None:
        """Return its exit code."""
        if self._code is None:
            ready, _ = ray.wait([self._task], timeout=0)
            if ready:
                self._code = self._ended()
        return self._code

    def _ended(self) -> int:
        try:
            return int(ray.get(self._task))
        except TaskCancelledError:
            return -signal.SIGKILL
        except RayError as error:  # its node or its worker is gone
            self.lost = f"Ray lost it ({first_line(error)})"
            return -signal.SIGKILL

    def renew(self) -> None:
        """Renew its lease."""
        self._lease.renew()

    def memory(self) -> float:
        """Return 0: Ray limits memory."""
        return 0.0

    def ask_to_stop(self) -> None:
        """Ask it to end in order; one that waits for its turn is cancelled."""
        self._lease.stop()
        if not self._lease.started:  # else it would be cut off before its checkpoint
            with suppress(RayError, ValueError):
                ray.cancel(self._task, force=False)

    def kill(self) -> None:
        """End it; its process dies with Ray's worker."""
        if self._code is None:
            with suppress(RayError, ValueError):
                ray.cancel(self._task, force=True)


class RayExecutor:
    """Hands trials to the cluster that ``RAY_ADDRESS`` names, or to one of this machine alone."""

    def __init__(self, settings: SweepSettings) -> None:
        self._settings = settings
        self._opened = not ray.is_initialized()
        if self._opened:
            try:
                ray.init(log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError) as error:
                first = " ".join(str(error).split())[:200]
                raise UserError(
                    f"no Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')} ({first}): "
                    "start one with 'ray start --head', or unset it for this machine alone"
                ) from error
        # What died is run again by the runner, which knows what the trial has left.
        self._task = ray.remote(max_retries=0)(run_trial)

    def start(self, folder: Path, around: TrialContext, spec: Spec) -> RayWorker:
        """Submit a trial with what it asks for."""
        lease, settings = Lease(folder), self._settings
        asked: dict[str, Any] = {
            "num_cpus": settings.cpus or spec.threads or 1,
            "num_gpus": devices_asked(settings.gpus, spec.ranks),
            "name": f"{spec.study} trial {spec.number}",
        }
        if settings.memory is not None:
            asked["memory"] = int(settings.memory * 2**30)
        task = self._task.options(**asked).remote(
            str(folder),
            around.as_json(),
            lease.name,
            cwd=str(Path.cwd()),
            environment=environment_of_runner(),
            threads=spec.threads,
            grace=settings.grace,
        )
        return RayWorker(task, lease)

    def close(self) -> None:
        """Leave the cluster, or end the one that was made here."""
        if self._opened:
            ray.shutdown()
