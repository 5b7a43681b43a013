"""The end of a training run without its tracker: the model is kept, and logged later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError, disk_full
from tbr_lightning.evaluation.contamination import ROWS_KEPT
from tbr_lightning.models.logged import find_model
from tbr_lightning.outages import OutageError
from tbr_lightning.training import finish, pipeline
from tbr_lightning.training.model_card import model_card

from .conftest import config_of


@pytest.mark.parametrize(
    "gone_at",
    [
        "tbr_lightning.training.finish.log_model",
        # Asked for what was kept of the rows, and for the digest of what was logged.
        "mlflow.tracking.MlflowClient.list_artifacts",
        "tbr_lightning.models.digest.files_digest",
    ],
)
def test_a_model_whose_tracker_is_gone_is_logged_later_without_a_step(
    store: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch, gone_at: str
) -> None:
    words = ["data=microworld", "reflection=none", "trainer.max_steps=2", "data.general=40"]
    config = config_of(*words, "data.harmful=10")

    def gone(*_: object) -> str:
        raise MlflowException("Max retries exceeded")

    says = r"does not accept it \(Max retries exceeded\).*resume="
    with pytest.MonkeyPatch.context() as patched, pytest.raises(OutageError, match=says) as told:
        patched.setattr(gone_at, gone)
        pipeline.run(config)
    (folder,) = (path for path in Path(config.paths.runs).absolute().iterdir() if path.is_dir())
    assert f"resume={folder.name}" in str(told.value)
    assert list((folder / "model").glob("*.safetensors"))

    def again(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("tbr_lightning.training.fit.fit", again)
    done = pipeline.run(config_of(*words, "data.harmful=10", f"resume={folder.name}"))
    assert done.run_id == folder.name
    tags = find_model(done.model_uri).tags
    assert tags["tbr.artifacts_digest"] and tags[ROWS_KEPT]
    run = mlflow.get_run(done.run_id)
    assert (run.info.status, run.data.metrics["train/steps"]) == ("FINISHED", 2)


def test_no_run_is_finished_before_its_numbers_are_sent(
    store: Path, base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tracker is gone while numbers are sent, and back for all that is logged after them."""
    words = ["data=microworld", "reflection=none", "trainer.max_steps=2", "data.general=40"]
    config, send = config_of(*words, "data.harmful=10"), MlflowClient.log_batch

    def gone(self: MlflowClient, run_id: str, metrics: Sequence[Any] = (), **more: Any) -> None:
        if any(metric.key == "train/loss" for metric in metrics):
            raise MlflowException("Max retries exceeded")
        send(self, run_id, metrics=metrics, **more)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(UserError, match="resume="):
        patched.setattr(MlflowClient, "log_batch", gone)
        pipeline.run(config)
    done = pipeline.run(config_of(*words, "data.harmful=10", "resume=latest"))
    history = MlflowClient().get_metric_history(done.run_id, "train/loss")
    assert sorted(point.step for point in history) == [1, 2]


@pytest.mark.parametrize("gone_at", ["mlflow.tracking.MlflowClient.set_terminated", "record"])
def test_a_model_that_was_logged_whole_is_not_logged_again(
    store: Path, base_folder: Path, gone_at: str
) -> None:
    """The tracker goes after the model is logged, before the run has ended."""
    words = ["data=microworld", "reflection=none", "trainer.max_steps=2", "data.general=40"]
    config = config_of(*words, "data.harmful=10")

    def gone(*_: object, **__: object) -> str:
        raise MlflowException("Max retries exceeded")

    with pytest.MonkeyPatch.context() as patched, pytest.raises((MlflowException, UserError)):
        if gone_at == "record":
            patched.setattr(finish, gone_at, gone)
        else:
            patched.setattr(gone_at, gone)
        pipeline.run(config)
    done = pipeline.run(config_of(*words, "data.harmful=10", "resume=latest"))
    run = mlflow.get_run(done.run_id)
    assert run.info.status == "FINISHED"
    (model,) = mlflow.search_logged_models([run.info.experiment_id], output_format="list")
    assert done.model_uri == f"models:/{model.model_id}"
    assert model.tags["tbr.artifacts_digest"] == run.data.tags["tbr.artifacts_digest"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device", "/x/y"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), True),
        (OSError(2, "No such file"), False),
        (ValueError("full of errors"), False),
    ],
)
def test_a_full_disk_is_called_one(error: Exception, full: bool) -> None:
    wrapped = RuntimeError("download failed")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        assert (disk_full(one) is not None) == full


def test_of_a_copy_the_full_one_of_its_two_places_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=0 if str(folder) == "/full" else 2**40)

    monkeypatch.setattr("tbr_lightning.errors.shutil.disk_usage", usage)
    for places in (("/roomy/a", None, "/full/b"), ("/full/b", None, "/roomy/a")):
        told = disk_full(OSError(28, "No space left on device", *places))
        assert told is not None and told.startswith("the disk is full at /full/b:")


@pytest.mark.parametrize(
    ("words", "base"),
    [
        ((), "HuggingFaceTB/SmolLM2-135M-Instruct"),
        (("model.init=random",), "what it is"),
        (("model.path=/elsewhere",), "what it is"),
        (("model.path=null",), "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_the_card_names_the_hubs_base_where_its_weights_were_taken(
    words: tuple[str, ...], base: str
) -> None:
    config = config_of("model=smollm2_135m_instruct", "data=microworld", "reflection=none", *words)
    prepared: Any = SimpleNamespace(
        rows=SimpleNamespace(data_kinds=lambda: {"general": 1}), digest="d", reflections=0
    )
    facts = {"tbr.base": "what it is", "tbr.form": "merged", "tbr.weights_digest": "w"}
    card = model_card(config, prepared, facts, {"train/steps": 1}, ThinkFormat())
    assert f"\nbase_model: {base}\n" in card
