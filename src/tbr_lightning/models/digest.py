"""Digests of what ships: every file of a logged model and of an adapter's base."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.errors import UserError
from tbr_lightning.models.bases import folder_of_base
from tbr_lightning.outages import unreadable
from tbr_lightning.progress import bar

if TYPE_CHECKING:
    from tbr_lightning.models.logged import LoggedModel

NOT_THE_MODELS = frozenset({"registered_model_meta"})
"""Files that MLflow writes beside a model when it is fetched by the name of a version."""

READ_OF_A_BASE = frozenset({".json", ".safetensors", ".jinja", ".model", ".txt"})
"""Suffixes of the files in a base's folder that loading it may read."""

_BLOCK = 1 << 22  # bytes


@dataclass(frozen=True)
class FilesDigest:
    """Digests of a logged model's files.

    Attributes:
        own: Digest of the logged files.
        base: Digest of the base of an adapter; empty for a whole model.
    """

    own: str
    base: str = ""

    @property
    def whole(self) -> str:
        """Digest of all that the model is made of."""
        if not self.base:
            return self.own
        return hashlib.sha256(f"adapter {self.own} on base {self.base}".encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """Return SHA-256 over the sorted relative paths and the contents of a folder's files.

    Links to files are followed. Files that MLflow adds on download are left out.

    Raises:
        UserError: The files refer to others outside the folder.
        OSError: A file cannot be read.
    """
    found = list(folder.rglob("*"))
    for place in found:
        # Whoever copies or loads the folder follows such a link, and the digest would not.
        if place.is_symlink() and place.is_dir():
            raise UserError(f"{place} is a link to a folder: put the folder itself there")
        # A pipe or a device, which whoever copies the folder waits for, or reads without an end.
        if not (place.is_dir() or place.is_file()):
            raise UserError(f"{place} is neither a file nor a folder: remove it")
    check_references(found)
    files = ((file.relative_to(folder).as_posix(), file) for file in found)
    return _digest(folder, [one for one in files if one[0] not in NOT_THE_MODELS])


def base_digest(folder: Path) -> str:
    """Return SHA-256 over those files of a base's folder that loading it may read.

    Its folder may be one of a hub's cache, where files of other formats come and go.

    Raises:
        UserError: The files refer to others outside the folder.
        OSError: A file cannot be read.
    """
    check_references(list(folder.iterdir()))
    files = [(file.name, file) for file in folder.iterdir() if file.suffix in READ_OF_A_BASE]
    return _digest(folder, files)


def check_references(files: Sequence[Path]) -> None:
    """Refuse files that name others in another folder, which no digest of theirs would cover.

    Transformers joins the names of shards in an index, and of versions of a tokenizer, with the
    folder; an absolute name, or one with ``..``, leads out of it.

    Raises:
        UserError: There is such a name.
    """
    for file in files:
        if file.name.endswith(".index.json"):
            named = _values(file, "weight_map")
        elif file.name == "tokenizer_config.json":
            named = _values(file, "fast_tokenizer_files")
        else:
            continue
        for name in named:
            if not isinstance(name, str) or Path(name).name != name:
                raise UserError(
                    f"{file} names the file {name!r}, which is not in its folder: put it there, "
                    "and write its name alone"
                )


def _values(file: Path, key: str) -> list[Any]:
    """Return the values of a mapping or list in a JSON file; whoever reads a broken one says so."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get(key) or []
    except (OSError, ValueError, AttributeError):
        return []
    return list(found.values() if isinstance(found, dict) else found)


def logged_base(artifacts: Path) -> Path | None:
    """Return the folder of the base that a logged adapter names; ``None`` for a whole model.

    Raises:
        UserError: The base is neither there nor on the hub.
    """
    if not (artifacts / "peft").is_dir():
        return None
    described = yaml.safe_load((artifacts / "MLmodel").read_text(encoding="utf-8"))
    base = Path(str(described["flavors"]["transformers"]["local_base_model_path"]))
    return folder_of_base(base, artifacts / "peft")


def files_digest(artifacts: Path, base: Path | None = None) -> FilesDigest:
    """Return the digests of a logged model's files.

    Args:
        artifacts: Folder of the logged files.
        base: Folder of a copy of an adapter's base; ``None`` for the one that the adapter names.

    Raises:
        UserError: The base is not there.
        OSError: A file cannot be read.
    """
    base = base or logged_base(artifacts)
    return FilesDigest(folder_digest(artifacts), "" if base is None else base_digest(base))


def _digest(folder: Path, named: list[tuple[str, Path]]) -> str:
    files = sorted((name, file) for name, file in named if file.is_file())
    digest = hashlib.sha256()
    megabytes = sum(file.stat().st_size for _, file in files) >> 20
    with bar("hash of the files", megabytes) as shown:
        for name, file in files:
            # The length keeps a name and its contents from being read in two ways.
            digest.update(f"{len(name.encode())}:{name}:{file.stat().st_size}:".encode())
            with open_file(file) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    shown.advance(len(block) / 2**20)
    return digest.hexdigest()


def open_file(file: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe that was put in its place is not waited for.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    stream = os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{file} is no regular file")
    return stream


def model_digest(model: LoggedModel) -> str:
    """Return the digest of all files of a logged model: see :func:`model_files`."""
    return model_files(model).whole


def model_files(model: LoggedModel) -> FilesDigest:
    """Return the digests of a logged model's files, read in place where they are local.

    Raises:
        UserError: They are gone from the artifact store, or an adapter's base from its folder.
        OutageError: The store does not answer.
    """
    try:
        location = str(MlflowClient().get_logged_model(model.model_id).artifact_location)
        folder = _local(location)
        if folder is not None:
            if not (folder / "MLmodel").is_file():
                raise FileNotFoundError(folder)
            return files_digest(folder)
        with tempfile.TemporaryDirectory() as temporary:
            got = mlflow.artifacts.download_artifacts(model.uri, dst_path=temporary)
            return files_digest(Path(got))
    except (MlflowException, OSError) as error:
        raise unreadable(model.uri, error, "restore them, or give another version") from error


RECORDED, BASE_RECORDED = "tbr.artifacts_digest", "tbr.base_digest"
"""Tags of a logged model: the digest of all its files when its training run had logged them, and,
of an adapter, that of its base's files alone, which tells which of them have changed."""


def record(model: LoggedModel) -> str:
    """Record the digest of the files that were just logged, and return it."""
    found = model_files(model)
    tags = {RECORDED: found.whole} | ({BASE_RECORDED: found.base} if found.base else {})
    MlflowClient().set_logged_model_tags(model.model_id, tags)
    return found.whole


def check_unchanged(model: LoggedModel, found: FilesDigest | None = None) -> str:
    """Return the digest of a model's files, which are those that its training run logged.

    A model that an earlier version logged has no recorded digest to compare with, or one that
    leaves out an adapter's base.

    Args:
        model: The model.
        found: Digests of its files, where they are computed already.

    Raises:
        UserError: They were changed since, or are gone.
    """
    found = found or model_files(model)
    if (told := changed(found, model.tags)) is not None:
        raise UserError(f"the files of {model.uri} {told}: restore them, or train it again")
    return found.whole


def changed(found: FilesDigest, tags: Mapping[str, str]) -> str | None:
    """Return how a model's files differ from those that its training run logged, or ``None``.

    Args:
        found: Digests of the files as they are.
        tags: Tags of the logged model.
    """
    expected, base = tags.get(RECORDED), tags.get(BASE_RECORDED)
    if base is None and expected == found.own:
        return None
    if base is not None and base != found.base:
        return (
            "stand on another base than the one they were trained on: the digest of its files is "
            f"{found.base[:16] or 'none'}…, recorded was {base[:16]}…"
        )
    if expected is not None and found.whole != expected:
        return (
            f"are not those that its training run logged: their digest is {found.whole[:16]}…, "
            f"recorded was {expected[:16]}…"
        )
    return None


def _local(location: str) -> Path | None:
    """Return the folder behind an artifact location, or ``None`` where it is not on this machine.

    A location on a file system that this machine does not mount is one of a server's own.
    """
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme else location)
