"""A study file: search space over Hydra overrides, objectives, budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tbr_lightning.config.compose import compose_verb, shipped
from tbr_lightning.errors import UserError, near, one_of


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        name: Of the file.
        fixed: Overrides of every training run.
        space: Distribution per override key.
        evaluate: Overrides of every evaluation.
        objectives: ``minimize`` or ``maximize`` per metric name.
        trials: Finished trials to reach.
        seed: Of the sampler and of every trial.
        about: One line for people.
    """

    name: str
    fixed: list[str]
    space: dict[str, BaseDistribution]
    evaluate: list[str]
    objectives: dict[str, str]
    trials: int
    seed: int = 0
    about: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name in the storage: another search space or objective is another study."""
        core = {k: v for k, v in self.settings.items() if k not in ("trials", "about")}
        digest = hashlib.sha256(json.dumps(core, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.name}-{digest}"


def load_study(name: str) -> Study:
    """Read a study by the name of a file in ``sweeps/``, or by a path.

    Raises:
        UserError: The file is missing or malformed, or its keys are no overrides of ``train``.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped("sweeps") / f"{name}.yaml"
    if not path.is_file():
        there = [file.stem for file in shipped("sweeps").glob("*.yaml")]
        raise UserError(f"study='{name}' does not exist{near(name, there)}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a mapping: see sweeps/smoke.yaml")
    needed = ("space", "objectives", "trials")
    known = {*needed, "fixed", "evaluate", "seed", "about"}
    for key in found:
        if key not in known:
            raise UserError(f"{path}: '{key}' is not a key of a study{near(key, known)}")
    for key in needed:
        if not found.get(key):
            raise UserError(f"{path}: '{key}' is missing: see sweeps/smoke.yaml")
    for metric, direction in found["objectives"].items():
        one_of(f"{path}: objectives.{metric}", direction, ("minimize", "maximize"))
    study = Study(
        name=path.stem,
        fixed=list(found.get("fixed", [])),
        space={key: _distribution(path, key, spec) for key, spec in found["space"].items()},
        evaluate=list(found.get("evaluate", [])),
        objectives=dict(found["objectives"]),
        trials=int(found["trials"]),
        seed=int(found.get("seed", 0)),
        about=str(found.get("about", "")),
        settings=found,
    )
    _check_composes(study)
    return study


def overrides_of(params: Mapping[str, Any]) -> list[str]:
    """Return a trial's parameters as overrides."""
    return [f"{key}={value}" for key, value in params.items()]


def _distribution(path: Path, key: str, spec: Any) -> BaseDistribution:
    where = f"{path}: space.{key}"
    if not isinstance(spec, dict):
        raise UserError(f"{where}: give {{choices: […]}} or {{low: …, high: …}}")
    try:
        if "choices" in spec:
            return CategoricalDistribution(spec["choices"])
        # YAML 1.1 reads 1e-4 as text.
        low, high = (_number(spec[end]) for end in ("low", "high"))
        step, log = spec.get("step"), bool(spec.get("log", False))
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log, step=step or 1)
        return FloatDistribution(low, high, log=log, step=step)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: {error}: give {{choices: […]}} or {{low, high, step, log}}"
        ) from error


def _number(value: Any) -> int | float:
    return value if isinstance(value, int | float) else float(value)


def _check_composes(study: Study) -> None:
    """Compose both ends of the space, so that a misspelt key is told before the first trial."""
    for end in (0, -1):
        params = {}
        for key, distribution in study.space.items():
            if isinstance(distribution, CategoricalDistribution):
                params[key] = distribution.choices[end]
            elif isinstance(distribution, IntDistribution | FloatDistribution):
                params[key] = (distribution.low, distribution.high)[end]
        compose_verb("train", [*study.fixed, *overrides_of(params)])
    compose_verb("evaluate", ["model=tiny", *study.evaluate])


def open_study(study: Study, storage: str) -> optuna.Study:
    """Create the study in the storage, or load what is there of it.

    Raises:
        UserError: The storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).absolute().parent.mkdir(
            parents=True, exist_ok=True
        )
    try:
        return optuna.create_study(
            storage=storage,
            study_name=study.key,
            directions=list(study.objectives.values()),
            sampler=optuna.samplers.TPESampler(seed=study.seed),
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy's and the drivers' many kinds
        first = str(error).strip().splitlines()[0]
        raise UserError(f"storage='{storage}' cannot be used: {first}") from error
