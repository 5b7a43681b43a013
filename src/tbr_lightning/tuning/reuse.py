"""When two runs are the same, and which runs exist already, finished or interrupted.

They are the same where their resolved configs, and all that these name, have one hash. A trial
reads its configs from its folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.config.targets import restored
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.data.cache import content_key, contents_key
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.attestation import DIGEST
from tbr_lightning.evaluation.judges.loading import identity
from tbr_lightning.models.digest import check_unchanged
from tbr_lightning.models.logged import find_model
from tbr_lightning.tracking.search import find_run, newest_runs
from tbr_lightning.training.precision import precision_of
from tbr_lightning.training.resume import RunFolder
from tbr_lightning.training.trial_pruning_channel import PruningChannel
from tbr_lightning.tuning.source_digest import code_digest, hub_commit

# Where a run is written, what it is called and how fast it goes decide none of its numbers.
_WITHOUT_EFFECT = ("tracking", "paths", "run_name", "tags", "given", "resume", "dry_run")
_TRAINER_WITHOUT_EFFECT = ("threads", "log_every", "checkpoint", "checkpoint_every", "save_top_k")
_EVALUATE_WITHOUT_EFFECT = (
    *("model_uri", "reuse", "traces", "genai_dataset", "format", "threads", "gold", "labelled"),
    "evaluation",
)

T = TypeVar("T", TrainConfig, EvaluateConfig)

KEY = "tbr.config_key"
"""Tag of a training or evaluation run: the hash of all that decides its numbers."""


@dataclass(frozen=True)
class Trained:
    """A finished training run."""

    run_id: str
    model_uri: str
    reused: bool = False  # it existed before
    digest: str = ""  # digest of the model's files, if it did


@dataclass(frozen=True)
class SeedRun:
    """One seed of a trial."""

    seed: int
    train: str  # id of the MLflow run
    evaluate: str  # id of the MLflow run
    model_uri: str  # the logged model
    reused: bool  # both runs existed before the trial
    seconds: float  # time that they took here


def save(config: TrainConfig | EvaluateConfig, path: Path) -> None:
    """Write a config, without where it is tracked: that may hold a password."""
    node = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(node, dict)
    OmegaConf.save({k: v for k, v in node.items() if k not in ("tracking", "paths")}, path)


def load(kind: type[T], path: Path, tracking: TrackingConfig, paths: PathsConfig) -> T:
    """Read a config that :func:`save` wrote."""
    return restored(kind, OmegaConf.load(path), tracking=tracking, paths=paths)


def train_key(config: TrainConfig) -> str:
    """Return the hash of all that decides a trained model's numbers, the seed included.

    Files and folders that the config names count by their contents.
    """
    settings = {k: v for k, v in asdict(config).items() if k not in _WITHOUT_EFFECT}
    trainer = settings["trainer"]
    settings["trainer"] = {k: v for k, v in trainer.items() if k not in _TRAINER_WITHOUT_EFFECT}
    settings["trainer"]["precision"] = precision_of(config)
    if not trainer["eval_every"]:
        settings.pop("probe")
    return content_key(code_digest(config), settings, _contents(settings), hub_commit(config.model))


def evaluate_key(config: EvaluateConfig, train: str) -> str:
    """Return the hash of all that decides an evaluation's numbers, the model's key included."""
    left_out = (*_WITHOUT_EFFECT, *_EVALUATE_WITHOUT_EFFECT)
    settings = {k: v for k, v in asdict(config).items() if k not in left_out}
    judges = [identity(one) for one in (config.judge, config.second_judge) if one is not None]
    harness = [version("lm_eval")] if config.suite.lm_eval else []
    return content_key(code_digest(config), train, settings, judges, _contents(settings), *harness)


def _contents(settings: Any) -> dict[str, str]:
    """Return the hash of every file, or folder of files, that a config names."""
    found: dict[str, str] = {}
    if isinstance(settings, Mapping | list):
        for value in settings.values() if isinstance(settings, Mapping) else settings:
            found |= _contents(value)
    elif isinstance(settings, str) and (digest := contents_key(settings)) is not None:
        found[settings] = digest
    return found


def find_trained(key: str) -> Trained | None:
    """Return a finished training run with this config and seed whose model is there still."""
    run_id = find_run({"tbr.stage": "train", KEY: key})
    if run_id is None:
        return None
    try:
        model = find_model(run_id)
        return Trained(run_id, model.uri, reused=True, digest=check_unchanged(model))
    except UserError:
        return None


def train_or_take(
    config: TrainConfig, key: str, *, take: bool, channel: PruningChannel | None = None
) -> Trained:
    """Train, or take a finished run of the same config and seed if there is one."""
    from tbr_lightning.training import pipeline as training

    there = find_trained(key) if take else None
    if there is not None:
        print(f"run {there.run_id} has this config and seed", flush=True)
        return there
    if config.resume is not None:
        print(f"run {config.resume} goes on", flush=True)
    result = training.run(replace(config, tags={**config.tags, KEY: key}), channel)
    return Trained(result.run_id, result.model_uri)


def find_evaluated(key: str, trained: Trained) -> str | None:
    """Return a finished evaluation with this config of the files that a found model has."""
    return find_run({"tbr.stage": "evaluate", KEY: key, DIGEST: trained.digest})


def find_interrupted(config: TrainConfig, tags: Mapping[str, str]) -> str | None:
    """Return the training run that an earlier attempt at this trial began, if it can be resumed."""
    wanted = {"tbr.stage": "train", "tbr.seed": str(config.seed), **tags}
    for run_id in newest_runs("!= 'FINISHED'", wanted, most=5):
        folder = RunFolder.of(config, run_id)
        try:
            if (folder.path / "config.yaml").is_file() and folder.finished is None:
                folder.claim()
                folder.release()
                return run_id
        except UserError:
            continue
    return None
