"""Studies with made trials, whose fronts are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.tuning.storage import Opened
from tbr_lightning.tuning.study import Study, read_study

SPACE = {
    "reflection": CategoricalDistribution(["none", "external"]),
    "data.harmful": IntDistribution(100, 300),
    "optimizer.lr": FloatDistribution(1e-4, 1e-3, log=True),
}
TEXT = """
about: made
fixed: [model=tiny, data=microworld]
space:
  reflection: {choices: [none, external]}
  data.harmful: {low: 100, high: 300}
  optimizer.lr: {low: 1e-4, high: 1e-3, log: true}
evaluate: [suite=smoke, suite.half=dev]
objectives: {OBJECTIVES}
constraints: [CONSTRAINTS]
trials: 20
"""

MakeTrial = Callable[..., FrozenTrial]


def make_study(
    objectives: Sequence[str] = ("false_refusal_rate", "harmful_compliance_rate"),
    directions: Sequence[str] | None = None,
    constraints: Sequence[str] = (),
    name: str = "made",
) -> Study:
    """Return a study of the file's form."""
    goals = directions or ["minimize"] * len(objectives)
    pairs = ", ".join(f"{one}: {goal}" for one, goal in zip(objectives, goals, strict=True))
    text = TEXT.replace("OBJECTIVES", pairs)
    text = text.replace("CONSTRAINTS", ", ".join(f"'{one}'" for one in constraints))
    return read_study(name, f"{name}.yaml", text)


def storage_of(study: Study, url: str | None = None) -> optuna.Study:
    """Return an empty study in the storage."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=url,
        study_name=study.key,
        directions=list(study.objectives.values()),
        load_if_exists=True,
    )


def opened_of(study: Study, there: optuna.Study) -> Opened:
    """Return a study as a runner holds it; its locks are files of the working directory."""
    return Opened(there, there._storage, study.key, f"sqlite:///{Path.cwd()}/locks.db")  # type: ignore[arg-type]


def made_trial(
    values: Sequence[float] | None,
    excess: Sequence[float] = (),
    state: TrialState = TrialState.COMPLETE,
    reflection: str = "none",
    harmful: int = 100,
    lr: float = 5e-4,
    **attributes: Any,
) -> FrozenTrial:
    """Return a trial as the runner leaves it."""
    user: dict[str, Any] = {"seconds": 10.0}
    if excess:
        user["constraints"] = list(excess)
    return optuna.trial.create_trial(
        state=state,
        values=None if values is None else list(values),
        params={"reflection": reflection, "data.harmful": harmful, "optimizer.lr": lr},
        distributions=SPACE,
        user_attrs=user | attributes,
    )


def filled(
    study: Study, trials: Sequence[FrozenTrial], url: str | None = None
) -> tuple[optuna.Study, list[FrozenTrial]]:
    """Return the storage's study with trials added, and the trials as they lie there."""
    there = storage_of(study, url)
    there.add_trials(trials)
    return there, there.get_trials(deepcopy=False)


@pytest.fixture
def two() -> Study:
    """Two rates to minimise."""
    return make_study()
