"""Runs found by their tags."""

from __future__ import annotations

from collections.abc import Mapping

import mlflow
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

_PAGE = 1000  # runs in one answer of a search


def find_run(tags: Mapping[str, str]) -> str | None:
    """Return the newest finished run of this store with these tags, or ``None``."""
    return next(iter(newest_runs("= 'FINISHED'", tags, most=1)), None)


def newest_runs(status: str, tags: Mapping[str, str], most: int) -> list[str]:
    """Return this store's newest runs with these tags and a status as in ``= 'FINISHED'``."""
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = mlflow.search_runs(
        filter_string=f"attributes.status {status} and {wanted}",
        max_results=most,
        order_by=["attributes.start_time DESC"],
        search_all_experiments=True,
        output_format="list",
    )
    return [str(run.info.run_id) for run in found]


def runs_beneath(
    parent_run_id: str, tags: Mapping[str, str] | None = None, status: str | None = None
) -> list[tuple[str, str, dict[str, str]]]:
    """Return id, status and tags of the runs directly beneath a run, newest first."""
    client = MlflowClient()
    experiment_id = client.get_run(parent_run_id).info.experiment_id
    wanted = {MLFLOW_PARENT_RUN_ID: parent_run_id, **dict(tags or {})}
    words = [f"tags.`{key}` = '{value}'" for key, value in wanted.items()]
    if status is not None:
        words.append(f"attributes.status = '{status}'")
    found: list[tuple[str, str, dict[str, str]]] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            " and ".join(words),
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found += [(run.info.run_id, run.info.status, dict(run.data.tags)) for run in page]
        token = page.token
        if not token:
            return found
