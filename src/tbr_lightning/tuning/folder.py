"""The folder of one trial: all that its process needs, and all that it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tbr_lightning.tuning.space import Value

_SPEC, _RESULT, _LOG = "trial.json", "result.json", "log.txt"


@dataclass(frozen=True)
class Spec:
    """What a trial's process is told; no secrets, since it stays on disk.

    Attributes:
        entry: ``module:function`` that runs the trial.
        study: Key of the study.
        number: Of the trial.
        point: What it tries.
        overrides: Of its training runs, without the seed.
        seeds: One training run each.
        metrics: Names that must be there in the end.
        metric: That training reports while it runs, for a pruner; ``None`` reports nothing.
        blocks: Each seed is reported prompt by prompt, for a pruner that compares prompts.
        parent_run: MLflow run of the study, if it is mirrored.
        ranks: Processes of its training.
        threads: Of the trial on a CPU.
        device: Number of the GPU it has to itself, where workers share several.
        reuse: Finished runs of the same config and seed are taken.
        again: It was begun before.
    """

    entry: str
    study: str
    number: int
    point: Mapping[str, Value]
    overrides: list[str]
    seeds: list[int]
    metrics: list[str] = field(default_factory=list)
    metric: str | None = None
    blocks: bool = False
    parent_run: str | None = None
    ranks: int = 1
    threads: int | None = None
    device: int | None = None
    reuse: bool = True
    again: bool = False


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
        state: ``complete``, ``pruned``, ``failed`` or ``interrupted``.
        reason: Of anything but ``complete``.
        metrics: Mean over seeds of every number.
        intervals: 95% interval of those that have one, over seeds and prompts.
        runs: What was run for each seed, or taken from earlier.
        config_key: Of the resolved configs.
        seconds: Of the trial, taken results included.
    """

    state: str
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    config_key: str = ""
    seconds: float = 0.0


class TrialFolder:
    """Files by their meaning."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """What the trial's processes print."""
        return self.path / _LOG

    def begin(self, spec: Spec) -> None:
        """Write what the trial's process is told; forget how an earlier attempt ended."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _RESULT).unlink(missing_ok=True)
        _write(self.path / _SPEC, asdict(spec))

    def spec(self) -> Spec:
        """Return what :meth:`begin` wrote."""
        return Spec(**json.loads((self.path / _SPEC).read_text()))

    def finish(self, result: Result) -> None:
        """Write how it ended."""
        _write(self.path / _RESULT, asdict(result))

    def result(self) -> Result | None:
        """Return how it ended, or ``None`` if it did not say."""
        try:
            return Result(**json.loads((self.path / _RESULT).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def last_words(self) -> str:
        """Return the last line of the log that says something."""
        try:
            with self.log.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(file.tell() - 4000, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1, default=str))
    partial.replace(path)
