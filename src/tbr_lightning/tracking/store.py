"""Connection to the MLflow store that a config names."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.credentials import hidden
from tbr_lightning.errors import UserError, first_line
from tbr_lightning.outages import OutageError, outage

_SQLITE = "sqlite:///"
VIEW = "tbr"
"""Name of the view of the runs page that shows the columns that matter."""

_ALWAYS = {"attributes.`Run Name`": 345, "runDateAndNestInfo": 145, "duration": 80}
_CHOSEN = {
    "metrics.`false_refusal_rate`": 145,
    "metrics.`harmful_compliance_rate`": 185,
    "metrics.`general_accuracy`": 140,
    "metrics.`train/loss`": 85,
    "params.`reflection.teacher`": 145,
}
"""Columns that the UI always has, and ours, with widths in which names are not cut, in pixels."""

_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # as the UI's own button Share keeps a view
_TAGS = {
    # Opens the UI in its view of training runs rather than of agents.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "Think-Before-Refusal: reflection fine-tuning, evaluation, promotion. The tag `tbr.stage` "
        "is a run's verb; the artifact `report.html` shows its numbers and answers."
    ),
    _VIEW_TAG: json.dumps(
        {
            "selectedColumns": list(_CHOSEN),
            "columnOrder": [*_ALWAYS, *_CHOSEN],
            "columnWidths": {**_ALWAYS, **_CHOSEN},
        }
    ),
}


def connect(tracking: TrackingConfig) -> str:
    """Point MLflow at the store, make the experiment if it is new, and return its id.

    Raises:
        UserError: The store cannot be written or reached, or another MLflow version made it.
    """
    uri, file = tracking.uri, None
    if uri.startswith(_SQLITE):
        file = Path(uri.removeprefix(_SQLITE)).absolute()
        _check_writable(file)
        # MLflow keeps stores by their URI: a relative one would mean the first working folder.
        uri = f"{_SQLITE}{file}"
    elif not tracking.uri.startswith(("http://", "https://", "postgresql", "mysql")):
        inherited = os.environ.get("MLFLOW_TRACKING_URI") == tracking.uri
        from_there = ", from the environment variable MLFLOW_TRACKING_URI," if inherited else ""
        raise UserError(
            f"tracking.uri='{hidden(tracking.uri)}'{from_there} is not supported: give "
            "sqlite:///FILE or a server's URL"
        )
    else:
        # MLflow's own default retries an unreachable server for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    import mlflow
    from mlflow.exceptions import MlflowException

    _quiet()
    _own_runs()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        with _made_alone(file):
            if file is not None:
                _make_tables(file)
            return _experiment(tracking)
    except PermissionError as error:
        raise UserError(
            f"tracking.artifacts='{tracking.artifacts}' cannot be written: choose another folder"
        ) from error
    except MlflowException as error:
        kind = OutageError if uri.startswith("http") or outage(error) else UserError
        raise kind(_explain(hidden(tracking.uri), error)) from error


def _own_runs() -> None:
    """Keep an outer run of this process, as that of an MLflow job, from becoming ours."""
    surrounding = os.environ.pop("MLFLOW_RUN_ID", None)
    if surrounding is not None:
        print(
            f"MLFLOW_RUN_ID={surrounding} is ignored: every command makes runs of its own",
            file=sys.stderr,
        )


@contextmanager
def _made_alone(file: Path | None) -> Iterator[None]:
    """Keep two processes from creating the tables of one SQLite file at the same time."""
    if file is None:
        yield
        return
    with file.with_name(f"{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_tables(file: Path) -> None:
    """Make the tables of a new store, and give it its name once they are all there.

    MLflow makes them in place, and cannot go on with a store whose making was interrupted.
    """
    if file.exists() and file.stat().st_size:
        return
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine_with_retry

    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    engine = create_sqlalchemy_engine_with_retry(f"{_SQLITE}{partial}")
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    partial.replace(file)


def _experiment(tracking: TrackingConfig) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    found = mlflow.get_experiment_by_name(tracking.experiment)
    if found is None:
        location = tracking.artifacts
        if location is not None and "://" not in location:
            if tracking.uri.startswith("http"):
                location = None  # a folder of this machine is none of the server's other clients
            else:
                folder = Path(location).absolute()
                folder.mkdir(parents=True, exist_ok=True)
                location = folder.as_uri()
        try:
            mlflow.create_experiment(tracking.experiment, artifact_location=location, tags=_TAGS)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else somebody was faster
                raise
        found = mlflow.get_experiment_by_name(tracking.experiment)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment='{tracking.experiment}' was deleted: restore it in MLflow or "
            "give another name"
        )
    mlflow.set_experiment(experiment_id=found.experiment_id)
    if found.tags.get(_VIEW_TAG) != _TAGS[_VIEW_TAG]:  # an earlier version made it
        mlflow.set_experiment_tag(_VIEW_TAG, _TAGS[_VIEW_TAG])
    return str(found.experiment_id)


def ui_command(tracking: TrackingConfig) -> str:
    """Return the command that shows the store in a browser."""
    if tracking.uri.startswith("http"):
        return f"open {address(hidden(tracking.uri), tracking)}"
    if Path("Makefile").exists():
        return "make ui"
    there = address("http://127.0.0.1:5000", tracking)
    uri = shlex.quote(hidden(tracking.uri))
    return f"mlflow server --backend-store-uri {uri}, then open {there}"


def curves(tracking: TrackingConfig, run_id: str) -> str:
    """Return where a run's curves are seen while it goes on: an address, and what serves it."""
    import mlflow

    run = mlflow.get_run(run_id)
    page = f"#/experiments/{run.info.experiment_id}/runs/{run_id}/model-metrics"
    if tracking.uri.startswith("http"):
        return f"{hidden(tracking.uri).rstrip('/')}/{page}"
    return f"http://127.0.0.1:5000/{page} (of {ui_command(tracking).partition(', then')[0]})"


def address(server: str, tracking: TrackingConfig) -> str:
    """Return the address of the runs page, in the view of :data:`VIEW`.

    Args:
        server: URL of the MLflow server.
        tracking: Config that names the experiment, in the store that MLflow is connected to.
    """
    import mlflow

    found = mlflow.get_experiment_by_name(tracking.experiment)
    which = found.experiment_id if found is not None else "1"
    view = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"{server.rstrip('/')}/#/experiments/{which}/runs?{view}"


def _check_writable(file: Path) -> None:
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UserError(f"tracking.uri: the folder {folder} does not exist: create it")
    if not os.access(folder, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise UserError(
            f"tracking.uri: no permission to write {file.absolute()}: choose another folder with "
            "tracking.uri=sqlite:///FILE"
        )
    try:
        with file.open("rb") as stream:
            start = stream.read(15)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"tracking.uri: {file} cannot be read ({error}): give another") from error
    if start not in (b"", b"SQLite format 3"):
        raise UserError(
            f"tracking.uri: {file} is not an SQLite file: restore it from a backup, or give "
            "another; deleting it loses every run, metric and registered model"
        )


def _explain(uri: str, error: Exception) -> str:
    text, first = str(error), hidden(first_line(error, None))
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            f"tracking.uri: {uri} was made by another MLflow version: back it up and run "
            f"{shlex.join(['mlflow', 'db', 'upgrade', uri])}, or give another file"
        )
    if uri.startswith("http"):
        return (
            f"tracking.uri: {uri} does not answer ({first[:160]}): start it or use tracking=local"
        )
    return (
        f"tracking.uri: {uri} cannot be used: {first[:300]}; restore it from a backup, or give "
        "another; deleting it loses every run, metric and registered model"
    )


def _quiet() -> None:
    """Keep MLflow's and Alembic's progress messages out of the output."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # One line for each retry would fill the log; a request that fails in the end raises.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # It logs a traceback of what it raises, which is told in a sentence where it is caught.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
