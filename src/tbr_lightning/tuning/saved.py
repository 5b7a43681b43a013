"""Resolved configs on disk, and the hash by which two of them are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tbr_lightning import __version__
from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.config.targets import restored
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.data.cache import content_key, contents_key
from tbr_lightning.evaluation.judge import identity

# Where a run is written, what it is called and how fast it goes decide none of its numbers.
_WITHOUT_EFFECT = ("tracking", "paths", "run_name", "tags", "given", "resume", "dry_run")
_TRAINER_WITHOUT_EFFECT = ("threads", "log_every", "checkpoint", "checkpoint_every", "save_top_k")
_EVALUATE_WITHOUT_EFFECT = ("model_uri", "reuse", "traces", "format", "threads", "gold")


def save(config: TrainConfig | EvaluateConfig, path: Path) -> None:
    """Write a config, without where it is tracked: that may hold a password."""
    node = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(node, dict)
    OmegaConf.save({k: v for k, v in node.items() if k not in ("tracking", "paths")}, path)


def load_train(path: Path, tracking: TrackingConfig, paths: PathsConfig) -> TrainConfig:
    """Read a training config that :func:`save` wrote."""
    return restored(TrainConfig, OmegaConf.load(path), tracking=tracking, paths=paths)


def load_evaluate(path: Path, tracking: TrackingConfig, paths: PathsConfig) -> EvaluateConfig:
    """Read a config of an evaluation that :func:`save` wrote."""
    return restored(EvaluateConfig, OmegaConf.load(path), tracking=tracking, paths=paths)


def train_key(config: TrainConfig) -> str:
    """Return the hash of all that decides a trained model's numbers, the seed included.

    Files and folders that the config names count by what is in them.
    """
    settings = {k: v for k, v in asdict(config).items() if k not in _WITHOUT_EFFECT}
    trainer = settings["trainer"]
    settings["trainer"] = {k: v for k, v in trainer.items() if k not in _TRAINER_WITHOUT_EFFECT}
    if not trainer["eval_every"]:
        settings.pop("probe")
    return content_key(__version__, settings, _contents(settings))


def evaluate_key(config: EvaluateConfig, train: str) -> str:
    """Return the hash of all that decides an evaluation's numbers, the model's key included."""
    left_out = (*_WITHOUT_EFFECT, *_EVALUATE_WITHOUT_EFFECT)
    settings = {k: v for k, v in asdict(config).items() if k not in left_out}
    judges = [identity(one) for one in (config.judge, config.second_judge) if one is not None]
    return content_key(__version__, train, settings, judges, _contents(settings))


def _contents(settings: Any) -> dict[str, str]:
    """Return the hash of every file, or folder of files, that a config names."""
    found: dict[str, str] = {}
    if isinstance(settings, Mapping | list):
        for value in settings.values() if isinstance(settings, Mapping) else settings:
            found |= _contents(value)
    elif isinstance(settings, str) and (digest := contents_key(settings)) is not None:
        found[settings] = digest
    return found
