"""Digests: every file counts, what MLflow adds does not, and a digest stays what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import folder_digest, model_digest

from ..support import made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "MLmodel").write_text("x")
    (folder / "deep" / "weights").write_bytes(bytes(range(256)) * 20_000)
    return folder


def test_name_place_and_contents_count_and_the_clock_does_not(folder: Path, tmp_path: Path) -> None:
    before = folder_digest(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert folder_digest(copy) == before
    (copy / "deep" / "weights").rename(copy / "weights")
    assert folder_digest(copy) != before
    (folder / "registered_model_meta").write_text("name: x")
    assert folder_digest(folder) == before
    with (folder / "deep" / "weights").open("r+b") as stream:
        stream.seek(4_999_999)
        stream.write(b"\x00")
    assert folder_digest(folder) != before


def test_what_is_in_a_name_is_not_in_a_file(tmp_path: Path) -> None:
    for place, name, text in (("a", "ab", "c"), ("b", "a", "bc")):
        (tmp_path / place).mkdir()
        (tmp_path / place / name).write_text(text)
    assert folder_digest(tmp_path / "a") != folder_digest(tmp_path / "b")


def test_registering_and_fetching_change_nothing(store: Path) -> None:
    logged = made.model(store, "w")
    before = model_digest(logged)
    client = MlflowClient()
    client.create_registered_model("m")
    client.create_model_version("m", logged.uri, model_id=logged.model_id)
    client.set_registered_model_alias("m", "champion", "1")
    client.set_model_version_tag("m", "1", "a", "b")
    got = mlflow.artifacts.download_artifacts("models:/m@champion", dst_path=str(store / "got"))
    assert (Path(got) / "registered_model_meta").is_file()
    assert folder_digest(Path(got)) == before == model_digest(logged)


def test_a_model_whose_files_are_gone_is_told(store: Path) -> None:
    logged = made.model(store, "w")
    shutil.rmtree(made.weights_file(logged).parents[1])
    with pytest.raises(UserError, match="are gone from the artifact store"):
        model_digest(logged)
