"""Samplers: the same seed gives the same sequence, through interruptions too."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tbr_lightning.processes import Owner, identity_of
from tbr_lightning.tuning import scheduling
from tbr_lightning.tuning.sampling import make_pruner
from tbr_lightning.tuning.scheduling import Budget, Claim, Next
from tbr_lightning.tuning.space import cells
from tbr_lightning.tuning.storage import Opened, open_study
from tbr_lightning.tuning.study import Study, read_study

STUDY = """
space: {{{space}, x: {{low: 0.0, high: 1.0}}, n: {{low: 1, high: 9}}}}
objectives: {objectives}
sampler: {sampler}
seed: {seed}
trials: 10
{more}
"""
BRANCH = "how: {choices: [a, b]}, w: {low: 0.1, high: 9, log: true, when: {how: b}}"
PLAIN = "how: {choices: [a, b]}"
TWO = "{x: minimize, y: minimize}"
DEAD = Owner("here", identity_of().machine, 2**22 - 7, 1.0)


def study_of(sampler: str, *, seed: int = 0, more: str = "") -> Study:
    name = sampler.strip("{").split(",")[0].removeprefix("name: ")
    space = PLAIN if name in ("qmc", "gp", "cmaes") else BRANCH
    objectives = "{x: minimize}" if name == "cmaes" else TWO
    text = STUDY.format(space=space, objectives=objectives, sampler=sampler, seed=seed, more=more)
    return read_study("s", "s.yaml", text)


def finish(study: Study, opened: Opened, claim: Claim) -> None:
    x, n = float(str(claim.point["x"])), int(str(claim.point["n"]))
    if study.bounds:
        optuna.trial.Trial(opened.study, claim.trial_id).set_constraint("0", x - 0.9)
    opened.study.tell(claim.number, [x, 1 - x + n / 9][: len(study.objectives)])


def points(study: Study, folder: Path, *, interrupted: bool = False) -> list[dict[str, Any]]:
    url = f"sqlite:///{folder}/{interrupted}.db"
    opened, budget, drawn = open_study(study, url), Budget(study.trials), []
    while (got := scheduling.claim(opened, study, budget, identity_of(), [])) is not Next.DONE:
        assert isinstance(got, Claim)
        if interrupted and got.number % 4 == 1 and not got.again:
            # Its runner dies, and another one finds it.
            opened.backend.set_trial_user_attr(got.trial_id, scheduling.OWNER, asdict(DEAD))
            opened = open_study(study, url)
            continue
        drawn.append(dict(got.point))
        finish(study, opened, got)
    assert [trial.number for trial in opened.study.trials] == list(range(study.trials))
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        "{name: tpe, n_startup_trials: 4}",
        "{name: tpe, n_startup_trials: 4, multivariate: true, group: true}",
        "{name: nsga2, population_size: 4}",
        "{name: nsga3, population_size: 4}",
        "{name: gp, n_startup_trials: 6}",
        "cmaes",
        "random",
        "qmc",
    ],
)
def test_the_same_seed_gives_the_same_points_through_interruptions(
    tmp_path: Path, sampler: str
) -> None:
    if "cmaes" in sampler:
        pytest.importorskip("cmaes")
    study = study_of(sampler)
    first = points(study, tmp_path)
    assert points(study, tmp_path, interrupted=True) == first
    assert len({tuple(point.items()) for point in first}) > 5
    (tmp_path / "other").mkdir()
    other = points(study_of(sampler, seed=1), tmp_path / "other")
    # Without scrambling a quasi-random sequence is one and the same.
    assert (other != first) or sampler == "qmc"


def test_constraints_reach_the_sampler(tmp_path: Path) -> None:
    study = study_of("{name: tpe, n_startup_trials: 4}", more="constraints: ['x <= 0.9']")
    assert len(points(study, tmp_path)) == 10


def test_a_grid_goes_through_its_points_in_order_and_ends(tmp_path: Path) -> None:
    text = "space: {a: {choices: [p, q]}, b: {low: 1, high: 3, when: {a: q}}}\n"
    text += "objectives: {x: minimize}\nsampler: grid\n"
    study = read_study("s", "s.yaml", text)
    opened = open_study(study, f"sqlite:///{tmp_path}/s.db")
    drawn = []
    while isinstance(got := scheduling.claim(opened, study, Budget(4), identity_of(), []), Claim):
        drawn.append(got.point)
        state = TrialState.FAIL if len(drawn) == 2 else None
        opened.study.tell(got.number, None if state else 1.0, state=state)
    # A point that failed is not run again, so the budget is not reached, and still it ends.
    assert got is Next.DONE
    assert drawn == cells(study.space)


def test_hours_are_those_of_all_trials(tmp_path: Path) -> None:
    study = study_of("random")
    opened = open_study(study, f"sqlite:///{tmp_path}/s.db")
    for _ in range(2):
        got = scheduling.claim(opened, study, Budget(10, 60.0), identity_of(), [])
        assert isinstance(got, Claim)
        opened.backend.set_trial_user_attr(got.trial_id, "seconds", 31.0)
        finish(study, opened, got)
    assert scheduling.claim(opened, study, Budget(10, 60.0), identity_of(), []) is Next.DONE


def test_pruners_are_optunas() -> None:
    assert isinstance(make_pruner(None), optuna.pruners.NopPruner)
    made = make_pruner({"name": "wilcoxon", "p_threshold": 0.2})
    assert isinstance(made, optuna.pruners.WilcoxonPruner)
