"""Trials as jobs of SLURM, through submitit; without SLURM, as jobs of this machine."""

from __future__ import annotations

import math
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from tbr_lightning.config.sweep import SweepSettings
from tbr_lightning.errors import UserError, first_line, in_one_line
from tbr_lightning.tuning.executor import devices_asked
from tbr_lightning.tuning.folder import Spec
from tbr_lightning.tuning.lease import Lease, LeasedWorker, environment_of_runner, run_trial
from tbr_lightning.tuning.trial import TrialContext

_SPARE = 10  # minutes beside a trial's own, for its start and its end
_DAY = 24 * 60
_LOOK = 1.0  # seconds between two checks of a job


class SubmititExecutor:
    """Submits trials with what they ask for."""

    def __init__(self, settings: SweepSettings, folder: Path, timeout: float | None) -> None:
        self._settings = settings
        more = dict(settings.submitit)
        # What a job is sent holds the runner's environment, keys and all.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        try:
            self._executor = submitit.AutoExecutor(
                folder=folder / "%j", cluster=more.pop("cluster", None)
            )
            self._executor.update_parameters(**self._asked(timeout) | more)
        except (ValueError, TypeError, NameError, FailedSubmissionError) as error:
            raise UserError(
                f"sweep.submitit={settings.submitit} cannot be used: {in_one_line(error, 200)}"
            ) from error

    def _asked(self, timeout: float | None) -> dict[str, Any]:
        settings = self._settings
        minutes = _DAY if timeout is None else math.ceil(timeout / 60) + _SPARE
        asked: dict[str, Any] = {"timeout_min": minutes, "name": "tbr-trial"}
        if settings.cpus is not None:
            asked["cpus_per_task"] = settings.cpus
        if settings.memory is not None:
            asked["mem_gb"] = settings.memory
        return asked

    def start(self, folder: Path, around: TrialContext, spec: Spec) -> LeasedWorker:
        """Submit a trial.

        Raises:
            UserError: The scheduler refuses it.
        """
        lease, gpus = Lease(folder), self._settings.gpus
        if gpus is not None and "gpus_per_node" not in self._settings.submitit:
            wanted = math.ceil(devices_asked(gpus, spec.ranks))
            self._executor.update_parameters(gpus_per_node=wanted)
        try:
            job = self._executor.submit(
                run_trial,
                str(folder),
                around.as_json(),
                lease.name,
                cwd=str(Path.cwd()),
                environment=environment_of_runner(),
                threads=spec.threads,
                grace=self._settings.grace,
            )
        except FailedSubmissionError as error:
            reason = in_one_line(error, 200)
            raise UserError(f"SLURM does not take trial {spec.number}: {reason}") from error
        looked = 0.0

        def ended() -> tuple[int, str] | None:
            nonlocal looked
            if time.monotonic() - looked < _LOOK:
                return None
            looked = time.monotonic()
            try:
                return (int(job.result()), "") if job.done() else None
            except (UncompletedJobError, FailedJobError) as error:
                return -signal.SIGKILL, f"job {job.job_id} left no result ({first_line(error)})"

        def cancel(*, waiting: bool) -> None:
            if not waiting or job.state == "PENDING":
                with suppress(OSError):
                    job.cancel(check=False)

        return LeasedWorker(lease, ended, cancel)

    def close(self) -> None:
        """Do nothing: there is no connection to close."""
