"""A run's numbers on their way to MLflow: in order, in few requests, and never lost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import first_line

_BATCH = 1000  # metrics that MLflow takes in one request
_PATIENCE = 60.0  # seconds between attempts while the tracker refuses at once, at most
_TIMES = 9  # longer than an attempt took is the time until the next


class MetricBuffer:
    """Buffers the metrics of one run, and writes them every few seconds in one request.

    A tracker that does not answer never stops a run: what it missed is spooled to a file and sent
    in order once it answers again. A number that is sent again is one number, since MLflow knows
    metrics by step and time of writing, and both are kept.

    Args:
        run_id: ID of the MLflow run.
        spool: File for what could not be sent.
        seconds: Seconds between two requests.
        after: For each metric the last step that was logged before an interruption; what is added
            up to it is left out. See :func:`last_logged_steps`.

    Attributes:
        refused: Why the last request was not taken; ``None`` if it was.
    """

    refused: Exception | None = None

    def __init__(
        self,
        run_id: str,
        spool: Path,
        *,
        seconds: float = 5.0,
        after: Mapping[str, int] | None = None,
    ) -> None:
        self.run_id, self.spool, self.seconds, self.after = run_id, spool, seconds, after or {}
        self._client = MlflowClient()
        self._pending: list[Metric] = []
        self._next = time.monotonic() + seconds
        self._wait = seconds

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Add the numbers of a step; send what is waiting if it is time."""
        now = int(time.time() * 1000)
        self._pending += [
            Metric(key, float(value), now, step)
            for key, value in metrics.items()
            if step > self.after.get(key, -1)
        ]
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> bool:
        """Send what is waiting, what was spooled first; return whether nothing is left."""
        waiting = [*_read(self.spool), *self._pending]
        start = time.monotonic()
        try:
            for first in range(0, len(waiting), _BATCH):
                self._client.log_batch(self.run_id, metrics=waiting[first : first + _BATCH])
        except (MlflowException, OSError) as error:
            self.refused = error
            self._keep(error, time.monotonic() - start)
            return False
        self.refused = None
        self._pending.clear()
        self.spool.unlink(missing_ok=True)
        self._wait = self.seconds
        self._next = time.monotonic() + self.seconds
        return True

    def table(self, frame: pd.DataFrame, file: str) -> None:
        """Log a table now; without the tracker it is lost, which is reported and stops nothing."""
        try:
            self._client.log_table(self.run_id, frame, file)
        except (MlflowException, OSError) as error:
            print(f"the table {file} could not be logged ({first_line(error)})", file=sys.stderr)

    def close(self) -> None:
        """Send the rest."""
        if not self.flush():
            print(
                f"the tracker does not answer: the last numbers of run {self.run_id} are in "
                f"{self.spool} and are sent when the run is resumed",
                file=sys.stderr,
            )

    def _keep(self, error: Exception, seconds: float) -> None:
        if not self.spool.exists():
            print(
                f"the tracker does not answer ({first_line(error)}): metrics are spooled",
                file=sys.stderr,
            )
        with self.spool.open("a") as file:
            for metric in self._pending:
                entry = [metric.key, metric.value, metric.timestamp, metric.step]
                # The line before may have been cut by a crash.
                file.write(f"\n{json.dumps(entry)}")
        self._pending.clear()
        self._wait = min(2 * self._wait, _PATIENCE)
        # A tracker that lets one wait for its answer takes a small share of the time.
        self._next = time.monotonic() + max(self._wait, _TIMES * seconds)


def _read(spool: Path) -> list[Metric]:
    found: list[Metric] = []
    if not spool.exists():
        return found
    for line in spool.read_text(errors="replace").splitlines():
        try:
            found.append(Metric(*json.loads(line)))
        except (ValueError, TypeError):  # cut by a crash
            continue
    return found


def last_logged_steps(run_id: str, spool: Path) -> dict[str, int]:
    """Return the last step of each of a run's metrics that was logged or waits in the spool.

    Each by itself, since a run may end after a step's loss and before its validation loss.
    """
    client = MlflowClient()
    found = _read(spool)
    try:
        names = client.get_run(run_id).data.metrics
        found += [metric for name in names for metric in client.get_metric_history(run_id, name)]
    except (MlflowException, OSError) as error:
        print(f"the tracker does not answer ({first_line(error)})", file=sys.stderr)
    steps: dict[str, int] = {}
    for metric in found:
        steps[metric.key] = max(metric.step, steps.get(metric.key, -1))
    return steps
