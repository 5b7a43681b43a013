"""Digests of what ships: every file of a logged model, weights and templates alike."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError, disk_full
from tbr_lightning.models.logged import LoggedModel
from tbr_lightning.progress import bar

NOT_THE_MODELS = frozenset({"registered_model_meta"})
"""Files that MLflow writes beside a model when it is fetched by the name of a version."""

_BLOCK = 1 << 22  # bytes


def folder_digest(folder: Path) -> str:
    """Return SHA-256 over the sorted relative paths and the contents of a folder's files.

    Links are followed. Files that MLflow adds on download are left out.

    Raises:
        OSError: A file cannot be read.
    """
    files = sorted(
        (file.relative_to(folder).as_posix(), file)
        for file in folder.rglob("*")
        if file.is_file() and file.relative_to(folder).as_posix() not in NOT_THE_MODELS
    )
    digest = hashlib.sha256()
    megabytes = sum(file.stat().st_size for _, file in files) >> 20
    with bar(f"digest of {folder.name}", megabytes) as shown:
        for name, file in files:
            # The length keeps a name and its contents from being read in two ways.
            digest.update(f"{len(name.encode())}:{name}:{file.stat().st_size}:".encode())
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    shown.advance(len(block) / 2**20)
    return digest.hexdigest()


def model_digest(model: LoggedModel) -> str:
    """Return the digest of a logged model's artifacts, read in place where they are local files.

    Raises:
        UserError: They are gone from the artifact store.
    """
    try:
        location = str(MlflowClient().get_logged_model(model.model_id).artifact_location)
        folder = _local(location)
        if folder is not None:
            if not (folder / "MLmodel").is_file():
                raise FileNotFoundError(folder)
            return folder_digest(folder)
        with tempfile.TemporaryDirectory() as temporary:
            got = mlflow.artifacts.download_artifacts(model.uri, dst_path=temporary)
            return folder_digest(Path(got))
    except (MlflowException, OSError) as error:
        raise UserError(
            disk_full(error)
            or f"the files of {model.uri} are gone from the artifact store or cannot be read: "
            "restore them, or give another version"
        ) from error


RECORDED = "tbr.artifacts_digest"
"""Tag of a logged model: the digest of its files when its training run had logged them."""


def record(model: LoggedModel) -> str:
    """Record the digest of the files that were just logged, and return it."""
    digest = model_digest(model)
    MlflowClient().set_logged_model_tags(model.model_id, {RECORDED: digest})
    return digest


def check_unchanged(model: LoggedModel) -> str:
    """Return the digest of a model's files, which are those that its training run logged.

    A model that an earlier version logged has no recorded digest to compare with.

    Raises:
        UserError: They were changed since, or are gone.
    """
    found, expected = model_digest(model), model.tags.get(RECORDED)
    if expected is not None and found != expected:
        raise UserError(
            f"the files of {model.uri} are not those that its training run logged: their digest is "
            f"{found[:16]}…, recorded was {expected[:16]}…: restore them, or train it again"
        )
    return found


def _local(location: str) -> Path | None:
    """Return the folder behind an artifact location, or ``None`` where it is not on this machine.

    A location on a file system that this machine does not mount is one of a server's own.
    """
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme else location)
