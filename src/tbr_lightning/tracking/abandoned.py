"""Runs whose process was killed before it could end them: the next command closes them."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.processes import is_gone, start_of

PROCESS = "tbr.process"
"""Tag of a run: machine, id and start of the process that has it open."""


def mark() -> str:
    """Return the value of :data:`PROCESS` for this process."""
    return f"{_machine()} {os.getpid()} {start_of()!r}"


def close_abandoned(experiment_id: str) -> list[str]:
    """End the runs that processes of this machine left open when they were killed, as KILLED.

    A model that such a run had begun to log is marked as failed. What a store refuses stays open:
    closing must not make a command fail.

    Returns:
        IDs of the closed runs.
    """
    client, closed = MlflowClient(), list[str]()
    with suppress(MlflowException):
        found = client.search_runs(
            [experiment_id],
            f"attributes.status = 'RUNNING' and tags.`{PROCESS}` LIKE '{_machine()} %'",
        )
        for run in found:
            _, pid, started = run.data.tags[PROCESS].split(" ")
            if not is_gone(int(pid), float(started)):
                continue
            run_id = run.info.run_id
            fail_pending(experiment_id, run_id)
            client.set_tag(run_id, "tbr.reason", "its process was killed")
            client.set_terminated(run_id, "KILLED")
            closed.append(run_id)
            print(
                f"run {run_id} ({run.info.run_name}) was left open by a process that was killed: "
                "it is closed as KILLED",
                file=sys.stderr,
            )
    return closed


def fail_pending(experiment_id: str, run_id: str) -> None:
    """Mark what a run had begun to log as a model, and has not come to the end of, as failed."""
    client = MlflowClient()
    for model in client.search_logged_models(
        [experiment_id], filter_string=f"source_run_id = '{run_id}'"
    ):
        if model.status == LoggedModelStatus.PENDING:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)


def _machine() -> str:
    """Return a name of this machine without blanks, to qualify its process ids."""
    found = [socket.gethostname().replace(" ", "-").replace("'", "-")]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            path = Path(file)
            found.append(str(path.readlink()) if path.is_symlink() else path.read_text().strip())
    return "/".join(found)
