"""A run's numbers on their way to MLflow: in order, in few requests, and never lost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

_BATCH = 1000  # metrics that MLflow takes in one request
_PATIENCE = 60.0  # seconds between attempts while the tracker is down, at most


class MetricBuffer:
    """Numbers of one run, written every few seconds in one request.

    A tracker that does not answer never stops a run: what it missed is spooled to a file and sent
    in order once it answers again. A number that arrives twice is one number, since MLflow knows
    metrics by step and time of writing, and both are kept.

    Args:
        run_id: MLflow run.
        spool: File for what could not be sent.
        seconds: Between two requests.
        after: Steps up to this one were logged before an interruption, and are left out.
    """

    def __init__(self, run_id: str, spool: Path, *, seconds: float = 5.0, after: int = -1) -> None:
        self.run_id, self.spool, self.seconds, self.after = run_id, spool, seconds, after
        self._client = MlflowClient()
        self._pending: list[Metric] = []
        self._next = time.monotonic() + seconds
        self._wait = seconds

    @property
    def client(self) -> MlflowClient:
        """The client, for what is no metric."""
        return self._client

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step; send what is waiting if it is time."""
        if step <= self.after:
            return
        now = int(time.time() * 1000)
        self._pending += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> bool:
        """Send what is waiting, what was spooled first; return whether nothing is left."""
        waiting = [*self._spooled(), *self._pending]
        try:
            for start in range(0, len(waiting), _BATCH):
                self._client.log_batch(self.run_id, metrics=waiting[start : start + _BATCH])
        except (MlflowException, OSError) as error:
            self._keep(error)
            return False
        self._pending.clear()
        self.spool.unlink(missing_ok=True)
        self._wait = self.seconds
        self._next = time.monotonic() + self.seconds
        return True

    def close(self) -> None:
        """Send the rest."""
        if not self.flush():
            print(
                f"the tracker does not answer: the last numbers of run {self.run_id} are in "
                f"{self.spool} and are sent when the run is resumed",
                file=sys.stderr,
            )

    def _keep(self, error: Exception) -> None:
        if not self.spool.exists():
            first = str(error).strip().splitlines()[0][:160]
            print(f"the tracker does not answer ({first}): metrics are spooled", file=sys.stderr)
        with self.spool.open("a") as file:
            for metric in self._pending:
                entry = [metric.key, metric.value, metric.timestamp, metric.step]
                file.write(json.dumps(entry) + "\n")
        self._pending.clear()
        self._wait = min(2 * self._wait, _PATIENCE)
        self._next = time.monotonic() + self._wait

    def _spooled(self) -> list[Metric]:
        if not self.spool.exists():
            return []
        return [Metric(*json.loads(line)) for line in self.spool.read_text().splitlines()]


def last_logged_step(run_id: str, key: str) -> int:
    """Return the last step at which a run has a metric, or -1."""
    history = MlflowClient().get_metric_history(run_id, key)
    return max((metric.step for metric in history), default=-1)
