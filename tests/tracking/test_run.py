"""Runs: honest status, everything that a run carries, and stores that cannot be used."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.data.example import Example
from tbr_lightning.errors import UserError
from tbr_lightning.outages import OutageError
from tbr_lightning.tracking import store as store_module
from tbr_lightning.tracking.abandoned import close_abandoned
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.store import address, connect, curves

from ..conftest import call_verb


@dataclass
class Config:
    url: str = "http://user:password@host/v1"
    long: str = "x" * 5000


def tracking(folder: Path, uri: str | None = None) -> TrackingConfig:
    return TrackingConfig(
        uri=uri or f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
    )


def test_a_run_carries_config_environment_and_status(store: Path) -> None:
    tags = {"tbr.arm": "x"}
    with (
        start_run("train", "one", Config(), tracking(store), tags) as parent,
        start_run("evaluate", "two", Config(), tracking(store)) as child,
    ):
        child.log_metrics({"a": 1.0})
    found = mlflow.get_run(parent.id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["tbr.stage"] == "train"
    assert found.data.tags["tbr.arm"] == "x"
    assert len(found.data.params["long"]) == 5000
    assert found.data.params["url"] == "http://***@host/v1"
    assert "password" not in Run(parent.id).text("config.yaml")
    assert '"torch"' in Run(parent.id).text("environment.json")
    assert mlflow.get_run(child.id).data.tags["mlflow.parentRunId"] == parent.id


def test_few_numbers_are_metrics_and_a_table_holds_all(store: Path) -> None:
    with start_run("evaluate", "new", Config(), tracking(store)) as run:
        run.log_numbers({"rate": 0.5, "rate_lo": 0.4, "n": 7}, ["rate", "absent"])
        run.log_numbers({"other": 0.1, "nothing": float("nan")}, ["other"])
    with start_run("evaluate", "of an earlier version", Config(), tracking(store)) as earlier:
        earlier.log_metrics({"rate": 0.5, "rate_lo": 0.4})
    assert run.metrics() == {"rate": 0.5, "other": 0.1}
    assert run.numbers() == {"rate": 0.5, "rate_lo": 0.4, "n": 7.0, "other": 0.1}
    assert earlier.numbers() == {"rate": 0.5, "rate_lo": 0.4}


def test_a_page_is_found_on_this_machine(store: Path) -> None:
    with start_run("evaluate", "x", Config(), tracking(store)) as run:
        page = run.log_page("<p>«é»</p>", "report.html")
        assert run.place("absent.html") is None
    assert page is not None and page.read_text("utf-8") == "<p>«é»</p>"


def test_the_address_that_is_told_opens_columns_that_matter(store: Path) -> None:
    where = tracking(store)
    number = connect(where)
    told = address("http://host:5000/", where)
    assert told == (
        f"http://host:5000/#/experiments/{number}/runs"
        "?workflowType=machine_learning&viewStateShareKey=tbr"
    )
    mlflow.set_experiment_tag("mlflow.sharedViewState.tbr", "of an earlier version")
    connect(where)
    view = json.loads(mlflow.get_experiment(number).tags["mlflow.sharedViewState.tbr"])
    assert "metrics.`false_refusal_rate`" in view["selectedColumns"]
    assert list(view["columnWidths"]) == view["columnOrder"]  # which is needed for their widths
    assert view["columnOrder"][-len(view["selectedColumns"]) :] == view["selectedColumns"]


def test_the_curves_of_a_run_that_goes_on_have_an_address(store: Path) -> None:
    where = tracking(store)
    with start_run("train", "x", Config(), where) as run:
        told = curves(where, run.id)
    number = mlflow.get_run(run.id).info.experiment_id
    page = f"http://127.0.0.1:5000/#/experiments/{number}/runs/{run.id}/model-metrics"
    assert told.startswith(f"{page} (of m")


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "KILLED"), (ValueError("why"), "FAILED")]
)
def test_a_run_that_does_not_end_well_says_so(
    store: Path, error: BaseException, status: str
) -> None:
    with (
        pytest.raises(type(error)),
        start_run("train", "one", Config(), tracking(store)) as opened,
    ):
        begun = mlflow.initialize_logged_model("half", source_run_id=opened.id)
        raise error
    (model,) = mlflow.search_logged_models(
        [begun.experiment_id], f"source_run_id = '{opened.id}'", output_format="list"
    )
    assert model.status == "FAILED"
    found = mlflow.get_run(opened.id)
    assert found.info.status == status
    assert ("why" in found.data.tags.get("tbr.failure", "")) == (status == "FAILED")


def test_a_run_whose_end_the_tracker_does_not_take_is_an_error(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the command would end well, and its run be found open, and closed as KILLED."""

    def gone(*_: object, **__: object) -> None:
        raise MlflowException("Max retries exceeded")

    with (
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(MlflowException, match="retries"),
        start_run("train", "one", Config(), tracking(store)),
    ):
        patched.setattr("mlflow.tracking.MlflowClient.set_terminated", gone)
    assert mlflow.active_run() is None
    # What went wrong before is what is told.
    with (
        pytest.raises(ValueError, match="why"),
        start_run("train", "one", Config(), tracking(store)),
    ):
        monkeypatch.setattr("mlflow.tracking.MlflowClient.set_terminated", gone)
        raise ValueError("why")
    assert "final status could not be saved" in capsys.readouterr().err


def test_a_data_set_is_logged_with_its_counts(store: Path) -> None:
    rows = [Example("a", "b", "general", "t"), Example("c", "d", "harmful", "t")]
    with start_run("train", "one", Config(), tracking(store)) as opened:
        digest = opened.log_examples(rows, "name", "training")
    (logged,) = mlflow.get_run(opened.id).inputs.dataset_inputs
    assert logged.dataset.digest == digest
    tags = {tag.key: tag.value for tag in logged.tags}
    assert (tags["rows_general"], tags["rows_harmful"]) == ("1", "1")


def test_stores_that_cannot_be_used_are_told(tmp_path: Path, closed_port: int) -> None:
    with pytest.raises(UserError, match="does not exist"):
        connect(tracking(tmp_path, f"sqlite:///{tmp_path}/absent/mlflow.db"))
    (tmp_path / "text.db").write_text("this is no database")
    with pytest.raises(UserError, match="not an SQLite file"):
        connect(tracking(tmp_path, f"sqlite:///{tmp_path}/text.db"))
    with pytest.raises(UserError, match="not supported"):
        connect(tracking(tmp_path, "file:./mlruns"))
    with pytest.raises(OutageError, match="does not answer") as told:
        connect(tracking(tmp_path, f"http://a:PLANTED@127.0.0.1:{closed_port}"))
    assert "PLANTED" not in str(told.value)


def test_a_store_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To root every folder is writable, so the answer of the system is put in its place.
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="no permission to write"):
        connect(tracking(tmp_path))


def test_what_a_store_refuses_is_raised_and_logs_no_traceback(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a full disk: whoever catches it tells it in a sentence."""
    experiment_id = connect(tracking(store))
    client = MlflowClient()
    run_id = client.create_run(experiment_id).info.run_id
    with closing(sqlite3.connect(store / "mlflow.db")) as db, db:
        db.execute("DROP TABLE tags")
    with pytest.raises(MlflowException, match="no such table"):
        client.set_tag(run_id, "key", "value")
    assert capsys.readouterr().err == ""


def test_a_store_of_another_mlflow_version_is_told_and_left_alone(tmp_path: Path) -> None:
    connect(tracking(tmp_path))
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '000000000000'")
    # MLflow keeps the stores that it has opened, by their URI.
    anew = f"tracking.uri=sqlite:///{tmp_path}/../{tmp_path.name}/mlflow.db"
    done = call_verb(tmp_path, "promote", "status", anew)
    assert done.returncode == 2
    assert "made by another MLflow version" in done.stderr
    assert "Traceback" not in done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == ("0" * 12,)


def test_a_run_whose_process_was_killed_is_closed_by_the_next_command(store: Path) -> None:
    """Killed with a model half logged; a run that is open elsewhere stays open."""
    there = tracking(store)
    connect(there)
    child = os.fork()
    if child == 0:
        with start_run("train", "killed", Config(), there) as opened:
            MlflowClient().create_logged_model(
                MlflowClient().get_run(opened.id).info.experiment_id, source_run_id=opened.id
            )
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    client = MlflowClient()
    with start_run("evaluate", "next", Config(), there) as opened:
        runs = client.search_runs([client.get_run(opened.id).info.experiment_id])
        assert {run.info.run_name: run.info.status for run in runs} == {
            "killed": "KILLED",
            "next": "RUNNING",
        }
        (model,) = client.search_logged_models([runs[0].info.experiment_id])
        assert model.status == "FAILED"
        assert close_abandoned(runs[0].info.experiment_id) == []


def test_a_failure_is_told_without_its_credentials(store: Path) -> None:
    words = "no answer of postgresql://u:secret@host/db and https://host/v1?api_key=secret"
    with pytest.raises(RuntimeError), start_run("train", "x", Config(), tracking(store)) as run:
        raise RuntimeError(words)
    told = Run(run.id).tags()["tbr.failure"]
    assert told.startswith("RuntimeError: no answer of postgresql://***@host/db")
    Run(run.id).end("FAILED", words)
    assert "secret" not in told + str(Run(run.id).tags())


@pytest.mark.parametrize(
    ("uri", "artifacts", "place"),
    [
        ("http://127.0.0.1:5000", "mlartifacts", None),  # no other client has this folder
        ("http://127.0.0.1:5000", "s3://bucket/of-ours", "s3://bucket/of-ours"),
        ("postgresql://host/db", "s3://bucket", "s3://bucket"),
        ("postgresql://host/db", "mlartifacts", "file://{}/mlartifacts"),
        ("sqlite:///mlflow.db", None, None),
    ],
)
def test_where_artifacts_go(
    store: Path, monkeypatch: pytest.MonkeyPatch, uri: str, artifacts: str | None, place: str | None
) -> None:
    monkeypatch.chdir(store)
    told: list[str | None] = []
    made, create = tracking(store), mlflow.create_experiment

    def created(name: str, artifact_location: str | None = None, **more: Any) -> str:
        told.append(artifact_location)
        return create(name, **more)

    monkeypatch.setattr(mlflow, "create_experiment", created)
    connect(made)  # a store that is there, under whatever address is named below
    told.clear()
    store_module._experiment(TrackingConfig(uri=uri, artifacts=artifacts, experiment="another"))
    assert told == [place and place.format(store)]
