"""The feasible Pareto front of a study, and the one trial that is taken from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.tuning.sampling import CONSTRAINTS
from tbr_lightning.tuning.study import Study

METHOD = (
    "The front holds the finished trials that meet every constraint and that no other such trial "
    "beats, as good in all objectives and better in one, by the means over their seeds on the dev "
    "half. Its knee is chosen: with the objectives scaled to [0, 1] over the front and turned so "
    "that less is better, the trial farthest from the line (with three objectives: the plane) "
    "through the trials that are best in one objective each, on the side of the ideal point "
    "(Das, On characterizing the knee of the Pareto curve based on normal-boundary intersection, "
    "Structural Optimization 18, 1999). Where the front has fewer than three trials, or its "
    "extremes span no such plane, it is the trial with the least sum of scaled objectives. Ties go "
    "to the better in the first objective, then in the next, then to the earlier trial."
)
"""How a trial is chosen, in words."""

_TIE = 1e-9  # of scaled objectives: differences within rounding count as ties


@dataclass(frozen=True)
class Choice:
    """The trial that is chosen at the end of a study."""

    trial: FrozenTrial  # the chosen trial
    because: str  # reason, in a sentence


def finished(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the finished trials whose objectives are all finite numbers."""
    return [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values))
    ]


def counted(trials: Sequence[FrozenTrial]) -> str:
    """Return how many trials are in each state, in words."""
    counts = Counter(trial.state for trial in trials)
    words = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
    }
    told = [f"{counts[state]} {word}" for state, word in words.items() if counts[state]]
    return ", ".join(told) or "no trial"


def is_feasible(study: Study, trial: FrozenTrial) -> bool:
    """Return whether a finished trial meets every constraint; one that recorded none does not."""
    excess = trial.user_attrs.get(CONSTRAINTS) or []
    return len(excess) >= len(study.constraints) and all(value <= 0 for value in excess)


def pareto_front(
    study: Study, trials: Iterable[FrozenTrial], front: Sequence[FrozenTrial] = ()
) -> list[FrozenTrial]:
    """Return the feasible trials that no other dominates, best in the first objective first.

    Args:
        study: Study with the directions and the constraints.
        trials: Trials in any state; only finished and feasible ones count.
        front: The front of other trials, so that new ones can be added without all the old.
    """
    candidates = [*front, *(t for t in finished(trials) if is_feasible(study, t))]
    if not candidates:
        return []
    points = losses(study, candidates)
    numbers = [trial.number for trial in candidates]
    kept: list[int] = []
    best = np.empty_like(points)
    # In lexicographic order nothing is dominated by what comes after it.
    for index in np.lexsort((numbers, *points.T[::-1])):
        point, there = points[index], best[: len(kept)]
        no_worse = (there <= point).all(axis=1)
        if not (no_worse & (there < point).any(axis=1)).any():
            best[len(kept)] = point
            kept.append(int(index))
    return [candidates[index] for index in kept]


def losses(study: Study, trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
    """Return the objectives, of shape (trials, objectives), turned so that less is better."""
    signs = [1.0 if goal == "minimize" else -1.0 for goal in study.objectives.values()]
    return np.array([trial.values for trial in trials], float).reshape(-1, len(signs)) * signs


def choose(study: Study, front: Sequence[FrozenTrial]) -> Choice | None:
    """Return the knee of a front, see :data:`METHOD`; ``None`` if the front is empty."""
    if not front:
        return None
    points = losses(study, front)
    if len(study.objectives) == 1:
        best = min(range(len(front)), key=lambda i: (points[i, 0], front[i].number))
        name = next(iter(study.objectives))
        return Choice(front[best], f"it is the best feasible trial in {name}")
    if len(front) == 1:
        return Choice(front[0], "it is the only trial on the front")
    scaled = _scaled(points)
    found = _extremes_plane(scaled, points, front) if len(front) > 2 else None
    if found is None:
        sums = scaled.sum(axis=1)
        best = _first_of(points, front, sums)
        why = f"of {len(front)} on the front it has the least sum of scaled objectives"
        tied = int((sums <= sums[best] + _TIE).sum())
        if tied > 1:
            why += f", as have {tied - 1} more, and comes first by the order of the objectives"
        return Choice(front[best], why)
    distances, extremes = found
    best = _first_of(points, front, -distances)
    named = sorted({front[index].number for index in extremes})
    what = "line" if len(extremes) == 2 else "plane"
    return Choice(
        front[best],
        f"of {len(front)} on the front it is the knee, {distances[best]:.2f} from the {what} "
        f"through its extremes, trials {', '.join(map(str, named))}",
    )


def why_none(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """Return why no trial can be chosen, with the one that misses its worst constraint by least."""
    done = finished(trials)
    if not done:
        return f"no trial has finished ({counted(trials)})"
    told = [trial for trial in done if trial.user_attrs.get(CONSTRAINTS)]
    if not told:
        return f"none of the {len(done)} finished trials has recorded its constraints"
    nearest = min(told, key=lambda t: (max(t.user_attrs[CONSTRAINTS]), t.number))
    metrics = nearest.user_attrs.get("metrics", {})
    missed = [
        f"{bound.metric} {metrics.get(bound.metric, math.nan):.3f} (wanted {bound.op} "
        f"{bound.bound:g})"
        for bound, over in zip(study.bounds, nearest.user_attrs[CONSTRAINTS], strict=True)
        if over > 0
    ]
    return (
        f"none of the {len(done)} finished trials meets every constraint; the nearest is trial "
        f"{nearest.number}, with {', '.join(missed)}"
    )


def train_overrides(study: Study, trial: FrozenTrial) -> list[str]:
    """Return the overrides of a trial's training runs, without the seed."""
    point = {key: value for key, value in trial.params.items() if key != "seed"}
    return study.overrides(point)


def point_text(study: Study, trial: FrozenTrial) -> str:
    """Return a trial's objectives with their intervals, and its parameters, on one line."""
    intervals = trial.user_attrs.get("intervals", {})
    reached = []
    for name, value in zip(study.objectives, trial.values, strict=True):
        low_high = intervals.get(name)
        shown = f" [{', '.join(measured(name, end) for end in low_high)}]" if low_high else ""
        reached.append(f"{name} {measured(name, value)}{shown}")
    return f"{', '.join(reached)}  ({params_text(trial.params)})"


def measured(name: str, value: float) -> str:
    """Return the value of an objective as people read it: a share in percent."""
    share = name.partition("/")[0].endswith(("_rate", "_accuracy"))
    return f"{100 * value:.1f}%" if share else f"{value:.3f}"


def params_text(params: dict[str, Any]) -> str:
    """Return parameters on one line."""
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    )


def _first_of(
    points: NDArray[np.float64], front: Sequence[FrozenTrial], key: NDArray[np.float64]
) -> int:
    """Return the index of the least key; ties go by the objectives in order, then by number."""
    tied = np.flatnonzero(key <= key.min() + _TIE)
    return min(map(int, tied), key=lambda i: (*points[i], front[i].number))


def _scaled(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale the objectives that vary to [0, 1] and leave out those that do not."""
    low, high = points.min(axis=0), points.max(axis=0)
    varied = high > low
    return (points[:, varied] - low[varied]) / (high - low)[varied]


def _extremes_plane(
    scaled: NDArray[np.float64], points: NDArray[np.float64], front: Sequence[FrozenTrial]
) -> tuple[NDArray[np.float64], list[int]] | None:
    """Return each point's distance from the extremes' plane towards the ideal, and the extremes.

    ``None`` where the extremes are too few for a plane, or where moving away from it towards the
    ideal would not improve every objective.
    """
    dimensions = scaled.shape[1]
    if dimensions < 2:
        return None
    # Of several that are best in an objective, the one best in the others.
    sums = scaled.sum(axis=1)
    extremes = [
        _first_of(points, front, np.where(scaled[:, axis] <= _TIE, sums, np.inf))
        for axis in range(dimensions)
    ]
    # The plane's normal n with n·x = 1 on it.
    try:
        normal = np.linalg.solve(scaled[extremes], np.ones(dimensions))
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(normal).all() or (normal <= 0).any():
        return None
    return (1 - scaled @ normal) / float(np.linalg.norm(normal)), extremes
