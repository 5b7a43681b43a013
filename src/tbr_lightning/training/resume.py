"""Which run ``resume=`` means, and the folder in which a run keeps what it needs for it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from omegaconf import OmegaConf

from tbr_lightning.config import schema
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError

_CONFIG, _FACTS, _LOCK = "config.yaml", "run.json", "lock"
_IGNORED = ("resume", "tracking", "paths")
_DATA = {"microworld": schema.MicroworldData, "files": schema.FilesData}


@dataclass(frozen=True)
class Interrupted:
    """A run that can go on.

    Attributes:
        run_id: MLflow run.
        config: As it was started, but with today's tracking and paths.
    """

    run_id: str
    config: TrainConfig


class RunFolder:
    """The folder of one run; open in one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

    def begin(self, config: TrainConfig) -> None:
        """Write what a later resume needs, and claim the folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.claim()
        node = OmegaConf.to_container(OmegaConf.structured(config))
        assert isinstance(node, dict)
        # Where it is tracked may hold a password, and may have moved since.
        OmegaConf.save({k: v for k, v in node.items() if k not in _IGNORED}, self.path / _CONFIG)
        self._write(finished=None)

    def claim(self) -> None:
        """Hold the folder until the process ends.

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
        """Note that there is nothing left to do, and let the folder go."""
        self._write(finished=model_uri)
        self.release()

    def release(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def finished(self) -> str | None:
        """The logged model, once there is one."""
        facts = json.loads((self.path / _FACTS).read_text())
        found: str | None = facts["finished"]
        return found

    def config(self, now: TrainConfig) -> TrainConfig:
        """Return the config that the run was started with; tracking and paths are today's."""
        saved = OmegaConf.load(self.path / _CONFIG)
        structured = OmegaConf.structured(TrainConfig)
        structured.data = OmegaConf.structured(_DATA.get(saved.data.name, schema.SafetyMixData))
        config = OmegaConf.to_object(
            OmegaConf.merge(structured, saved, {k: getattr(now, k) for k in _IGNORED})
        )
        assert isinstance(config, TrainConfig)
        return config

    def _write(self, finished: str | None) -> None:
        partial = self.path / f"{_FACTS}.partial"
        partial.write_text(json.dumps({"finished": finished}))
        partial.replace(self.path / _FACTS)


def interrupted_run(config: TrainConfig) -> Interrupted | None:
    """Return the run that ``resume=`` names; ``None`` if ``latest`` finds none to go on with.

    ``latest`` is the newest run that is neither finished nor under way and was started with every
    override that is given now, so that a job script needs no run id.

    Raises:
        UserError: The named run does not exist, is finished, under way, or was started otherwise.
    """
    given = [item for item in config.given if not item.startswith("resume=")]
    root = Path(config.paths.runs).absolute()
    if config.resume != "latest":
        return _named(RunFolder(root / (config.resume or "")), config, given)
    folders = [path.parent for path in root.glob(f"*/{_CONFIG}")]
    for path in sorted(folders, key=lambda p: (p / _CONFIG).stat().st_mtime, reverse=True):
        folder = RunFolder(path)
        if folder.finished or _foreign(given, folder.config(config).given):
            continue
        try:
            folder.claim()
        except UserError:
            continue
        folder.release()
        return Interrupted(path.name, replace(folder.config(config), resume=config.resume))
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
    return Interrupted(folder.path.name, saved)


def _foreign(given: Sequence[str], saved: Sequence[str]) -> list[str]:
    return [item for item in given if item not in saved]
