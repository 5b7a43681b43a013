"""A release's files: fetched, compared with what is recorded, laid out for an engine."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import psutil
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError, disk_full
from tbr_lightning.models.digest import (
    RECORDED,
    FilesDigest,
    changed,
    files_digest,
    logged_base,
    open_file,
)
from tbr_lightning.models.logged import LAYOUT, LoggedModel
from tbr_lightning.outages import unreadable
from tbr_lightning.serving.release import Release, recorded
from tbr_lightning.serving.weights import Weights, link, prepare

Stamp = frozenset[tuple[str, int, int]]

BASE = "base"
"""Folder beside the copy of an adapter's files: the copy of its base."""

_BLOCK = 1 << 22  # bytes
_CLONE = 0x40049409  # Linux' FICLONE: a copy that shares its blocks until one of them is written


def stamp_of(folders: Sequence[Path]) -> Stamp:
    """Return name, size and time of the files in folders; nothing for a missing folder.

    The time is that of the last change of the file or of what is known of it: unlike the time of
    the last change of its contents, whoever writes to it cannot set that.
    """
    found = set()
    for folder in folders:
        with suppress(OSError):
            for file in folder.rglob("*"):
                facts = file.stat()
                if file.is_file():
                    found.add((str(file), facts.st_size, facts.st_ctime_ns))
    return frozenset(found)


def private_copy(source: Path, into: Path) -> Path:
    """Copy a folder to where only this server writes: the store may change under a running engine.

    Raises:
        UserError: There is no room for it.
    """
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, into, copy_function=_cloned)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(into, ignore_errors=True)  # a part of it would keep a full disk full
        raise UserError(
            disk_full(error)
            or f"the files in {source} cannot be copied to {into.parent}, from where they are "
            f"served: {error}: make room, or give another folder with paths.cache"
        ) from error
    return into


def remove_left(kept: Path) -> None:
    """Remove the copies of servers that were killed; a copy's name begins with its server's id."""
    for folder in kept.iterdir():
        number = folder.name.partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _cloned(source: str, target: str) -> str:
    with open_file(Path(source)) as old, Path(target).open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), _CLONE, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, _BLOCK)
    return target


@dataclass(frozen=True)
class Checked:
    """Files that match what was recorded.

    Attributes:
        artifacts: Folder of the logged model.
        digest: Digest over all of them, an adapter's base included.
        by: Record that they were compared with, in words.
        sources: Folders that they were copied from: in the store, and of an adapter's base.
        stamp: Sizes and times of the files at that time, see :func:`stamp_of`.
    """

    artifacts: Path
    digest: str
    by: str
    sources: tuple[Path, ...] = ()
    stamp: Stamp = frozenset()

    @property
    def changed(self) -> bool:
        """Whether the store has other files by now; what is served is the copy."""
        return bool(self.sources) and stamp_of(self.sources) != self.stamp


def fetch(model: LoggedModel, cache: Path) -> Path:
    """Return the folder of a logged model: its own where that is local, else a copy kept here.

    Raises:
        UserError: The files are gone from the artifact store.
        OutageError: The store does not answer.
    """
    try:
        location = str(MlflowClient().get_logged_model(model.model_id).artifact_location)
        if urlsplit(location).scheme in ("", "file"):
            folder = Path(local_file_uri_to_path(location))
            if folder.is_dir():
                return _whole(folder)
        target = cache / "artifacts" / model.model_id
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                got = Path(mlflow.artifacts.download_artifacts(model.uri, dst_path=temporary))
                shutil.move(str(_whole(got)), target)
        return _whole(target)
    except (MlflowException, OSError) as error:
        raise unreadable(model.uri, error, "restore them, or serve another version") from error


def forget(source: Path, cache: Path) -> None:
    """Remove a fetched copy that is not what was recorded, so that the next try fetches it anew."""
    if source.is_relative_to(cache / "artifacts"):
        shutil.rmtree(source, ignore_errors=True)


def _whole(folder: Path) -> Path:
    if not (folder / "MLmodel").is_file():
        raise FileNotFoundError(folder)
    return folder


def copied(folder: Path, private: Path) -> tuple[Path, tuple[Path, ...], Stamp]:
    """Copy a logged model, and the base of an adapter beside it, to where they are served from.

    Args:
        folder: Folder of the logged model.
        private: Folder of the copies.

    Returns:
        The copy, whose base is in ``BASE`` beside it; the folders that were copied, and their
        stamp from before that.

    Raises:
        UserError: There is no room, or the base is not there.
    """
    base = logged_base(folder)
    sources = (folder,) if base is None else (folder, base)
    stamp = stamp_of(sources)
    if base is not None:
        private_copy(base, private / BASE)
    return private_copy(folder, private / "artifacts"), sources, stamp


def digest_of_copy(artifacts: Path) -> FilesDigest:
    """Return the digests of the copies that :func:`copied` made."""
    base = artifacts.parent / BASE
    return files_digest(artifacts, base if base.is_dir() else None)


def check(
    release: Release, artifacts: Path, tracking: TrackingConfig, paths: PathsConfig
) -> Checked:
    """Compare a release's files with the ledger, or without an entry with the training run.

    Raises:
        UserError: They differ.
    """
    files = digest_of_copy(artifacts)
    found = files.whole
    known = recorded(release, tracking, paths)
    if known.digest is not None:
        _same(release, artifacts, found, known.digest, "the ledger has")
        how = "verified by the ledger" + ("" if known.is_signed else ", which is not signed")
        how += "; the gate refused this version" if known.is_refused else ""
        return Checked(artifacts, found, how)
    if RECORDED in release.model.tags:
        if (told := changed(files, release.model.tags)) is not None:
            raise UserError(
                f"the files of {release.title} in {artifacts} {told}; restore them, or serve "
                "another version"
            )
        return Checked(
            artifacts, found, "not in the ledger; the files are those of its training run"
        )
    logged = release.model.tags.get("tbr.weights_digest")
    if logged is None:
        return Checked(artifacts, found, "unverified: neither ledger nor training run has a digest")
    from tbr_lightning.models.export import weights_digest

    folder = artifacts / ("peft" if (artifacts / "peft").is_dir() else "model")
    _same(release, artifacts, weights_digest(folder), logged, "its training run logged")
    return Checked(artifacts, found, "not in the ledger; the weights are those of its training run")


def _same(release: Release, artifacts: Path, found: str, expected: str, whose: str) -> None:
    if found != expected:
        raise UserError(
            f"the files of {release.title} in {artifacts} are not those that were recorded: their "
            f"digest is {found[:16]}…, {whose} {expected[:16]}…; restore them, or serve another "
            "version"
        )


def lay_out(artifacts: Path, home: Path, name: str, *, adapters: bool) -> Weights:
    """Make the folder that an engine reads, in ``home``, from a logged model's files.

    Args:
        artifacts: Copy that :func:`copied` made; it stays as it is.
        home: An empty folder.
        name: Name of the folder to make, by which the engine calls the model.
        adapters: Whether the engine can apply an adapter to its base; otherwise it is merged.

    Raises:
        UserError: A file that serving needs is missing.
    """
    tokenizer = artifacts / "components" / "tokenizer"
    if not (artifacts / "peft").is_dir():
        return prepare((artifacts / "model", tokenizer), home / name)
    described = yaml.safe_load((artifacts / "MLmodel").read_text(encoding="utf-8"))
    think_format = ThinkFormat.of_dict(described["metadata"][LAYOUT])
    base = artifacts.parent / BASE
    adapter = home / "adapter"
    link((artifacts / "peft", tokenizer), adapter)
    if adapters:
        return prepare((base, tokenizer), home / name, think_format=think_format, adapter=adapter)
    _merge(adapter, think_format, base, home / "merged")
    return prepare((home / "merged", tokenizer), home / name)


def _merge(adapter: Path, think_format: ThinkFormat, base: Path, target: Path) -> None:
    from tbr_lightning.models.export import LAYOUT as FILE
    from tbr_lightning.models.export import merge_into

    as_saved: dict[str, Any] = think_format.as_dict()
    (adapter / FILE).write_text(json.dumps(as_saved), encoding="utf-8")
    merge_into(adapter, target, base=base)
