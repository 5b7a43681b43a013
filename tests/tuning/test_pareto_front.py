"""Fronts and knees that are known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.tuning import pareto_front as fronts

from .conftest import filled, made_trial, make_study

BOUND = ["harmful_compliance_rate <= 0.1"]


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def chosen(study, points, **more) -> tuple[int, str]:
    _, trials = filled(study, [made_trial(point) for point in points])
    choice = fronts.choose(study, fronts.pareto_front(study, trials))
    assert choice is not None
    return choice.trial.number, choice.because


def test_what_counts_for_the_front(two) -> None:
    _, trials = filled(
        two,
        [
            made_trial([0.5, 0.1]),
            made_trial([0.5, 0.2]),  # dominated: as good in one, worse in the other
            made_trial([0.1, 0.5]),
            made_trial([0.1, 0.5]),  # the same again: neither is better
            made_trial(None, state=TrialState.FAIL),
            made_trial(None, state=TrialState.PRUNED),
            made_trial([math.inf, 0.0]),
            made_trial([0.6, 0.6]),
        ],
    )
    assert numbers(fronts.pareto_front(two, trials)) == [2, 3, 0]


def test_a_direction_is_turned() -> None:
    study = make_study(directions=["maximize", "minimize"])
    _, trials = filled(study, [made_trial(v) for v in ([0.9, 0.5], [0.5, 0.5], [0.4, 0.1])])
    assert numbers(fronts.pareto_front(study, trials)) == [0, 2]


@pytest.mark.parametrize("excess", [(0.05,), (math.nan,), ()])
def test_what_breaks_or_does_not_tell_a_constraint_is_left_out(excess) -> None:
    study = make_study(constraints=BOUND)
    _, trials = filled(study, [made_trial([0.0, 0.15], excess), made_trial([0.4, 0.1], [0.0])])
    assert numbers(fronts.pareto_front(study, trials)) == [1]


def test_the_front_grows_by_new_trials_alone(two) -> None:
    points = np.random.default_rng(0).random((300, 2)).round(2)
    _, trials = filled(two, [made_trial(point) for point in points])
    front: list[FrozenTrial] = []
    for start in range(0, 300, 7):
        front = fronts.pareto_front(two, trials[start : start + 7], front)
    whole = fronts.pareto_front(two, trials)
    assert numbers(front) == numbers(whole)
    brute = [
        i for i, p in enumerate(points) if not any((q <= p).all() and (q < p).any() for q in points)
    ]
    assert sorted(numbers(whole)) == brute


def test_the_knee_bulges_towards_the_ideal(two) -> None:
    number, because = chosen(two, [[0.0, 1.0], [0.5, 0.45], [0.2, 0.3], [1.0, 0.0], [0.1, 0.8]])
    assert number == 2
    assert "0.35 from the line through its extremes, trials 0, 3" in because  # 0.5 / sqrt(2)


def test_scales_do_not_matter(two) -> None:
    points = [[0.0, 1000.0], [0.2, 300.0], [0.7, 200.0], [1.0, 0.0]]
    assert chosen(two, points)[0] == 1
    assert chosen(two, [[x, y / 1000] for x, y in points])[0] == 1


def test_a_front_that_bulges_away_ends_at_its_first_extreme(two) -> None:
    assert chosen(two, [[1.0, 0.0], [0.8, 0.7], [0.0, 1.0]])[0] == 2


def test_two_on_the_front_tie_and_the_first_objective_decides(two) -> None:
    number, because = chosen(two, [[0.9, 0.0], [0.1, 0.4], [0.1, 0.4]])
    assert number == 1
    number, because = chosen(two, [[0.9, 0.0], [0.1, 0.4]])
    assert number == 1
    assert "as have 1 more" in because


def test_one_on_the_front_is_chosen(two) -> None:
    number, because = chosen(two, [[0.1, 0.1], [0.2, 0.2]])
    assert (number, because) == (0, "it is the only trial on the front")


def test_three_objectives_have_a_plane() -> None:
    study = make_study(["a", "b", "c"], ["minimize", "minimize", "maximize"])
    points = [[0, 1, 0], [1, 0, 0], [1, 1, 1], [0.3, 0.3, 0.6], [0.5, 0.6, 0.4]]
    number, because = chosen(study, points)
    assert number == 3
    assert "from the plane through its extremes, trials 0, 1, 2" in because


def test_extremes_without_a_plane_fall_back_to_the_sum() -> None:
    study = make_study(["a", "b", "c"])
    # Trial 0 is best in a and in b, so that two extremes coincide.
    points = [[0, 0, 1], [0.5, 0.5, 0], [0.1, 0.1, 0.2]]
    number, because = chosen(study, points)
    assert number == 2
    assert "least sum" in because


def test_an_objective_that_does_not_vary_is_no_matter() -> None:
    study = make_study(["a", "b", "c"])
    assert chosen(study, [[0, 1, 5], [0.2, 0.2, 5], [1, 0, 5]])[0] == 1


def test_one_objective_has_a_best() -> None:
    study = make_study(["general_accuracy"], ["maximize"])
    assert chosen(study, [[0.2], [0.9], [0.9]])[0] == 1


def test_nothing_feasible_is_told_by_its_nearest() -> None:
    study = make_study(constraints=BOUND)
    _, trials = filled(
        study,
        [
            made_trial([0.1, 0.4], [0.3], metrics={"harmful_compliance_rate": 0.4}),
            made_trial([0.2, 0.15], [0.05], metrics={"harmful_compliance_rate": 0.15}),
        ],
    )
    assert fronts.choose(study, fronts.pareto_front(study, trials)) is None
    assert fronts.why_none(study, trials) == (
        "none of the 2 finished trials meets every constraint; the nearest is trial 1, with "
        "harmful_compliance_rate 0.150 (wanted <= 0.1)"
    )


def test_the_order_of_trials_does_not_matter(two) -> None:
    points = np.random.default_rng(1).random((60, 2))
    _, trials = filled(two, [made_trial(point) for point in points])
    first = fronts.choose(two, fronts.pareto_front(two, trials))
    again = fronts.choose(two, fronts.pareto_front(two, trials[::-1]))
    assert first is not None and again is not None
    assert first.trial.number == again.trial.number
