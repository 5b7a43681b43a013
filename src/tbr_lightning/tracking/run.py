"""The handle of an MLflow run, which writes and reads by the run's id."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd
from mlflow.entities import (
    DatasetInput,
    InputTag,
    LoggedModelInput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_LOGGED_ARTIFACTS,
)
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from tbr_lightning.credentials import hidden
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError, first_line
from tbr_lightning.outages import OutageError, outage, refused
from tbr_lightning.tracking.search import runs_beneath

REFLECTIONS = "reflections.json"
"""Artifact of a reflection run: the accepted reflections, with their instructions' ids."""

NUMBERS = "numbers.json"
"""Artifact that holds every number of a run, those that are no metrics too."""

NOTE = "mlflow.note.content"
"""Tag: the description that a run's page shows."""

TAG_LIMIT = 5000  # characters of a tag's value that every store takes


class Point(NamedTuple):
    """One number of a metric.

    Attributes:
        name: Name of the metric.
        value: The number.
        time: Milliseconds since 1970. A point that is sent again with its time and step is the
            same point.
        step: Step of the number.
    """

    name: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class Run:
    """A run of the store, open here or in another process: everything is written by its id.

    Attributes:
        id: MLflow's run id.
        name: The name that the UI shows; empty where only the id is known.
    """

    id: str
    name: str = ""

    def log_metrics(self, metrics: Mapping[str, float], model_id: str | None = None) -> None:
        """Log numbers; ``model_id`` links them to a logged model as well."""
        items = list(metrics.items())
        for start in range(0, len(items), MAX_METRICS_PER_BATCH):
            batch = dict(items[start : start + MAX_METRICS_PER_BATCH])
            mlflow.log_metrics(batch, run_id=self.id, model_id=model_id)

    def log_numbers(
        self, numbers: Mapping[str, float], headline: Collection[str], model_id: str | None = None
    ) -> None:
        """Log numbers that few look at as a table, and those of the headline as metrics too.

        The UI draws a chart and a column for every metric. :meth:`numbers` returns all of them.

        Args:
            numbers: Numbers by name; those that the table has already are kept.
            headline: Names of the numbers that are metrics too.
            model_id: Logged model that the metrics are linked to as well.
        """
        self.log_metrics({k: v for k, v in numbers.items() if k in headline}, model_id)
        rows = {**self._table_of_numbers(), **numbers}
        self.log_table([{"number": name, "value": rows[name]} for name in sorted(rows)], NUMBERS)

    def numbers(self) -> dict[str, float]:
        """Return every number of the run: its table's, and the last value of each metric.

        Runs of earlier versions have no such table: all their numbers are metrics.
        """
        return {**self._table_of_numbers(), **self.metrics()}

    def _table_of_numbers(self) -> dict[str, float]:
        if not self.has(NUMBERS):
            return {}
        rows = json.loads(self.text(NUMBERS))["data"]
        return {name: float(value) for name, value in rows if value is not None}

    def log_points(self, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Log numbers of any step and time, and tags, in as few requests as MLflow allows."""
        client = MlflowClient()
        items = [Metric(*point) for point in points]
        words = [RunTag(key, str(value)[:TAG_LIMIT]) for key, value in tags.items()]
        if words:
            client.log_batch(self.id, metrics=items[:MAX_METRICS_PER_BATCH], tags=words)
            items = items[MAX_METRICS_PER_BATCH:]
        for start in range(0, len(items), MAX_METRICS_PER_BATCH):
            client.log_batch(self.id, metrics=items[start : start + MAX_METRICS_PER_BATCH])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, which do not change while the run goes on."""
        found = [Param(key, str(value)) for key, value in params.items()]
        MlflowClient().log_batch(self.id, params=found)

    def log_table(self, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """Log rows as a table that the MLflow UI shows, replacing what the file held before."""
        frame = pd.DataFrame(list(rows))
        self.log_text(frame.to_json(orient="split", index=False, date_format="iso"), file)
        tables = json.loads(self.tags().get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in tables:
            self.set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps([*tables, entry])})

    def log_figure(self, figure: Any, file: str) -> None:
        """Log a matplotlib figure, replacing what the file held before."""
        MlflowClient().log_figure(self.id, figure, file, save_kwargs={"bbox_inches": "tight"})

    def log_text(self, text: str, file: str) -> None:
        """Log a text file, replacing what the file held before."""
        MlflowClient().log_text(self.id, text, file)

    def log_page(self, html: str, file: str) -> Path | None:
        """Log a page and return its local path.

        ``None`` where artifacts are elsewhere: it is then opened in MLflow.
        """
        self.log_text(html, file)
        return self.place(file)

    def place(self, file: str) -> Path | None:
        """Return the local path of an artifact, if it has one."""
        uri = str(MlflowClient().get_run(self.id).info.artifact_uri)
        if "://" in uri and not uri.startswith("file://"):
            return None
        found = local_file_uri_to_path(uri)
        there = Path(found) / file
        return there if there.is_file() else None

    def log_bytes(self, content: bytes, file: str) -> None:
        """Log a binary file, replacing what it held before."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / file).write_bytes(content)
            MlflowClient().log_artifact(self.id, str(Path(folder) / file))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        MlflowClient().log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    def describe(self, markdown: str) -> None:
        """Set the description that the run's page shows."""
        self.set_tags({NOTE: markdown})

    def log_examples(self, examples: Sequence[Example], name: str, context: str) -> str:
        """Log training rows as a data set with digest and counts by kind; return the digest."""
        rows = examples if isinstance(examples, Examples) else Examples.of(examples)
        # Without `rejected`: MLflow cannot name the type of a column that holds nothing.
        columns = ["id", "kind", "source", "instruction", "input", "response"]
        shown = rows.dataset.select_columns(columns)
        dataset = mlflow.data.from_huggingface(shown, name=name, digest=rows.digest)
        self.log_input(dataset, context, rows.counts())
        return rows.digest

    def log_dataset(self, rows: Sequence[Mapping[str, str]], name: str, context: str) -> str:
        """Log rows with a ``kind`` as a data set with digest and counts; return the digest."""
        frame = pd.DataFrame(list(rows))
        dataset = mlflow.data.from_pandas(frame, name=name)
        self.log_input(dataset, context, frame["kind"].value_counts().to_dict())
        return str(dataset.digest)

    def log_input(self, dataset: Any, context: str, counts: Mapping[Any, int]) -> None:
        """Log one of MLflow's data sets as what the run read, with its rows by kind."""
        tags = [InputTag(MLFLOW_DATASET_CONTEXT, context)]
        tags += [InputTag(f"rows_{kind}", str(n)) for kind, n in counts.items()]
        MlflowClient().log_inputs(self.id, [DatasetInput(dataset._to_mlflow_entity(), tags)])

    def log_used_models(self, model_ids: Sequence[str]) -> None:
        """Link the logged models that the run used."""
        inputs = [LoggedModelInput(model_id) for model_id in dict.fromkeys(model_ids)]
        MlflowClient().log_inputs(self.id, models=inputs)

    def tags(self) -> dict[str, str]:
        """Return the run's tags."""
        return dict(MlflowClient().get_run(self.id).data.tags)

    def metrics(self) -> dict[str, float]:
        """Return the last value of each metric."""
        return dict(MlflowClient().get_run(self.id).data.metrics)

    def steps_of(self, metric: str) -> set[int]:
        """Return the steps at which the run has a metric."""
        return {point.step for point in MlflowClient().get_metric_history(self.id, metric)}

    def text(self, file: str) -> str:
        """Return a text artifact."""
        return str(mlflow.artifacts.load_text(f"runs:/{self.id}/{file}"))

    def has(self, file: str) -> bool:
        """Return whether there is an artifact of this name at the top."""
        return any(one.path == file for one in MlflowClient().list_artifacts(self.id))

    def download(self, file: str, folder: Path) -> Path | None:
        """Fetch an artifact into a folder; ``None`` where the run has none of that name.

        Raises:
            OutageError: The store does not answer.
        """
        client = MlflowClient()
        try:
            if all(one.path != file for one in client.list_artifacts(self.id)):
                return None
            return Path(client.download_artifacts(self.id, file, str(folder)))
        except MlflowException as error:
            if told := outage(error):
                raise OutageError(told) from error
            return None  # no such run in this store

    def add_to_tag(self, key: str, value: str) -> None:
        """Add a value to a comma-separated tag, if the run is in this store."""
        try:
            there = self.tags().get(key, "")
        except MlflowException:
            return
        if value not in there.split(","):
            self.set_tags({key: f"{there},{value}".strip(",")})

    def is_open_to(self, experiment_id: str) -> bool:
        """Return whether the run is there, not deleted, and of this experiment."""
        try:
            info = MlflowClient().get_run(self.id).info
        except MlflowException:
            return False
        return info.lifecycle_stage == "active" and info.experiment_id == experiment_id

    def end(self, status: str, reason: str | None = None) -> None:
        """End the run, whichever process opened it, with FINISHED, KILLED or FAILED.

        Runs beneath it that have not ended are ended too, all of them before it: as KILLED where
        it is killed, else as FAILED, since nothing is left to finish them.
        """
        client = MlflowClient()
        for beneath, _, _ in runs_beneath(self.id, status="RUNNING"):
            Run(beneath).end("KILLED" if status == "KILLED" else "FAILED", reason)
        if reason:
            key = "tbr.failure" if status == "FAILED" else "tbr.reason"
            client.set_tag(self.id, key, hidden(reason)[:500])
        client.set_terminated(self.id, status)

    def reopen(self) -> None:
        """Mark the run as running again, if another process has ended it."""
        client = MlflowClient()
        if client.get_run(self.id).info.status != "RUNNING":
            client.update_run(self.id, status="RUNNING")


def reflections_of(run_id: str) -> dict[str, str]:
    """Return the accepted reflections of a reflection run, by the instruction's id.

    Raises:
        UserError: There is no such run in this store, or it is not one of stage ``reflect``.
    """
    run = Run(run_id)
    try:
        stage = run.tags().get("tbr.stage")
        table = json.loads(run.text(REFLECTIONS)) if stage == "reflect" else None
    except MlflowException as error:
        raise refused(
            error, f"reflection.run_id='{run_id}' cannot be read: {first_line(error)}"
        ) from error
    if table is None:
        raise UserError(f"reflection.run_id='{run_id}' is a run of stage {stage}, not reflect")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return {row["id"]: row["reflection"] for row in rows if row["id"]}
