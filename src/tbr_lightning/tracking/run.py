"""MLflow runs: one handle that writes by the run's id, and an honest final status."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
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
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_PARENT_RUN_ID,
)
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_PARAM_VAL_LENGTH

from tbr_lightning.config.credentials import hidden, without_credentials
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError, disk_full
from tbr_lightning.tracking.abandoned import PROCESS, close_abandoned, fail_pending, mark
from tbr_lightning.tracking.provenance import git_state, hardware, package_versions
from tbr_lightning.tracking.store import connect

REFLECTIONS = "reflections.json"
"""Artifact of a reflection run: the accepted reflections, with their instructions' ids."""

NUMBERS = "numbers.json"
"""Artifact that holds every number of a run, those that are no metrics too."""

NOTE = "mlflow.note.content"
"""Tag: the description that a run's page shows."""

TAG_LIMIT = 5000  # characters of a tag's value that every store takes
_PAGE = 1000  # runs in one answer of a search


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
        """Fetch an artifact into a folder; ``None`` where the run has none of that name."""
        client = MlflowClient()
        try:
            if all(one.path != file for one in client.list_artifacts(self.id)):
                return None
            return Path(client.download_artifacts(self.id, file, str(folder)))
        except MlflowException:  # no such run in this store
            return None

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
            client.set_tag(self.id, key, reason[:500])
        client.set_terminated(self.id, status)

    def reopen(self) -> None:
        """Mark the run as running again, if another process has ended it."""
        client = MlflowClient()
        if client.get_run(self.id).info.status != "RUNNING":
            client.update_run(self.id, status="RUNNING")


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
    """Open a run of one command, as a child of the run that is open, if any.

    With ``run_id`` an interrupted run is resumed; its config and params are logged already. Else it
    logs the resolved config (as ``config.yaml`` and as flat params), code and package versions
    and the machine. The status ends as FINISHED, KILLED after an interruption, or FAILED with the
    error's words in the tag ``tbr.failure``.

    Raises:
        MlflowException: The tracker does not take that a command's run is finished: given again,
            the command ends it.
    """
    experiment_id = connect(tracking)
    facts = {"tbr.stage": stage, **git_state(), **dict(tags or {})}
    nested = mlflow.active_run() is not None
    if not nested:
        close_abandoned(experiment_id)
    if stage != "sweep":  # which several processes may have open
        facts[PROCESS] = mark()
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
    with _true_status(must_finish=not nested):
        if run_id is not None and PROCESS in facts:
            mlflow.set_tag(PROCESS, facts[PROCESS])
        if run_id is None:
            _log_settings(config)
        yield Run(active.info.run_id, name)


@contextmanager
def child_run(
    parent: Run,
    stage: str,
    name: str,
    tracking: TrackingConfig,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    killed_by: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Iterator[Run]:
    """Open a run beneath another that may be open in another process.

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
    mlflow.set_tag(MLFLOW_PARENT_RUN_ID, parent.id)
    with _true_status(killed_by):
        mlflow.log_params({k: str(value)[:MAX_PARAM_VAL_LENGTH] for k, value in params.items()})
        yield Run(active.info.run_id, name)


@contextmanager
def _true_status(
    killed_by: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
    *,
    must_finish: bool = False,
) -> Iterator[None]:
    """End the open run with the block, with a status that tells the truth.

    With ``must_finish`` a run that cannot be ended as finished is an error. Else it stays open,
    which is reported: what surrounds it goes on.
    """
    status = "FINISHED"
    try:
        yield
    except killed_by:
        status = "KILLED"
        raise
    except BaseException as error:
        status = "FAILED"
        with _tolerant():
            mlflow.set_tag("tbr.failure", f"{type(error).__name__}: {error}"[:500])
        raise
    finally:
        active = mlflow.active_run()
        if status != "FINISHED" and active is not None:
            with _tolerant():
                fail_pending(active.info.experiment_id, active.info.run_id)
        strict = must_finish and status == "FINISHED"
        with nullcontext() if strict else _tolerant():
            mlflow.end_run(status)


@contextmanager
def _tolerant() -> Iterator[None]:
    """Report that the tracker is gone, instead of hiding the error that ended the run."""
    try:
        yield
    except MlflowException as error:
        first = (str(error).strip() or "no answer").splitlines()[0][:160]
        why = disk_full(error) or f"the tracker does not take it ({first})"
        print(f"a run's status stays open: {hidden(why)}", file=sys.stderr)


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
    # The artifact has no limit.
    mlflow.log_params({k: v for k, v in params.items() if len(v) <= MAX_PARAM_VAL_LENGTH})


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
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"reflection.run_id='{run_id}' cannot be read: {reason}") from error
    if table is None:
        raise UserError(f"reflection.run_id='{run_id}' is a run of stage {stage}, not reflect")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return {row["id"]: row["reflection"] for row in rows if row["id"]}
