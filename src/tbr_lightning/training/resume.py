"""Which run ``resume=`` means, and the folder in which a run keeps what it needs for it."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tbr_lightning.config.targets import restored
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.cache import contents_key, write_whole
from tbr_lightning.errors import UserError
from tbr_lightning.tracking.open_run import flatten

_CONFIG, _FACTS, _FILES, _LOCK = "config.yaml", "run.json", "files.json", "lock"
_OF_FILES = (
    *("general", "harmful", "look_alike", "general_source", "harmful_source", "look_alike_source"),
    *("exclude", "labelled", "path", "prompt", "chat_template", "table", "root"),
)
_IGNORED = ("resume", "tracking", "paths")


@dataclass(frozen=True)
class Interrupted:
    """An interrupted run that can be resumed.

    Attributes:
        run_id: ID of the MLflow run.
        config: Config that it was started with, but with today's tracking and paths.
    """

    run_id: str
    config: TrainConfig


class RunFolder:
    """The folder of one run; open in one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

    @classmethod
    def of(cls, config: TrainConfig, run_id: str) -> RunFolder:
        """Return the folder of a run in the place that a config names."""
        return cls(Path(config.paths.runs).absolute() / run_id)

    def begin(self, config: TrainConfig) -> None:
        """Write what a later resume needs, and claim the folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.claim()
        self._write(finished=None)
        # Where it is tracked may hold a password, and may have moved since.
        kept = {key: value for key, value in asdict(config).items() if key not in _IGNORED}
        kept["given"] = _compared(config.given)
        (self.path / _FILES).write_text(json.dumps(_named_files(kept)))
        # A folder counts as a run's once it has this file, so it comes last and at once.
        write_whole(self.path / _CONFIG, OmegaConf.to_yaml(kept))

    def claim(self) -> None:
        """Lock the folder until the process ends.

        Raises:
            UserError: Another process holds it.
        """
        lock = (self.path / _LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"resume={self.path.name}: that run is still under way: wait, or end it first"
            ) from error
        self._lock = lock

    def finish(self, model_uri: str) -> None:
        """Record that there is nothing left to do, and release the folder."""
        self._write(finished=model_uri)
        self.release()

    def release(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def finished(self) -> str | None:
        """URI of the logged model, once there is one."""
        with self._told():
            facts = json.loads((self.path / _FACTS).read_text())
            found: str | None = facts["finished"]
        return found

    def config(self, now: TrainConfig) -> TrainConfig:
        """Return the config that the run was started with; tracking and paths are today's.

        Raises:
            UserError: It cannot be read.
        """
        with self._told():
            saved = OmegaConf.load(self.path / _CONFIG)
            made = restored(TrainConfig, saved, **{k: getattr(now, k) for k in _IGNORED})
        # A command that is shown for the next resume names today's store.
        made.given += [item for item in now.given if item not in _compared(now.given)]
        return made

    def check_files(self) -> None:
        """Refuse to go on with other rows, reflections or weights than the run began with.

        Raises:
            UserError: A file or folder that its config names has changed, or is gone.
        """
        if not (self.path / _FILES).is_file():  # a run of an earlier version
            return
        with self._told():
            known = json.loads((self.path / _FILES).read_text())
        for key, (name, digest) in known.items():
            if contents_key(name) != digest:
                raise UserError(
                    f"resume={self.path.name}: {key}='{name}' has changed since that run began: "
                    "restore the original, or start a new run"
                )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, KeyError, YAMLError, OmegaConfBaseException) as e:
            raise UserError(
                f"resume={self.path.name}: what was saved of that run cannot be read, since it is "
                "damaged or of another version of TBR-Lightning: start a new run"
            ) from e

    def _write(self, finished: str | None) -> None:
        write_whole(self.path / _FACTS, json.dumps({"finished": finished}))


def interrupted_run(config: TrainConfig) -> Interrupted | None:
    """Return the run that ``resume=`` names; ``None`` if ``latest`` finds none to go on with.

    ``latest`` is the newest run that is neither finished nor under way and was started with every
    override that is given now, so that a job script needs no run id.

    Raises:
        UserError: The named run does not exist, is finished, under way, or was started otherwise;
            or ``latest`` is the only argument and finds none.
    """
    given = _compared(config.given)
    root = Path(config.paths.runs).absolute()
    if config.resume != "latest":
        return _named(RunFolder(root / (config.resume or "")), config, given)
    folders = [path.parent for path in root.glob(f"*/{_CONFIG}")]
    for path in sorted(folders, key=lambda p: (p / _CONFIG).stat().st_mtime, reverse=True):
        folder = RunFolder(path)
        try:
            saved = folder.config(config)
            if folder.finished or _foreign(given, saved.given):
                continue
            folder.claim()
        except UserError:
            continue
        folder.release()
        folder.check_files()
        return Interrupted(path.name, saved)
    if not given:
        # A job script repeats its command line; alone, the word cannot mean to start anything.
        raise UserError(
            f"resume=latest: {root} has no interrupted run: leave resume out, or give the whole "
            "training command, which starts a new run where there is none"
        )
    return None


def _named(folder: RunFolder, config: TrainConfig, given: Sequence[str]) -> Interrupted:
    if not (folder.path / _CONFIG).is_file():
        raise UserError(
            f"resume={config.resume}: {folder.path.parent} has no such run: give latest or the id "
            "of a training run"
        )
    if folder.finished:
        raise UserError(
            f"resume={config.resume}: that run is finished: its model is {folder.finished}"
        )
    saved = folder.config(config)
    if other := _foreign(given, saved.given):
        raise UserError(
            f"resume={config.resume}: that run was not started with {other[0]}: leave it out, or "
            "start a new run"
        )
    folder.check_files()
    # Before MLflow is changed: a run that is still under way must not be marked as resumed.
    folder.claim()
    folder.release()
    return Interrupted(folder.path.name, saved)


def _named_files(config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return by key the local files and folders that a config names, with their digests.

    A name counts where its key is for files, or where it is written as a path: a folder may
    have the name of a member of a group.
    """
    found = {}
    for key, value in flatten(config).items():
        if key.startswith("given") or not isinstance(value, str):
            continue
        as_path = "/" in value or bool(Path(value).suffix)
        if not as_path and key.rpartition(".")[2] not in _OF_FILES:
            continue
        if (digest := contents_key(value)) is not None:
            found[key] = (str(Path(value).absolute()), digest)
    return found


def _compared(given: Sequence[str]) -> list[str]:
    """Return the overrides that must agree: those of what is saved."""
    names = [re.split(r"[.@=]", item.lstrip("+~"), maxsplit=1)[0] for item in given]
    return [item for item, name in zip(given, names, strict=True) if name not in _IGNORED]


def _foreign(given: Sequence[str], saved: Sequence[str]) -> list[str]:
    return [item for item in given if item not in saved]
