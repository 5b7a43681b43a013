"""Who proposes points, in a sequence that only the seed and the finished trials decide."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tbr_lightning.errors import UserError, near, one_of
from tbr_lightning.tuning.space import Space, Value

if TYPE_CHECKING:
    import optuna

CONSTRAINTS = "constraints"
"""User attribute of a trial: how far it breaks each constraint; at most 0 is kept."""

SAMPLERS: Mapping[str, tuple[str, ...]] = {
    "tpe": ("n_startup_trials", "n_ei_candidates", "multivariate", "group"),
    "nsga2": ("population_size", "mutation_prob", "crossover_prob", "swapping_prob"),
    "nsga3": (
        "population_size",
        "mutation_prob",
        "crossover_prob",
        "swapping_prob",
        "dividing_parameter",
    ),
    "gp": ("n_startup_trials", "deterministic_objective"),
    "cmaes": ("n_startup_trials", "sigma0", "popsize", "with_margin", "use_separable_cma"),
    "grid": (),
    "random": (),
    "qmc": ("qmc_type", "scramble"),
}
"""Settings that each sampler takes, under Optuna's names."""

PRUNERS: Mapping[str, tuple[str, ...]] = {
    "median": ("n_startup_trials", "n_warmup_steps", "interval_steps", "n_min_trials"),
    "hyperband": ("min_resource", "max_resource", "reduction_factor", "bootstrap_count"),
    "wilcoxon": ("p_threshold", "n_startup_steps"),
}
"""Settings that each pruner takes beside ``metric``."""

_CONSTRAINED = ("tpe", "nsga2", "nsga3", "gp")


def check_sampler(
    where: str, settings: Mapping[str, Any], space: Space, objectives: int, *, constrained: bool
) -> None:
    """Refuse a sampler that is not known or does not go with the rest of a study.

    Raises:
        UserError: With what to use instead.
    """
    name = settings["name"]
    one_of(f"{where}: sampler", name, SAMPLERS)
    _check_settings(f"{where}: sampler={name}", settings, SAMPLERS[name])
    if name == "grid":
        space.cells()
    if name in ("qmc", "cmaes", "gp") and space.conditional:
        raise UserError(
            f"{where}: sampler={name} needs the same parameters in every trial and the space has "
            "conditions (when): use sampler=tpe, or grid or random"
        )
    if name == "cmaes":
        if objectives > 1:
            raise UserError(
                f"{where}: sampler=cmaes takes one objective and there are {objectives}: use "
                "sampler=tpe, nsga2 or gp"
            )
        if importlib.util.find_spec("cmaes") is None:
            raise UserError(
                f"{where}: sampler=cmaes needs the package cmaes: pip install cmaes, or use "
                "sampler=tpe"
            )
        if not any(one.values() is None or not one.choices for one in space.parameters):
            raise UserError(
                f"{where}: sampler=cmaes knows numbers only and the space has choices only: use "
                "sampler=tpe"
            )
    if constrained and name == "cmaes":
        raise UserError(
            f"{where}: sampler=cmaes does not know constraints: use one of "
            f"{', '.join(_CONSTRAINED)}"
        )


def check_pruner(where: str, settings: Mapping[str, Any], objectives: int, seeds: int) -> None:
    """Refuse a pruner that is not known or does not go with the rest of a study.

    Raises:
        UserError: With what to do instead.
    """
    name = settings["name"]
    one_of(f"{where}: pruner", name, PRUNERS)
    rest = {key: value for key, value in settings.items() if key != "metric"}
    _check_settings(f"{where}: pruner={name}", rest, PRUNERS[name])
    if objectives > 1:
        raise UserError(
            f"{where}: pruner={name} compares one number and there are {objectives} objectives: "
            "leave pruner out, or keep one objective and write the others as constraints"
        )
    if name == "wilcoxon" and "metric" in settings:
        raise UserError(
            f"{where}: pruner=wilcoxon compares the answers to each prompt: leave metric out"
        )
    if name == "wilcoxon" and seeds < 2:
        raise UserError(
            f"{where}: pruner=wilcoxon decides after each seed of a trial, and seeds={seeds}: "
            "give seeds: 2 or more"
        )


def _check_settings(where: str, settings: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in settings:
        if key != "name" and key not in known:
            raise UserError(f"{where}: '{key}' is not one of its settings{near(key, known)}")


@dataclass(frozen=True)
class Draw:
    """Which of a study's proposals is wanted.

    Attributes:
        index: Number of proposals before it, those of other runners included.
        point: Fixed beforehand, on a grid.
    """

    index: int
    point: Mapping[str, Value] | None = None


def make_sampler(
    settings: Mapping[str, Any], seed: int, draw: Draw, constraints: int = 0
) -> optuna.samplers.BaseSampler:
    """Return the sampler for one proposal.

    Its randomness comes from the study's seed and the proposal's index alone, and what it has
    learnt from the storage alone: a resumed study goes on as an uninterrupted one would have.
    With several workers the proposals depend on which trials have finished by then.

    Raises:
        UserError: Optuna refuses the settings.
    """
    import optuna

    if draw.point is not None:
        return _fixed(draw.point)
    name = settings["name"]
    given: dict[str, Any] = {key: value for key, value in settings.items() if key != "name"}
    if constraints and name in _CONSTRAINED:
        given["constraints_func"] = kept_of(constraints)
    # The points of a quasi-random sequence are counted in the storage; its seed shuffles them all.
    own = (
        seed
        if name == "qmc"
        else int(hashlib.sha256(f"{seed}/{draw.index}".encode()).hexdigest()[:8], 16)
    )
    if name in ("gp", "cmaes", "qmc"):
        independent = optuna.samplers.RandomSampler(seed=own)
        given |= {"independent_sampler": independent, "warn_independent_sampling": False}
    if name == "qmc":
        given["warn_asynchronous_seeding"] = False
    kinds: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
        "tpe": optuna.samplers.TPESampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "nsga3": optuna.samplers.NSGAIIISampler,
        "gp": optuna.samplers.GPSampler,
        "cmaes": optuna.samplers.CmaEsSampler,
        "random": optuna.samplers.RandomSampler,
        "qmc": optuna.samplers.QMCSampler,
    }
    try:
        return kinds[name](seed=own, **given)
    except (TypeError, ValueError) as error:
        raise UserError(f"sampler={name}: {' '.join(str(error).split())}") from error


def kept_of(constraints: int) -> Callable[[optuna.trial.FrozenTrial], Sequence[float]]:
    """Return Optuna's function of a trial: by how much it breaks each constraint.

    A trial that was pruned before it was measured is taken to break none.
    """

    def kept(trial: optuna.trial.FrozenTrial) -> Sequence[float]:
        found = trial.user_attrs.get(CONSTRAINTS)
        return [float(value) for value in found] if found else [0.0] * constraints

    return kept


def make_pruner(settings: Mapping[str, Any] | None) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner.

    Raises:
        UserError: Optuna refuses the settings.
    """
    import optuna

    if settings is None:
        return optuna.pruners.NopPruner()
    kinds: dict[str, Callable[..., optuna.pruners.BasePruner]] = {
        "median": optuna.pruners.MedianPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "wilcoxon": optuna.pruners.WilcoxonPruner,
    }
    given = {key: value for key, value in settings.items() if key not in ("name", "metric")}
    try:
        return kinds[settings["name"]](**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"pruner={settings['name']}: {' '.join(str(error).split())}") from error


def _fixed(point: Mapping[str, Value]) -> optuna.samplers.BaseSampler:
    import optuna

    return optuna.samplers.PartialFixedSampler(dict(point), optuna.samplers.RandomSampler(seed=0))
