"""Samplers, whose proposals depend on the seed and the finished trials alone."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from optuna import pruners, samplers
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from tbr_lightning.errors import UserError, near, one_of
from tbr_lightning.tuning.space import Space

CONSTRAINTS = "constraints"
"""User attribute of a trial: how far it breaks each constraint; at most 0 is kept."""

_SAMPLERS = {
    "tpe": "TPESampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "grid": "RandomSampler",  # whose points are all fixed beforehand
    "random": "RandomSampler",
    "qmc": "QMCSampler",
}
_PRUNERS = {
    "median": "MedianPruner",
    "hyperband": "HyperbandPruner",
    "wilcoxon": "WilcoxonPruner",
}
_OURS = (
    "seed",
    "constraints_func",
    "independent_sampler",
    "warn_independent_sampling",
    "warn_asynchronous_seeding",
)
"""Settings of Optuna's samplers that a study file has no say in."""


def check_sampler(
    settings: Mapping[str, Any], space: Space, objectives: int, *, constrained: bool
) -> None:
    """Refuse a sampler that is not known or does not go with the rest of a study.

    Raises:
        UserError: It is refused; the message says what to use instead.
    """
    name = settings["name"]
    one_of("sampler", name, _SAMPLERS)
    _check_settings(f"sampler={name}", settings, getattr(samplers, _SAMPLERS[name]))
    if name in ("qmc", "cmaes", "gp") and any(one.when for one in space.values()):
        raise UserError(
            f"sampler={name} needs the same parameters in every trial and the space has "
            "conditions (when): use sampler=tpe, or grid or random"
        )
    if name != "cmaes":
        return
    if objectives > 1:
        raise UserError(
            f"sampler=cmaes takes one objective and there are {objectives}: use sampler=tpe, "
            "nsga2 or gp"
        )
    if importlib.util.find_spec("cmaes") is None:
        raise UserError(
            "sampler=cmaes needs the package cmaes: pip install cmaes, or use sampler=tpe"
        )
    if all(one.choices for one in space.values()):
        raise UserError(
            "sampler=cmaes supports numbers only and the space has choices only: use sampler=tpe"
        )
    if constrained:
        raise UserError("sampler=cmaes does not support constraints: use tpe, nsga2, nsga3 or gp")


def check_pruner(settings: Mapping[str, Any], objectives: int, seeds: int) -> None:
    """Refuse a pruner that is not known or does not go with the rest of a study.

    Raises:
        UserError: It is refused; the message says what to do instead.
    """
    name = settings["name"]
    one_of("pruner", name, _PRUNERS)
    if objectives > 1:
        raise UserError(
            f"pruner={name} compares one number and there are {objectives} objectives: "
            "leave pruner out, or keep one objective and write the others as constraints"
        )
    if name == "wilcoxon" and "metric" in settings:
        raise UserError("pruner=wilcoxon compares the answers to each prompt: leave metric out")
    if name == "wilcoxon" and seeds < 2:
        raise UserError(
            f"pruner=wilcoxon decides after each seed of a trial, and seeds={seeds}: give seeds: "
            "2 or more"
        )
    rest = {key: value for key, value in settings.items() if key != "metric"}
    _check_settings(f"pruner={name}", rest, getattr(pruners, _PRUNERS[name]))


def _check_settings(where: str, settings: Mapping[str, Any], kind: Callable[..., object]) -> None:
    known = [name for name in inspect.signature(kind).parameters if name not in _OURS]
    for key in settings:
        if key != "name" and key not in known:
            raise UserError(f"{where}: '{key}' is not one of its settings{near(key, known)}")


def make_sampler(settings: Mapping[str, Any], seed: int, index: int) -> BaseSampler:
    """Return the sampler for the proposal after ``index`` others, those of all runners counted.

    Its randomness comes from the study's seed and the proposal's index alone, and what it has
    taken from the storage alone: a resumed study goes on as an uninterrupted one would have.
    With several workers the proposals depend on which trials have finished by then.

    Raises:
        UserError: Optuna refuses the settings.
    """
    name = settings["name"]
    given: dict[str, Any] = {key: value for key, value in settings.items() if key != "name"}
    # The points of a quasi-random sequence are counted in the storage; its seed shuffles them all.
    own = (
        seed
        if name == "qmc"
        else int(hashlib.sha256(f"{seed}/{index}".encode()).hexdigest()[:8], 16)
    )
    if name in ("gp", "cmaes", "qmc"):
        independent = samplers.RandomSampler(seed=own)
        given |= {"independent_sampler": independent, "warn_independent_sampling": False}
    if name == "qmc":
        given["warn_asynchronous_seeding"] = False
    try:
        made: BaseSampler = getattr(samplers, _SAMPLERS[name])(seed=own, **given)
    except (TypeError, ValueError) as error:
        raise UserError(f"sampler={name}: {' '.join(str(error).split())}") from error
    return made


def make_pruner(settings: Mapping[str, Any] | None) -> BasePruner:
    """Return Optuna's pruner.

    Raises:
        UserError: Optuna refuses the settings.
    """
    if settings is None:
        return pruners.NopPruner()
    given = {key: value for key, value in settings.items() if key not in ("name", "metric")}
    try:
        made: BasePruner = getattr(pruners, _PRUNERS[settings["name"]])(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"pruner={settings['name']}: {' '.join(str(error).split())}") from error
    return made
