"""A store that does not answer is told as that: nothing is called gone, unsigned or unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import contamination
from tbr_lightning.evaluation.attestation import Subject, attested
from tbr_lightning.models.digest import model_files
from tbr_lightning.models.hf_folder import hf_folder
from tbr_lightning.models.logged import LoggedModel, find_model
from tbr_lightning.outages import OutageError, outage, unreadable
from tbr_lightning.serving.files import fetch
from tbr_lightning.serving.release import resolve
from tbr_lightning.tracking.prompts import registered_text
from tbr_lightning.tracking.run import Run, reflections_of
from tbr_lightning.tuning import trial

MODEL = LoggedModel("m-0123", "0" * 32, {contamination.ROWS_KEPT: "x"})
PATHS = PathsConfig(cache="cache", runs="runs")


@pytest.fixture
def away(closed_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A tracker that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(f"http://me:PLANTED@127.0.0.1:{closed_port}")
    mlflow.set_registry_uri(f"http://me:PLANTED@127.0.0.1:{closed_port}")
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


ASKED: dict[str, Callable[[], object]] = {
    "a model": lambda: find_model("models:/m-0123"),
    "a version": lambda: find_model("models:/name/3"),
    "an alias": lambda: find_model("models:/name@champion"),
    "what is served": lambda: resolve("models:/name@champion"),
    "a model's digest": lambda: model_files(MODEL),
    "a model's folder": lambda: hf_folder(MODEL, Path("models")),
    "files to serve": lambda: fetch(MODEL, Path("cache")),
    "a signature": lambda: attested(Run("0" * 32), Subject("m", "d", "k"), PATHS),
    "an artifact": lambda: Run("0" * 32).download("a.json", Path()),
    "trained rows": lambda: contamination.of_model(MODEL, []),
    "a prompt": lambda: registered_text("prompts:/name/1", "teacher.prompt"),
    "reflections": lambda: reflections_of("0" * 32),
}


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("what", ASKED)
def test_what_is_asked_of_a_store_that_is_away(what: str) -> None:
    with pytest.raises((OutageError, MlflowException)) as caught:
        ASKED[what]()
    if isinstance(caught.value, MlflowException):  # the command tells it
        assert outage(caught.value) is not None
    else:
        assert "does not answer" in str(caught.value)
        assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize("status", ["500 Server Error: x for url: y", "503 Server Error: x"])
def test_a_server_whose_database_or_store_is_away_is_an_outage(status: str) -> None:
    text = f"The following failures occurred while downloading:\n##### File a #####\n{status}"
    told = unreadable("models:/m-1", MlflowException(text), "train it again")
    assert isinstance(told, OutageError)
    assert "gone" not in str(told) and "train it again" not in str(told)


def test_what_is_really_gone_is_told_with_the_reason() -> None:
    told = unreadable("models:/m-1", FileNotFoundError(2, "No such file", "/a/b"), "restore it")
    assert type(told) is UserError
    assert "'/a/b'" in str(told) and str(told).endswith("): restore it")


def test_a_trial_waits_for_a_tracker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception | None] = [OutageError("away"), OutageError("away"), None]
    waited: list[float] = []

    def connect(_: object) -> None:
        if (error := answers.pop(0)) is not None:
            raise error

    monkeypatch.setattr("tbr_lightning.tracking.store.connect", connect)
    monkeypatch.setattr("time.sleep", waited.append)
    trial._connect(TrackingConfig(uri="http://127.0.0.1:1"))
    assert (answers, waited) == ([], [1.0, 2.0])
