"""A study file: search space over Hydra overrides, objectives, constraints, sampler, budget."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import shipped
from tbr_lightning.config.quoting import is_text
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import UserError, above, at_least, first_line, near, one_of
from tbr_lightning.tuning import space as spaces
from tbr_lightning.tuning.sampling import check_pruner, check_sampler
from tbr_lightning.tuning.space import Parameter, overrides_of

IDENTITY = (
    "fixed",
    "space",
    "brings",
    "evaluate",
    "objectives",
    "constraints",
    "sampler",
    "pruner",
    "seed",
    "seeds",
)
"""Keys that make a study this one: its trials could not stand beside those of other values."""

_REPORTED = {
    "validation/loss": "minimize",
    "probe/false_refusal_rate": "minimize",
    "probe/harmful_compliance_rate": "minimize",
    "probe/general_accuracy": "maximize",
    "probe/unparsed_share": "minimize",
}
"""Which way is better of what training can report to a pruner."""

_NOT_OF_THE_FILE = {"omegaconf_ignore": True}


@dataclass(frozen=True)
class Constraint:
    """A bound that a metric must keep; ``op`` is ``<=`` or ``>=``."""

    metric: str
    op: str
    bound: float

    def excess(self, value: float) -> float:
        """Return by how much a value violates the bound; at most 0 where it keeps it."""
        return value - self.bound if self.op == "<=" else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.bound:g}"


EXPECTED = ("lower", "not_higher", "not_lower", "falls_with_size")


@dataclass
class Hypothesis:
    """A claim about a study's arms that its end answers with yes, no, or not shown.

    Models are the units of the test: each gives one value, the mean over its trials.
    """

    about: str = ""
    metric: str = ""
    of: dict[str, Any] = field(default_factory=dict)  # values of the space: one arm
    than: dict[str, Any] = field(default_factory=dict)  # and the arm that it is compared to
    expect: str = "lower"  # than the other arm; falls_with_size compares models of one arm
    margin: float = 0.0  # tolerance of not_higher and not_lower

    def check(self, where: str, space: Mapping[str, Parameter]) -> None:
        """Raise a UserError where it names what the space does not have."""
        one_of(f"{where}.expect", self.expect, EXPECTED)
        if not self.metric:
            raise UserError(f"{where}.metric is missing: name what training or evaluation logs")
        if (self.expect == "falls_with_size") == bool(self.than):
            raise UserError(
                f"{where}: expect={self.expect} "
                + ("compares models: leave out than" if self.than else "needs than: {KEY: VALUE}")
            )
        for name, values in (("of", self.of), ("than", self.than)):
            for key, value in values.items():
                one_of(f"{where}.{name}", key, space)
                if space[key].choices and value not in space[key].choices:
                    raise UserError(
                        f"{where}.{name}: {key} is never {value}"
                        f"{near(str(value), map(str, space[key].choices))}"
                    )


@dataclass
class Study:
    """A study as its file describes it; the head of ``sweeps/smoke.yaml`` explains the keys."""

    about: str = ""
    fixed: list[str] = field(default_factory=list)  # overrides of every training run
    space: dict[str, Parameter] = field(default_factory=dict)
    brings: dict[str, dict[str, list[str]]] = field(
        default_factory=dict
    )  # KEY: {CHOICE: overrides}
    evaluate: list[str] = field(default_factory=list)  # overrides of every evaluation
    objectives: dict[str, str] = field(default_factory=dict)  # minimize or maximize, per metric
    constraints: list[str] = field(default_factory=list)
    sampler: Any = "tpe"  # a name, or a mapping of name and Optuna's settings; the latter from here
    pruner: Any = None
    trials: int = 0  # finished trials to reach; a grid ends with its last point
    hours: float | None = None  # hours of all trials together, after which none is started
    seeds: int = 1  # training runs per trial
    workers: int = 1  # trials at the same time on one machine
    seed: int = 0  # seed of the sampler, and first seed of every trial
    max_failures: int = 5  # failed trials in a row that end the study
    timeout: float | None = None  # minutes that a trial may take
    memory: float | None = None  # GiB that the processes of a trial may hold together
    groups: list[str] = field(default_factory=list)  # keys of the space, for tables and figures
    hypotheses: list[Hypothesis] = field(default_factory=list)  # that the end of the study answers
    name: str = field(default="", metadata=_NOT_OF_THE_FILE)
    settings: Mapping[str, Any] = field(default_factory=dict, metadata=_NOT_OF_THE_FILE)  # as it is

    def __post_init__(self) -> None:
        for key in ("space", "objectives"):
            if not getattr(self, key):
                raise UserError(f"'{key}' is missing: see sweeps/smoke.yaml")
        spaces.check_space(self.space)
        for metric, goal in self.objectives.items():
            one_of(f"objectives.{metric}", str(goal), ("minimize", "maximize"))
        for key in ("seeds", "workers", "max_failures"):
            at_least(key, getattr(self, key), 1)
        at_least("seed", self.seed, 0)
        for key in ("hours", "timeout", "memory"):
            above(key, getattr(self, key), 0)
        self._check_what_names_the_space()
        if self.seeds > 1 and "seed" in self.space:
            raise UserError(f"seeds={self.seeds} and space.seed contradict each other: give one")
        self.sampler = _named("sampler", self.sampler)
        bounded = bool(self.bounds)
        check_sampler(self.sampler, self.space, len(self.objectives), constrained=bounded)
        if self.pruner is not None:
            self.pruner = _named("pruner", self.pruner)
            check_pruner(self.pruner, len(self.objectives), self.seeds)
        if self.sampler["name"] == "grid":
            points = len(spaces.cells(self.space))
            self.trials = min(self.trials or points, points)
        if self.trials < 1:
            raise UserError(f"trials={self.trials}: give the number of finished trials to reach")

    def _check_what_names_the_space(self) -> None:
        for key in self.groups:
            one_of("groups", key, self.space)
        for key, brought in self.brings.items():
            one_of("brings", key, self.space)
            for choice in brought:
                one_of(f"brings.{key}", choice, [str(one) for one in self.space[key].choices])
        for number, hypothesis in enumerate(self.hypotheses):
            hypothesis.check(f"hypotheses[{number}]", self.space)

    @cached_property
    def bounds(self) -> list[Constraint]:
        """The constraints that a chosen model must keep."""
        return [_constraint(text) for text in self.constraints]

    def overrides(self, point: Mapping[str, Any]) -> list[str]:
        """Return the overrides of training at a point: fixed, of its choices, its own."""
        brought = [
            word
            for key, by_choice in self.brings.items()
            for word in by_choice.get(str(point.get(key)), ())
        ]
        return [*self.fixed, *brought, *overrides_of(point)]

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies this study."""
        return {key: self.settings[key] for key in IDENTITY if key in self.settings}

    @property
    def key(self) -> str:
        """Name in the storage: another search space or objective is another study."""
        text = json.dumps(self.identity, sort_keys=True, default=str)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def reported(self) -> str | None:
        """Metric that training reports to the pruner; ``None`` if there is none."""
        if self.pruner is None or self.pruner["name"] == "wilcoxon":
            return None
        (objective,) = self.objectives
        return str(self.pruner.get("metric", f"probe/{objective}"))

    @property
    def reported_sign(self) -> float:
        """-1 where the reported number and the objective are better in opposite directions, else 1.

        Optuna's pruners compare what is reported in the direction of the objective.
        """
        ((objective, goal),) = self.objectives.items()
        own = self.reported in (None, objective, f"probe/{objective}")
        return 1.0 if own or _REPORTED.get(str(self.reported), goal) == goal else -1.0

    @property
    def first_seeds(self) -> list[int]:
        """The seeds of a trial's training runs."""
        return list(range(self.seed, self.seed + self.seeds))


def load_study(name: str, config_dir: str | None = None) -> tuple[Study, list[TrainConfig]]:
    """Read a study, and compose configs in which every choice and every end of a range occurs.

    Args:
        name: Name of a file in ``sweeps/``, or a path.
        config_dir: Folder of the user's own configs.

    Raises:
        UserError: The file is missing or malformed, or its keys are not overrides of ``train``.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped("sweeps") / f"{name}.yaml"
    if not path.is_file():
        there = [file.stem for file in shipped("sweeps").glob("*.yaml")]
        raise UserError(f"study='{name}' does not exist{near(name, there)}")
    study = read_study(path.stem, str(path), path.read_text(encoding="utf-8"))
    compose_verb("evaluate", ["model=tiny", *study.evaluate], config_dir)
    return study, [compose_train(study, point, config_dir) for point in spaces.cover(study.space)]


def compose_train(
    study: Study, point: Mapping[str, Any], config_dir: str | None = None
) -> TrainConfig:
    """Compose the training config of a point.

    Raises:
        UserError: A key is misspelt, or a value does not fit.
    """
    config: TrainConfig = compose_verb("train", study.overrides(point), config_dir).config
    return config


def read_study(name: str, path: str, text: str) -> Study:
    """Read the text of a study file, without composing any config.

    Raises:
        UserError: It is malformed, or parts of it do not go together.
    """
    try:
        found = yaml.safe_load(text)
        typed = yaml.load(text, Loader=yaml.BaseLoader)  # every scalar as a text
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {first_line(error, None)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a mapping: see sweeps/smoke.yaml")
    _keep_texts(found.get("space"), typed.get("space"))
    try:
        node = OmegaConf.merge(OmegaConf.structured(Study), _literal(found))
        study = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_sentence(error)}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    assert isinstance(study, Study)
    study.name, study.settings = name, found
    return study


def _keep_texts(space: Any, typed: Any) -> None:
    """Give the choices of settings of type text as they were typed: YAML reads 2024_05 as 202405.

    Args:
        space: Search space as YAML reads it; changed in place.
        typed: The same with every value as text.
    """
    if not isinstance(space, dict) or not isinstance(typed, dict):
        return
    for key, one in space.items():
        texts = typed.get(key)
        if not isinstance(one, dict) or not isinstance(texts, dict):
            continue
        _keep_listed(one, "choices", texts, key)
        when = one.get("when")
        if isinstance(when, dict):
            for other in when:
                _keep_listed(when, other, texts.get("when"), other)


def _keep_listed(values: dict[Any, Any], name: Any, typed: Any, key: Any) -> None:
    listed, texts = values.get(name), typed.get(name) if isinstance(typed, dict) else None
    if not isinstance(key, str) or not is_text(TrainConfig, key):
        return
    if isinstance(listed, list) and isinstance(texts, list):
        pairs = zip(listed, texts, strict=True)
        values[name] = [
            value if value is None or isinstance(value, list | dict) else text
            for value, text in pairs
        ]
    elif listed is not None and isinstance(texts, str):
        values[name] = texts


def _literal(node: Any) -> Any:
    """Escape what OmegaConf would resolve: ``${…}`` is meant for the configs of the trials."""
    if isinstance(node, dict):
        return {key: _literal(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_literal(value) for value in node]
    return node.replace("${", "\\${") if isinstance(node, str) else node


def _sentence(error: OmegaConfBaseException) -> str:
    """Return OmegaConf's error in one sentence, with the near match of a misspelt key."""
    first, key = first_line(error, None).rstrip("."), str(error.full_key)
    schema = error.object_type
    if isinstance(error, ConfigKeyError) and is_dataclass(schema):
        known = [one.name for one in fields(schema) if "omegaconf_ignore" not in one.metadata]
        return f"'{key}' is not a key of a study{near(str(error.key), known)}"
    return f"{key}: {first}" if key else first


def _constraint(text: str) -> Constraint:
    match = re.fullmatch(r"\s*(\S+)\s*(<=|>=)\s*(\S+)\s*", text)
    try:
        if match is None:
            raise ValueError
        return Constraint(match[1], match[2], float(match[3]))
    except ValueError as error:
        raise UserError(
            f"constraints: '{text}' cannot be read: write METRIC <= NUMBER or METRIC >= NUMBER"
        ) from error


def _named(key: str, found: Any) -> dict[str, Any]:
    named = {"name": found} if isinstance(found, str) else found
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise UserError(f"{key}={found!r} names nothing: write {{name: …}}")
    return dict(named)
