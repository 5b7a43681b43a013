"""Typed schema of the command ``sweep``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError, above, at_least, one_of


@dataclass
class SweepSettings:
    """How a study is run, and what is done with its chosen model."""

    trials: int | None = None  # finished trials to reach; null: the study's own budget
    hours: float | None = None  # limit of all trials' hours together; null: the study's own
    workers: int | None = None  # trials at the same time of this runner; null: the study's own
    executor: str = "local"  # local | ray | submitit: where a trial's process is started
    cpus: int | None = None  # cores of a trial, for ray or submitit; null: a local trial's threads
    gpus: float | None = None  # GPUs of a trial, for ray or submitit; null: none
    cluster: str | None = None  # with dry_run: simulated nodes x GPUs of each, as 8x8
    submitit: dict[str, Any] = field(default_factory=dict)  # more parameters of its AutoExecutor
    timeout: float | None = None  # minutes a trial may take; null: the study's own
    memory: float | None = None  # GiB a trial's processes may hold; null: the study's own
    max_failures: int | None = None  # failed trials in a row that end the sweep; null: the study's
    retries: int = 1  # how often a trial whose process died is run again
    grace: float = 60.0  # seconds without a heartbeat until another runner takes a trial over
    new: bool = False  # begin beside an unfinished study of the same name and other content
    reuse: bool = True  # take finished runs of the same config and seed instead of running again
    config_dir: str | None = None  # folder of your own configs, which the trials search first
    name: str = MISSING  # registered model
    promote: bool = False  # hand the chosen model to the gate
    train: list[str] = field(default_factory=list)  # arena: more overrides of every training
    evaluate: list[str] = field(default_factory=list)  # arena: more overrides of every evaluation
    retrain_seeds: int = 0  # fresh seeds to train the chosen config with; 0: take the trial's model

    def __post_init__(self) -> None:
        one_of("sweep.executor", self.executor, ("local", "ray", "submitit"))
        if self.executor == "local" and (self.cpus or self.gpus or self.submitit):
            raise UserError(
                "sweep.cpus, sweep.gpus and sweep.submitit are asked of a scheduler: give "
                "sweep.executor=ray or submitit, or leave them out"
            )
        for name in ("trials", "workers", "max_failures", "cpus"):
            at_least(f"sweep.{name}", getattr(self, name), 1)
        for name in ("hours", "timeout", "memory", "gpus"):
            above(f"sweep.{name}", getattr(self, name), 0)
        at_least("sweep.retries", self.retries, 0)
        at_least("sweep.retrain_seeds", self.retrain_seeds, 0)
        at_least("sweep.grace", self.grace, 2)
        if self.name != MISSING and (not self.name or set(self.name) & set("/:.%\"'")):
            raise UserError(
                f"sweep.name='{self.name}' cannot name a registered model: use letters, digits, - "
                "and _"
            )


@dataclass
class SweepConfig:
    """``python -m tbr_lightning.sweep``."""

    study: str = "smoke"  # a file in sweeps/, or a path
    model_uri: str | None = None  # model of an arena, given as model=: in conf/model/, or a folder
    storage: str = MISSING  # Optuna's storage URL
    dry_run: bool = False  # compose every corner, report the cost, run nothing
    sweep: SweepSettings = field(default_factory=SweepSettings)
    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING
