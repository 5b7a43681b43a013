"""What is served is what was recorded: of an adapter, the base too, and a copy of both."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import BASE_RECORDED, RECORDED, model_digest, record
from tbr_lightning.models.logged import LoggedModel, find_model
from tbr_lightning.registry.alias_sync import recover
from tbr_lightning.registry.entry import TAG
from tbr_lightning.serving.files import BASE, Checked, check, copied, fetch, forget
from tbr_lightning.serving.release import Release
from tbr_lightning.tracking.signing import PUBLIC

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


def test_a_file_that_is_overwritten_with_its_old_time_is_told(
    tmp_path: Path, logged: LoggedModel
) -> None:
    found = checked(tmp_path, Release(logged, logged.model_id), "a")
    assert not found.changed
    file = made.weights_file(logged)
    before = file.stat()
    file.write_bytes(bytes(reversed(file.read_bytes())))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.stat().st_size == before.st_size
    assert found.changed


def test_where_only_signed_entries_count_nothing_else_is_served(
    tmp_path: Path, logged: LoggedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that only serves has the public keys, and no mark of what it wrote itself."""
    where = made.registry(tmp_path)
    version = made.crown(where, logged)
    public = tmp_path / "trusted.keys"
    shutil.copy(made.keys(tmp_path).public, public)
    monkeypatch.setenv(PUBLIC, str(public))
    release = Release(logged, made.NAME, version, "champion")
    assert checked(tmp_path, release, "a").by == "verified by the ledger"

    other = Release(find_model(made.model(tmp_path, "bad").uri), made.NAME, "2", "staging")
    unnamed = Release(other.model, other.model.model_id)
    for number, one in enumerate((other, unnamed)):
        with pytest.raises(UserError, match=f"no signed entry of the ledger names {one.title}"):
            checked(tmp_path, one, f"b{number}")

    # Who can write the ledger's database takes all entries away; the tracker's tag is there.
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(UserError, match=r"the ledger is empty.*tracking\.ledger=URL"):
        checked(tmp_path, release, "c")
    MlflowClient().delete_registered_model_tag(made.NAME, TAG)  # or that, too
    with pytest.raises(UserError, match="no signed entry of the ledger names"):
        checked(tmp_path, release, "d")


def test_a_fetched_copy_that_is_not_what_was_recorded_is_fetched_anew(
    tmp_path: Path, logged: LoggedModel
) -> None:
    """Else a store that was restored would not help."""
    cache = tmp_path / "cache"
    copy = cache / "artifacts" / logged.model_id
    shutil.copytree(fetch(logged, cache), copy)
    forget(fetch(logged, cache), cache)  # the store's own folder, which is not ours to remove
    assert made.weights_file(logged).is_file()
    forget(copy, cache)
    assert not copy.exists()


def test_a_tag_makes_no_other_release(logged: LoggedModel) -> None:
    """What anybody writes on a served model is no reason to load it again."""
    one = Release(logged, "m", "1", "champion")
    noted = replace(logged, tags={**logged.tags, "note": "seen"})
    assert replace(one, model=noted).is_same(one)
    assert not replace(one, model=replace(logged, model_id="m-2")).is_same(one)
    assert not replace(one, version="2").is_same(one)


def test_a_version_that_the_gate_refused_is_called_so(tmp_path: Path, logged: LoggedModel) -> None:
    version = made.crown(made.registry(tmp_path), logged, "refuse")
    release = Release(logged, made.NAME, version)
    found = checked(tmp_path, release, "a").by
    assert found == "verified by the ledger; the gate refused this version"
