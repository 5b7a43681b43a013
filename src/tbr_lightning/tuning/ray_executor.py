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
from tbr_lightning.errors import UserError, first_line, in_one_line
from tbr_lightning.tuning.executor import devices_asked
from tbr_lightning.tuning.folder import Spec
from tbr_lightning.tuning.lease import Lease, LeasedWorker, environment_of_runner, run_trial
from tbr_lightning.tuning.trial import TrialContext


class RayExecutor:
    """Hands trials to the cluster that ``RAY_ADDRESS`` names, or to one of this machine alone."""

    def __init__(self, settings: SweepSettings) -> None:
        self._settings = settings
        self._opened = not ray.is_initialized()
        if self._opened:
            try:
                ray.init(log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError) as error:
                first = in_one_line(error, 200)
                raise UserError(
                    f"no Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')} ({first}): "
                    "start one with 'ray start --head', or unset it for this machine alone"
                ) from error
        # What died is run again by the runner, which knows what the trial has left.
        self._task = ray.remote(max_retries=0)(run_trial)

    def start(self, folder: Path, around: TrialContext, spec: Spec) -> LeasedWorker:
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

        def ended() -> tuple[int, str] | None:
            ready, _ = ray.wait([task], timeout=0)
            try:
                return (int(ray.get(task)), "") if ready else None
            except TaskCancelledError:
                return -signal.SIGKILL, ""
            except RayError as error:  # its node or its worker is gone
                return -signal.SIGKILL, f"Ray lost it ({first_line(error)})"

        def cancel(*, waiting: bool) -> None:
            if not (waiting and lease.started):
                with suppress(RayError, ValueError):
                    ray.cancel(task, force=not waiting)

        return LeasedWorker(lease, ended, cancel)

    def close(self) -> None:
        """Leave the cluster, or end the one that was made here."""
        if self._opened:
            ray.shutdown()
