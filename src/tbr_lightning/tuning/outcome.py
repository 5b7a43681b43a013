"""From the numbers of several seeds to those of their trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import statistics
from tbr_lightning.tuning.folder import TrialResult
from tbr_lightning.tuning.sampling import CONSTRAINTS
from tbr_lightning.tuning.scheduling import REASON
from tbr_lightning.tuning.study import Study

_ENDS = ("_lo", "_hi", "_n")


def over_seeds(
    seeds: Sequence[Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return means and 95% intervals over seeds and prompts.

    With one seed an interval is the evaluation's own, over prompts. With several, the variance of
    the mean over ``k`` seeds is that between seeds divided by ``k`` plus that of the prompts, which
    all seeds share and which therefore does not shrink with their number; the degrees of freedom
    are Welch and Satterthwaite's, with ``k - 1`` for the seeds.

    Args:
        seeds: Metrics of each seed, where ``NAME_lo`` and ``NAME_hi`` are the interval of ``NAME``.
    """
    shared = [name for name in seeds[0] if all(name in numbers for numbers in seeds)]
    intervals_of = {name for name in shared if f"{name}_lo" in shared and f"{name}_hi" in shared}
    ends = {f"{name}{end}" for name in intervals_of for end in _ENDS}
    means, intervals = {}, {}
    for name in shared:
        if name in ends:
            continue
        values = np.array([numbers[name] for numbers in seeds])
        means[name] = float(values.mean())
        if name not in intervals_of:
            continue
        parts = [
            statistics.Estimate(one[name], (one[f"{name}_lo"], one[f"{name}_hi"]), 1)
            for one in seeds
        ]
        intervals[name] = list(statistics.over_seeds(parts).interval)
    return means, intervals


def values_of(study: Study, result: TrialResult) -> list[float]:
    """Return the objectives of a finished trial.

    Raises:
        UserError: One is missing or not a finite number.
    """
    return [_finite(f"objectives.{name}", name, result) for name in study.objectives]


def constraints_of(study: Study, result: TrialResult) -> list[float]:
    """Return by how much a finished trial violates each constraint; at most 0 if it is kept.

    Raises:
        UserError: A metric is missing or not a finite number.
    """
    return [
        one.excess(_finite(f"constraints.{one.metric}", one.metric, result)) for one in study.bounds
    ]


def _finite(where: str, name: str, result: TrialResult) -> float:
    value = result.metrics.get(name)
    if value is None:
        raise UserError(f"{where}: no run logged it")
    if not math.isfinite(value):
        raise UserError(f"{where}={value} is not a finite number")
    return value


def kept(study: Study, result: TrialResult, excess: list[float]) -> dict[str, Any]:
    """Return what a trial leaves in the storage beside its objectives."""
    needed = {*study.objectives, *(one.metric for one in study.bounds)}
    needed |= {one.metric for one in study.hypotheses}

    def worth(name: str) -> bool:
        # A number for every category of every benchmark would swell the storage.
        return name in needed or name.count("/") < 2

    left: dict[str, Any] = {"seconds": round(result.seconds, 3)}
    if result.reason:
        left[REASON] = result.reason
    if result.state == "complete":
        left |= {
            "metrics": {k: v for k, v in result.metrics.items() if worth(k)},
            "intervals": {k: v for k, v in result.intervals.items() if worth(k)},
            "runs": result.runs,
            CONSTRAINTS: excess,
            "config_key": result.config_key,
        }
    return left
