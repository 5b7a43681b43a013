"""What is served is what was recorded: of an adapter, the base too, and a copy of both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import BASE_RECORDED, RECORDED, model_digest, record
from tbr_lightning.models.logged import LoggedModel, find_model
from tbr_lightning.registry.alias_sync import recover
from tbr_lightning.serving.files import BASE, Checked, check, copied, fetch
from tbr_lightning.serving.release import Release

from ..conftest import put_store
from ..support import made


@pytest.fixture
def base(tmp_path: Path) -> Path:
    put_store(tmp_path)
    base = tmp_path / "the base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(bytes(3000))
    return base


@pytest.fixture
def logged(tmp_path: Path, base: Path) -> LoggedModel:
    logged = made.model(tmp_path, "adapter", base)
    record(logged)
    return find_model(logged.uri)


def checked(folder: Path, release: Release, private: str) -> Checked:
    artifacts, sources, stamp = copied(fetch(release.model, folder / "cache"), folder / private)
    found = check(release, artifacts, made.tracking(folder), made.paths(folder))
    return Checked(found.artifacts, found.digest, found.by, sources, stamp)


def test_a_base_that_is_not_the_one_of_training_is_not_served(
    tmp_path: Path, base: Path, logged: LoggedModel
) -> None:
    release = Release(logged, logged.model_id)
    found = checked(tmp_path, release, "a")
    assert found.digest == logged.tags[RECORDED]
    assert found.by == "not in the ledger; the files are those of its training run"
    (base / "model.safetensors").write_bytes(b"other")
    # The store changed: that is told, and what is served is the copy, which is as it was.
    assert found.changed
    again = check(release, found.artifacts, made.tracking(tmp_path), made.paths(tmp_path))
    assert again.digest == found.digest
    with pytest.raises(UserError, match="stand on another base than the one they were trained on"):
        checked(tmp_path, release, "b")


def test_a_copy_whose_base_was_changed_is_not_loaded_again(
    tmp_path: Path, logged: LoggedModel
) -> None:
    """An engine that has died is started again on what is checked once more."""
    release = Release(logged, logged.model_id)
    found = checked(tmp_path, release, "a")
    (found.artifacts.parent / BASE / "model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="stand on another base"):
        check(release, found.artifacts, made.tracking(tmp_path), made.paths(tmp_path))


def test_the_ledgers_digest_covers_the_base(
    tmp_path: Path, base: Path, logged: LoggedModel
) -> None:
    version = made.crown(made.registry(tmp_path), logged)
    release = Release(logged, made.NAME, version, "champion")
    assert checked(tmp_path, release, "a").by == "verified by the ledger"
    (base / "model.safetensors").write_bytes(b"other")
    record(logged)  # the tracker's tags follow; what is signed does not
    with pytest.raises(UserError, match="the ledger has"):
        checked(tmp_path, Release(find_model(logged.uri), made.NAME, version, "champion"), "b")
    assert model_digest(logged) != recover(made.registry(tmp_path)).entries[-1].weights[version]


def test_a_base_that_is_gone_is_told(tmp_path: Path, base: Path, logged: LoggedModel) -> None:
    shutil.rmtree(base)
    with pytest.raises(
        UserError,
        match=f"the adapter's base is not at {base}, and no hub id",
    ):
        checked(tmp_path, Release(logged, logged.model_id), "a")


def test_an_adapter_of_an_earlier_version_is_held_to_its_own_files(
    tmp_path: Path, base: Path
) -> None:
    from tbr_lightning.models.digest import model_files

    old = made.model(tmp_path, "adapter", base)
    MlflowClient().set_logged_model_tags(old.model_id, {RECORDED: model_files(old).own})
    old = find_model(old.uri)
    assert BASE_RECORDED not in old.tags
    assert checked(tmp_path, Release(old, old.model_id), "a").by.endswith("its training run")
    made.weights_file(old).write_text("other")
    with pytest.raises(UserError, match="are not those that its training run logged"):
        checked(tmp_path, Release(old, old.model_id), "b")
