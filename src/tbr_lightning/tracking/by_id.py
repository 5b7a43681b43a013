"""Runs that are written by their id, from another process than the one that opened them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Metric, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.tracking.ending import true_status
from tbr_lightning.tracking.store import connect

TAG_LIMIT = 5000  # characters of a tag's value that every store takes
_PARAM_LIMIT = 6000
_PAGE = 1000  # runs in one answer of a search


@dataclass(frozen=True)
class Point:
    """One number of a metric.

    Attributes:
        name: Of the metric.
        value: The number.
        time: Milliseconds since 1970. A point that is sent again with its time and step is the
            same point.
        step: Its step.
    """

    name: str
    value: float
    time: int
    step: int


def is_open_to(run_id: str, experiment_id: str) -> bool:
    """Return whether a run is there, not deleted, and of this experiment."""
    try:
        info = MlflowClient().get_run(run_id).info
    except MlflowException:
        return False
    return info.lifecycle_stage == "active" and info.experiment_id == experiment_id


@contextmanager
def child_run(
    parent_run_id: str,
    stage: str,
    name: str,
    tracking: TrackingConfig,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    killed_by: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Iterator[str]:
    """Open a run beneath another that may be open in another process, and yield its id.

    What is opened within nests beneath it. It ends as FINISHED, as KILLED after one of the errors
    ``killed_by``, or as FAILED with the error's words in the tag ``tbr.failure``.
    """
    experiment_id = connect(tracking)
    active = mlflow.start_run(
        experiment_id=experiment_id,
        run_name=name,
        nested=True,
        tags={"tbr.stage": stage, **tags},
        log_system_metrics=False,
    )
    # A forked process takes over which run is open from the process that it was forked from.
    mlflow.set_tag(MLFLOW_PARENT_RUN_ID, parent_run_id)
    with true_status(killed_by):
        mlflow.log_params({key: str(value)[:_PARAM_LIMIT] for key, value in params.items()})
        yield str(active.info.run_id)


def runs_beneath(
    parent_run_id: str, experiment_id: str, tags: Mapping[str, str] | None = None
) -> list[tuple[str, str, dict[str, str]]]:
    """Return id, status and tags of the runs directly beneath a run, newest first."""
    wanted = {MLFLOW_PARENT_RUN_ID: parent_run_id, **dict(tags or {})}
    words = " and ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
    return _search(experiment_id, words)


def open_beneath(parent_run_id: str, experiment_id: str) -> list[tuple[str, str, dict[str, str]]]:
    """Return id, status and tags of the runs directly beneath a run that have not ended."""
    words = f"attributes.status = 'RUNNING' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}'"
    return _search(experiment_id, words)


def _search(experiment_id: str, words: str) -> list[tuple[str, str, dict[str, str]]]:
    client = MlflowClient()
    found: list[tuple[str, str, dict[str, str]]] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            words,
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found += [(run.info.run_id, run.info.status, dict(run.data.tags)) for run in page]
        token = page.token
        if not token:
            return found


def end(run_id: str, status: str, reason: str | None = None) -> None:
    """End a run, whichever process opened it, with FINISHED, KILLED or FAILED.

    Runs beneath it that have not ended are ended too, all of them before it: as KILLED where it is
    killed, else as FAILED, since nothing is left to finish them.
    """
    client = MlflowClient()
    experiment_id = client.get_run(run_id).info.experiment_id
    for beneath, _, _ in open_beneath(run_id, experiment_id):
        end(beneath, "KILLED" if status == "KILLED" else "FAILED", reason)
    if reason:
        key = "tbr.failure" if status == "FAILED" else "tbr.reason"
        client.set_tag(run_id, key, reason[:500])
    client.set_terminated(run_id, status)


def reopen(run_id: str) -> None:
    """Mark a run as running again, if another process has ended it."""
    client = MlflowClient()
    if client.get_run(run_id).info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")


def log(run_id: str, points: Sequence[Point] = (), tags: Mapping[str, str] | None = None) -> None:
    """Log numbers and tags in as few requests as MLflow allows."""
    client = MlflowClient()
    items = [Metric(point.name, point.value, point.time, point.step) for point in points]
    words = [RunTag(key, str(value)[:TAG_LIMIT]) for key, value in dict(tags or {}).items()]
    if words:
        client.log_batch(run_id, metrics=items[:MAX_METRICS_PER_BATCH], tags=words)
        items = items[MAX_METRICS_PER_BATCH:]
    for start in range(0, len(items), MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=items[start : start + MAX_METRICS_PER_BATCH])


def steps_of(run_id: str, metric: str) -> set[int]:
    """Return the steps at which a run has a metric."""
    return {point.step for point in MlflowClient().get_metric_history(run_id, metric)}


def put_table(run_id: str, rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """Log rows as a table that the MLflow UI shows, in the place of what the file held before."""
    client = MlflowClient()
    client.log_text(
        run_id,
        pd.DataFrame(list(rows)).to_json(orient="split", index=False, date_format="iso"),
        file,
    )
    tags = client.get_run(run_id).data.tags
    tables = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    entry = {"path": file, "type": "table"}
    if entry not in tables:
        client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*tables, entry]))


def put_text(run_id: str, text: str, file: str) -> None:
    """Log a text file, in the place of what the file held before."""
    MlflowClient().log_text(run_id, text, file)


def put_figure(run_id: str, figure: Any, file: str) -> None:
    """Log a matplotlib figure, in the place of what the file held before."""
    MlflowClient().log_figure(run_id, figure, file, save_kwargs={"bbox_inches": "tight"})
