"""Digests: every file counts, what MLflow adds does not, and a digest stays what it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import (
    BASE_RECORDED,
    RECORDED,
    base_digest,
    check_unchanged,
    folder_digest,
    model_digest,
    model_files,
    record,
)
from tbr_lightning.models.hf_folder import hf_folder
from tbr_lightning.models.logged import find_model
from tbr_lightning.serving.files import private_copy

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


def test_progress_is_told_in_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    @contextmanager
    def shown(what: str, total: float) -> Iterator[SimpleNamespace]:
        told.append(total)
        yield SimpleNamespace(advance=told.append)

    monkeypatch.setattr("tbr_lightning.models.digest.bar", shown)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights").write_bytes(b"x" * (3 << 20))
    folder_digest(tmp_path / "m")
    assert told[0] == sum(told[1:]) == 3


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


@pytest.fixture
def base(store: Path) -> Path:
    """The base of an adapter, of which only a few files are read."""
    base = store / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "x"}')
    (base / "model-1.safetensors").write_bytes(bytes(4000))
    (base / "model.safetensors.index.json").write_text("{}")
    return base


@pytest.mark.parametrize("file", ["config.json", "model-1.safetensors", "adapter_config.json"])
def test_an_adapter_whose_base_was_changed_is_refused(store: Path, base: Path, file: str) -> None:
    logged = made.model(store, "w", base)
    digest = record(logged)
    tagged = find_model(logged.uri)
    assert (tagged.tags[RECORDED], tagged.tags[BASE_RECORDED]) == (digest, base_digest(base))
    (base / "README.md").write_text("nothing reads this")
    (base / "onnx").mkdir()
    assert check_unchanged(tagged) == digest
    with (base / file).open("ab") as stream:
        stream.write(b" ")
    assert model_files(logged).own == folder_digest(made.weights_file(logged).parents[1])
    with pytest.raises(UserError, match=r"stand on another base than the one they were trained on"):
        check_unchanged(tagged)


def test_another_base_whose_digest_was_put_into_the_tracker_has_another_whole(
    store: Path, base: Path
) -> None:
    """The tags are the tracker's, and may be rewritten; what is signed is the digest of both."""
    logged = made.model(store, "w", base)
    before = record(logged)
    (base / "model-1.safetensors").write_bytes(b"other weights")
    MlflowClient().set_logged_model_tags(logged.model_id, {BASE_RECORDED: base_digest(base)})
    with pytest.raises(UserError, match="are not those that its training run logged"):
        check_unchanged(find_model(logged.uri))
    assert record(logged) != before


def test_an_adapter_that_an_earlier_version_logged_is_held_to_its_own_files(
    store: Path, base: Path
) -> None:
    logged = made.model(store, "w", base)
    own = model_files(logged).own
    MlflowClient().set_logged_model_tags(logged.model_id, {RECORDED: own})
    assert check_unchanged(find_model(logged.uri)) == model_digest(logged) != own
    made.weights_file(logged).write_text("other")
    with pytest.raises(UserError, match="are not those that its training run logged"):
        check_unchanged(find_model(logged.uri))


def test_an_adapter_whose_base_is_gone_is_told(store: Path, base: Path) -> None:
    logged = made.model(store, "w", base)
    shutil.rmtree(base)
    with pytest.raises(UserError, match=f"the adapter's base is not at {base}"):
        model_digest(logged)


def test_files_that_change_between_the_check_and_the_copy_are_not_read(store: Path) -> None:
    logged = made.model(store, "w")
    checked = model_digest(logged)
    made.weights_file(logged).write_text("other")
    with pytest.raises(UserError, match="were changed while they were read"):
        hf_folder(logged, store / "cache", checked)
    assert not list((store / "cache").iterdir())


@pytest.mark.parametrize("shard", ["/elsewhere/w.safetensors", "../w.safetensors", "deep/w", 1])
def test_an_index_that_leads_out_of_its_folder_is_refused(
    folder: Path, base: Path, shard: object
) -> None:
    """No digest of the folder would change with that file, and whoever loads it reads that file."""
    for place, digest in ((folder / "deep", folder_digest), (base, base_digest)):
        index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": shard}}
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match=r"index\.json names the file .* not in its folder"):
            digest(folder if place.parent == folder else place)


def test_a_tokenizer_that_leads_out_of_its_folder_is_refused(folder: Path) -> None:
    settings = {"fast_tokenizer_files": ["tokenizer.json", "/elsewhere/tokenizer.4.0.json"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"names the file '/elsewhere/tokenizer\.4\.0\.json'"):
        folder_digest(folder)


@pytest.mark.parametrize("put", ["pipe", "device", "nothing"])
def test_what_is_no_file_is_refused_and_never_waited_for(
    folder: Path, tmp_path: Path, put: str
) -> None:
    odd = folder / "deep" / "odd"
    if put == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero" if put == "device" else tmp_path / "nowhere")
    with pytest.raises(UserError, match="odd is neither a file nor a folder: remove it"):
        folder_digest(folder)
    # Put there after the check: whoever copies neither waits nor fills the disk.
    with pytest.raises(UserError, match="cannot be copied"):
        private_copy(folder, tmp_path / "served" / "artifacts")
    assert not (tmp_path / "served" / "artifacts").exists()


def test_a_folder_behind_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    """Its files would be loaded and copied, and no digest would hold them."""
    (folder / "deep").rename(tmp_path / "elsewhere")
    (folder / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="deep is a link to a folder"):
        folder_digest(folder)
    (folder / "deep").unlink()
    (folder / "weights").symlink_to(tmp_path / "elsewhere" / "weights")  # as in a hub's cache
    before = folder_digest(folder)
    (tmp_path / "elsewhere" / "weights").write_bytes(b"other")
    assert folder_digest(folder) != before
