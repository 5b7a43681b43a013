"""The folder of one trial: all that its process needs, and all that it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.data.cache import write_whole
from tbr_lightning.tuning.space import Value

_SPEC, _RESULT, _LOG = "trial.json", "result.json", "log.txt"


@dataclass(frozen=True)
class Spec:
    """Instructions for a trial's process; no secrets, since it stays on disk."""

    entry: str  # ``module:function`` that runs the trial
    study: str  # key of the study
    number: int  # number of the trial
    point: Mapping[str, Value]  # values that it tries
    overrides: list[str]  # overrides of its training runs, without the seed
    seeds: list[int]  # one training run each
    metrics: list[str] = field(default_factory=list)  # metrics that must exist at the end
    metric: str | None = None  # metric that training reports to a pruner, if there is one
    blocks: bool = False  # report each seed to a pruner prompt by prompt
    parent_run: str = ""  # MLflow run of the study; empty where a trial has none of its own
    ranks: int = 1  # processes of its training
    threads: int | None = None  # threads of the trial on a CPU
    device: str | None = None  # the GPUs it has to itself, as CUDA names them
    reuse: bool = True  # reuse finished runs of the same config and seed
    again: bool = False  # it was started before


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial."""

    state: (
        str  # ``complete``, ``pruned``, ``failed``, ``interrupted``, or ``outage`` of the tracker
    )
    reason: str = ""  # reason of any state but ``complete``
    metrics: dict[str, float] = field(default_factory=dict)  # mean over seeds of every number
    intervals: dict[str, list[float]] = field(default_factory=dict)  # 95%, of those that have one
    runs: list[dict[str, Any]] = field(default_factory=list)  # one for each seed
    config_key: str = ""  # key of the resolved configs
    seconds: float = 0.0  # duration of the trial, reused results included


def trials_root(paths: PathsConfig, study: str) -> Path:
    """Return the folder of the trials' folders of a study, by its key."""
    return Path(paths.runs).absolute() / "sweeps" / study


class TrialFolder:
    """The files of a trial, by their purpose."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """Log file of the trial's processes."""
        return self.path / _LOG

    def begin(self, spec: Spec) -> None:
        """Write the instructions for the trial's process; delete an earlier result."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _RESULT).unlink(missing_ok=True)
        _write(self.path / _SPEC, asdict(spec))

    def spec(self) -> Spec:
        """Return what :meth:`begin` wrote."""
        return Spec(**json.loads((self.path / _SPEC).read_text("utf-8")))

    def finish(self, result: TrialResult) -> None:
        """Write the result."""
        _write(self.path / _RESULT, asdict(result))

    def result(self) -> TrialResult | None:
        """Return the result, or ``None`` if there is none."""
        try:
            return TrialResult(**json.loads((self.path / _RESULT).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def last_words(self) -> str:
        """Return the last line of the log that is not empty."""
        try:
            with self.log.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(file.tell() - 4000, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1, default=str))
