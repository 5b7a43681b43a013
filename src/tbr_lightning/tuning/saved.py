"""Resolved configs on disk, and the hash by which two of them are the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from omegaconf import OmegaConf

from tbr_lightning.config.schema import ModelConfig, PathsConfig, TrackingConfig
from tbr_lightning.config.targets import restored
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.data.cache import content_key, contents_key, file_key
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
    return content_key(_code(config), settings, _contents(settings), _revision(config.model))


def evaluate_key(config: EvaluateConfig, train: str) -> str:
    """Return the hash of all that decides an evaluation's numbers, the model's key included."""
    left_out = (*_WITHOUT_EFFECT, *_EVALUATE_WITHOUT_EFFECT)
    settings = {k: v for k, v in asdict(config).items() if k not in left_out}
    judges = [identity(one) for one in (config.judge, config.second_judge) if one is not None]
    return content_key(_code(config), train, settings, judges, _contents(settings))


_ROOMS = ("data", "evaluation", "microworld", "models", "objectives", "reflection", "training")


def _code(config: TrainConfig | EvaluateConfig) -> list[str]:
    """Return hashes of the code that decides: the package's, and that of a user's own targets."""
    own = {inspect.getfile(type(part)) for part in vars(config).values() if is_dataclass(part)}
    others = sorted(file for file in own if not Path(file).is_relative_to(_PACKAGE))
    return [_code_of_package(), *(file_key(Path(file)) for file in others)]


_PACKAGE = Path(__file__).parents[1]


@cache
def _code_of_package() -> str:
    files = [f for room in _ROOMS for f in (_PACKAGE / room).rglob("*") if _is_source(f)]
    named = {str(file.relative_to(_PACKAGE)): file_key(file) for file in files}
    libraries = [version(name) for name in ("torch", "transformers", "peft")]
    return content_key(named, libraries)


def _is_source(file: Path) -> bool:
    return file.suffix in (".py", ".yaml", ".txt", ".jinja") and file.is_file()


def _revision(model: ModelConfig) -> str | None:
    """Return the commit of a hub model's files in the cache: a revision such as main moves."""
    if model.hub_id is None or model.path is not None or model.init == "random":
        return None
    found = try_to_load_from_cache(model.hub_id, "config.json", revision=model.revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _contents(settings: Any) -> dict[str, str]:
    """Return the hash of every file, or folder of files, that a config names."""
    found: dict[str, str] = {}
    if isinstance(settings, Mapping | list):
        for value in settings.values() if isinstance(settings, Mapping) else settings:
            found |= _contents(value)
    elif isinstance(settings, str) and (digest := contents_key(settings)) is not None:
        found[settings] = digest
    return found
