"""MLflow runs: what every run carries, and an honest final status."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelInput
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from tbr_lightning.config.credentials import without_credentials
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError
from tbr_lightning.tracking.ending import true_status
from tbr_lightning.tracking.provenance import git_state, hardware, package_versions
from tbr_lightning.tracking.store import connect

REFLECTIONS = "reflections.json"
"""Artifact of a reflection run: the accepted reflections, with their instructions' ids."""

_PARAM_LIMIT = 6000  # characters of a param's value that MLflow stores; the artifact has no limit


@dataclass(frozen=True)
class Run:
    """A run under way.

    Attributes:
        id: MLflow's run id.
        name: The name that the UI shows.
        experiment_id: Of the experiment that holds it.
    """

    id: str
    name: str
    experiment_id: str


@contextmanager
def start_run(
    stage: str,
    name: str,
    config: Any,
    tracking: TrackingConfig,
    tags: Mapping[str, str] | None = None,
    *,
    run_id: str | None = None,
) -> Iterator[Run]:
    """Open a run of one verb, as a child of the run that is open, if any.

    With ``run_id`` an interrupted run goes on; its config and params are logged already. Else it
    logs the resolved config (as ``config.yaml`` and as flat params), code and package versions
    and the machine. The status ends as FINISHED, KILLED after an interruption, or FAILED with the
    error's words in the tag ``tbr.failure``.
    """
    experiment_id = connect(tracking)
    facts = {"tbr.stage": stage, **git_state(), **dict(tags or {})}
    nested = mlflow.active_run() is not None
    if run_id is None:
        active = mlflow.start_run(
            experiment_id=experiment_id,
            run_name=name,
            nested=nested,
            tags=facts,
            log_system_metrics=tracking.system_metrics,
        )
    else:
        active = _continue(run_id, nested=nested, system_metrics=tracking.system_metrics)
    with true_status():
        if run_id is None:
            _log_settings(config)
        yield Run(active.info.run_id, name, experiment_id)


def _continue(run_id: str, *, nested: bool, system_metrics: bool) -> Any:
    try:
        active = mlflow.start_run(run_id=run_id, nested=nested, log_system_metrics=system_metrics)
    except MlflowException as error:
        raise UserError(
            f"resume={run_id}: that run is not in this MLflow store: give the tracking.uri that it "
            "was started with"
        ) from error
    if "tbr.failure" in active.data.tags:
        mlflow.delete_tag("tbr.failure")
    mlflow.set_tag("tbr.resumed", str(int(active.data.tags.get("tbr.resumed", "0")) + 1))
    return active


def _log_settings(config: Any) -> None:
    settings = without_credentials(asdict(config))
    mlflow.log_dict(settings, "config.yaml")
    mlflow.log_dict(_environment(), "environment.json")
    params = {key: str(value) for key, value in flatten(settings).items()}
    mlflow.log_params({k: v for k, v in params.items() if len(v) <= _PARAM_LIMIT})


@lru_cache
def _environment() -> dict[str, dict[str, str]]:
    return {"packages": package_versions(), "hardware": hardware()}


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def log_metrics(metrics: Mapping[str, float], model_id: str | None = None) -> None:
    """Log numbers on the open run; ``model_id`` links them to a logged model as well."""
    items = list(metrics.items())
    for start in range(0, len(items), MAX_METRICS_PER_BATCH):
        batch = dict(items[start : start + MAX_METRICS_PER_BATCH])
        mlflow.log_metrics(batch, model_id=model_id)


def latest_metrics(run_id: str) -> dict[str, float]:
    """Return the last value of each metric of a run."""
    return dict(MlflowClient().get_run(run_id).data.metrics)


def log_table(rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """Log rows as a table that the MLflow UI shows."""
    mlflow.log_table(pd.DataFrame(list(rows)), file)


def log_figure(figure: Any, file: str) -> None:
    """Log a matplotlib figure."""
    mlflow.log_figure(figure, file)


def log_text(text: str, file: str) -> None:
    """Log a text file."""
    mlflow.log_text(text, file)


def set_tags(tags: Mapping[str, str]) -> None:
    """Set tags on the open run."""
    mlflow.set_tags(dict(tags))


def log_examples(examples: Sequence[Example], name: str, context: str) -> str:
    """Log training rows as a data set with digest and counts by kind; return the digest."""
    rows = examples if isinstance(examples, Examples) else Examples.of(examples)
    # Without `rejected`: MLflow cannot name the type of a column that holds nothing.
    columns = ["id", "kind", "source", "instruction", "input", "response"]
    shown = rows.dataset.select_columns(columns)
    dataset = mlflow.data.from_huggingface(shown, name=name, digest=rows.digest)
    counts = {f"rows_{kind}": str(n) for kind, n in rows.counts().items()}
    mlflow.log_input(dataset, context=context, tags=counts)
    return rows.digest


def log_dataset(rows: Sequence[Mapping[str, str]], name: str, context: str) -> str:
    """Log rows with a ``kind`` as a data set with digest and counts by kind; return the digest."""
    frame = pd.DataFrame(list(rows))
    dataset = mlflow.data.from_pandas(frame, name=name)
    counts = {f"rows_{kind}": str(n) for kind, n in frame["kind"].value_counts().items()}
    mlflow.log_input(dataset, context=context, tags=counts)
    return str(dataset.digest)


def log_used_models(run_id: str, model_ids: Sequence[str]) -> None:
    """Link logged models to a run as what it looked at."""
    inputs = [LoggedModelInput(model_id) for model_id in dict.fromkeys(model_ids)]
    MlflowClient().log_inputs(run_id, models=inputs)


def describe(markdown: str) -> None:
    """Set the description that the open run's page shows."""
    mlflow.set_tag("mlflow.note.content", markdown)


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


def load_text(run_id: str, file: str) -> str:
    """Return a text artifact of a run."""
    return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{file}"))


def reflections_of(run_id: str) -> dict[str, str]:
    """Return the accepted reflections of a reflection run, by the instruction's id.

    Raises:
        UserError: There is no such run in this store, or it is not one of stage ``reflect``.
    """
    try:
        stage = mlflow.get_run(run_id).data.tags.get("tbr.stage")
        table = json.loads(load_text(run_id, REFLECTIONS)) if stage == "reflect" else None
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"reflection.run_id='{run_id}' cannot be read: {reason}") from error
    if table is None:
        raise UserError(f"reflection.run_id='{run_id}' is a run of stage {stage}, not reflect")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return {row["id"]: row["reflection"] for row in rows if row["id"]}


def add_to_tag(run_id: str, key: str, value: str) -> None:
    """Add a value to a comma-separated tag of another run, if that run is in this store."""
    client = MlflowClient()
    try:
        there = client.get_run(run_id).data.tags.get(key, "")
    except MlflowException:
        return
    if value not in there.split(","):
        client.set_tag(run_id, key, f"{there},{value}".strip(","))
