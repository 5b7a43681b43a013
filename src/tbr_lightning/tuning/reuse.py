"""What finished runs have found already, of whatever study, and interrupted ones have begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.cache import content_key
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.attestation import DIGEST
from tbr_lightning.models.digest import check_unchanged
from tbr_lightning.models.logged import find_model
from tbr_lightning.tracking.run import find_run, newest_runs
from tbr_lightning.training.resume import RunFolder

KEY = "tbr.config_key"
"""Tag of a training or evaluation run: the hash of all that decides its numbers."""


@dataclass(frozen=True)
class Trained:
    """A finished training run."""

    run_id: str
    model_uri: str
    digest: str = ""  # of the model's files, where the run was found


@dataclass(frozen=True)
class Done:
    """One seed of a trial.

    Attributes:
        train: MLflow run.
        evaluate: MLflow run.
        model_uri: The logged model.
        metrics: All numbers of both runs.
        key: Of both configs.
        reused: Both runs were there before the trial.
        seconds: They took here.
    """

    train: str
    evaluate: str
    model_uri: str
    metrics: Mapping[str, float]
    key: str
    reused: bool
    seconds: float

    def as_dict(self, seed: int) -> dict[str, Any]:
        """Return what is kept with the trial."""
        return {
            "seed": seed,
            "train": self.train,
            "evaluate": self.evaluate,
            "model_uri": self.model_uri,
            "reused": self.reused,
            "seconds": self.seconds,
        }


def trial_key(done: Sequence[Done]) -> str:
    """Return the hash of the configs of all seeds."""
    return content_key([one.key for one in done])


def find_trained(key: str) -> Trained | None:
    """Return a finished training run with this config and seed whose model is as it was logged."""
    run_id = find_run({"tbr.stage": "train", KEY: key})
    if run_id is None:
        return None
    try:
        model = find_model(run_id)
        return Trained(run_id, model.uri, check_unchanged(model))
    except UserError:
        return None


def find_evaluated(key: str, trained: Trained) -> str | None:
    """Return a finished evaluation with this config of the files that a found model has."""
    return find_run({"tbr.stage": "evaluate", KEY: key, DIGEST: trained.digest})


def find_interrupted(config: TrainConfig, tags: Mapping[str, str]) -> str | None:
    """Return the training run that an earlier attempt at this trial began, if it can go on."""
    wanted = {"tbr.stage": "train", "tbr.seed": str(config.seed), **tags}
    for run_id in newest_runs("!= 'FINISHED'", wanted, most=5):
        folder = RunFolder(Path(config.paths.runs).absolute() / run_id)
        try:
            if (folder.path / "config.yaml").is_file() and folder.finished is None:
                folder.claim()
                folder.release()
                return run_id
        except UserError:
            continue
    return None
