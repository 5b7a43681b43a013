"""A study file: search space over Hydra overrides, objectives, constraints, sampler, budget."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tbr_lightning.config.compose import compose_verb, shipped
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError, near, one_of
from tbr_lightning.tuning.sampling import check_pruner, check_sampler
from tbr_lightning.tuning.space import Space, overrides_of
from tbr_lightning.tuning.space_file import parse_space

_NEEDED = ("space", "objectives")
_KNOWN = (
    *_NEEDED,
    "about",
    "fixed",
    "evaluate",
    "constraints",
    "sampler",
    "pruner",
    "trials",
    "hours",
    "seeds",
    "workers",
    "seed",
    "max_failures",
    "timeout",
    "memory",
    "groups",
)
IDENTITY = (
    "fixed",
    "space",
    "evaluate",
    "objectives",
    "constraints",
    "sampler",
    "pruner",
    "seed",
    "seeds",
)
"""Keys that make a study this one: its trials could not stand beside those of other values."""


@dataclass(frozen=True)
class Constraint:
    """A bound that a metric must keep.

    Attributes:
        metric: Name.
        op: ``<=`` or ``>=``.
        bound: Number.
    """

    metric: str
    op: str
    bound: float

    def excess(self, value: float) -> float:
        """Return by how much a value breaks the bound; at most 0 where it keeps it."""
        return value - self.bound if self.op == "<=" else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.bound:g}"


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        name: Of the file.
        about: One line for people.
        fixed: Overrides of every training run.
        space: What is searched.
        evaluate: Overrides of every evaluation.
        objectives: ``minimize`` or ``maximize`` per metric name.
        constraints: Bounds that a chosen model must keep.
        sampler: ``name`` and settings of what proposes points.
        pruner: ``name`` and settings of what ends hopeless trials early, if anything does.
        trials: Finished trials to reach.
        hours: Of all trials added up, after which none is begun.
        seeds: Training runs per trial.
        workers: Trials at the same time on one machine.
        seed: Of the sampler, and the first of every trial.
        max_failures: Failed trials in a row that end the study.
        timeout: Minutes that a trial may take.
        memory: GiB that the processes of a trial may hold together.
        groups: Keys of the space that tables and figures are grouped by.
        settings: The file as it is.
    """

    name: str
    about: str
    fixed: list[str]
    space: Space
    evaluate: list[str]
    objectives: dict[str, str]
    constraints: list[Constraint]
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any] | None
    trials: int
    hours: float | None = None
    seeds: int = 1
    workers: int = 1
    seed: int = 0
    max_failures: int = 5
    timeout: float | None = None
    memory: float | None = None
    groups: list[str] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this study and no other."""
        return {key: self.settings[key] for key in IDENTITY if key in self.settings}

    @property
    def key(self) -> str:
        """Name in the storage: another search space or objective is another study."""
        text = json.dumps(self.identity, sort_keys=True, default=str)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def first_seeds(self) -> list[int]:
        """The seeds of a trial's training runs."""
        return list(range(self.seed, self.seed + self.seeds))


def load_study(name: str, config_dir: str | None = None) -> Study:
    """Read a study by the name of a file in ``sweeps/``, or by a path; see :func:`load_checked`."""
    return load_checked(name, config_dir)[0]


def load_checked(name: str, config_dir: str | None = None) -> tuple[Study, list[TrainConfig]]:
    """Read a study, and compose configs in which every choice and every end of a range stands.

    Raises:
        UserError: The file is missing or malformed, or its keys are no overrides of ``train``.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped("sweeps") / f"{name}.yaml"
    if not path.is_file():
        there = [file.stem for file in shipped("sweeps").glob("*.yaml")]
        raise UserError(f"study='{name}' does not exist{near(name, there)}")
    study = read_study(path.stem, str(path), path.read_text(encoding="utf-8"))
    return study, check_composes(study, study.space.cover(), config_dir)


def read_study(name: str, path: str, text: str) -> Study:
    """Read the text of a study file, without composing any config.

    Raises:
        UserError: It is malformed, or parts of it do not go together.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a mapping: see sweeps/smoke.yaml")
    for key in found:
        if key not in _KNOWN:
            raise UserError(f"{path}: '{key}' is not a key of a study{near(str(key), _KNOWN)}")
    for key in _NEEDED:
        if not found.get(key):
            raise UserError(f"{path}: '{key}' is missing: see sweeps/smoke.yaml")
    space = parse_space(path, found["space"])
    objectives = _objectives(path, found["objectives"])
    sampler = _named(path, "sampler", found.get("sampler", "tpe"))
    pruner = None if found.get("pruner") is None else _named(path, "pruner", found["pruner"])
    seed, seeds = _whole(path, found, "seed", 0, low=0), _whole(path, found, "seeds", 1)
    check_sampler(path, sampler, space, len(objectives), constrained=bool(found.get("constraints")))
    if pruner is not None:
        check_pruner(path, pruner, len(objectives), seeds)
    if seeds > 1 and any(one.key == "seed" for one in space.parameters):
        raise UserError(f"{path}: seeds={seeds} and space.seed contradict each other: give one")
    keys = [one.key for one in space.parameters]
    groups = _words(path, found, "groups")
    for key in groups:
        one_of(f"{path}: groups", key, keys)
    return Study(
        name=name,
        about=str(found.get("about", "")),
        fixed=_words(path, found, "fixed"),
        space=space,
        evaluate=_words(path, found, "evaluate"),
        objectives=objectives,
        constraints=[_constraint(path, text) for text in _words(path, found, "constraints")],
        sampler=sampler,
        pruner=pruner,
        trials=_trials(path, found, sampler, space),
        hours=_positive(path, found, "hours"),
        seeds=seeds,
        workers=_whole(path, found, "workers", 1),
        seed=seed,
        max_failures=_whole(path, found, "max_failures", 5),
        timeout=_positive(path, found, "timeout"),
        memory=_positive(path, found, "memory"),
        groups=groups,
        settings=found,
    )


def check_composes(
    study: Study,
    points: Sequence[Mapping[str, Any]],
    config_dir: str | None,
    *,
    evaluation: bool = True,
) -> list[TrainConfig]:
    """Compose the training config of points, and the evaluation's; return the former.

    Raises:
        UserError: A key is misspelt, or a value does not fit.
    """
    found = [
        compose_verb("train", [*study.fixed, *overrides_of(point)], config_dir).config
        for point in points
    ]
    if evaluation:
        compose_verb("evaluate", ["model=tiny", *study.evaluate], config_dir)
    return found


def _objectives(path: str, found: Any) -> dict[str, str]:
    if not isinstance(found, dict):
        raise UserError(f"{path}: objectives must be a mapping: write {{METRIC: minimize}}")
    for metric, direction in found.items():
        one_of(f"{path}: objectives.{metric}", str(direction), ("minimize", "maximize"))
    return {str(metric): str(direction) for metric, direction in found.items()}


def _constraint(path: str, text: str) -> Constraint:
    match = re.fullmatch(r"\s*(\S+)\s*(<=|>=)\s*(\S+)\s*", text)
    try:
        if match is None:
            raise ValueError
        return Constraint(match[1], match[2], float(match[3]))
    except ValueError as error:
        raise UserError(
            f"{path}: constraints: '{text}' cannot be read: write METRIC <= NUMBER or "
            "METRIC >= NUMBER"
        ) from error


def _named(path: str, key: str, found: Any) -> dict[str, Any]:
    named = {"name": found} if isinstance(found, str) else found
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise UserError(f"{path}: {key}={found!r} names nothing: write {{name: …}}")
    return dict(named)


def _words(path: str, found: Mapping[str, Any], key: str) -> list[str]:
    words = found.get(key) or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{path}: {key} must be a list of texts: write {key}: [A, B]")
    return list(words)


def _whole(path: str, found: Mapping[str, Any], key: str, default: int, low: int = 1) -> int:
    value = found.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{path}: {key}={value} must be a whole number of at least {low}")
    return value


def _positive(path: str, found: Mapping[str, Any], key: str) -> float | None:
    value = found.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{path}: {key}={value} must be a number above 0")
    return float(value)


def _trials(path: str, found: Mapping[str, Any], sampler: Mapping[str, Any], space: Space) -> int:
    """Return the budget; a grid ends with its last point."""
    if sampler["name"] != "grid":
        if "trials" not in found:
            raise UserError(f"{path}: 'trials' is missing: see sweeps/smoke.yaml")
        return _whole(path, found, "trials", 1)
    cells = len(space.cells())
    return min(_whole(path, found, "trials", cells), cells)
