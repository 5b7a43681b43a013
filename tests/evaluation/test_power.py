"""How often a comparison shows what is there, against counting all outcomes one by one."""

from __future__ import annotations

from math import factorial

import pytest

from tbr_lightning.evaluation.power import CHURN, chance_below, pairs_for
from tbr_lightning.evaluation.statistics import tango_bound


@pytest.mark.parametrize(("difference", "limit"), [(0.0, 0.3), (0.2, 0.3), (-0.4, 0.0), (0.3, 0.1)])
def test_the_chance_is_the_sum_over_all_outcomes(difference: float, limit: float) -> None:
    n, total = 12, 0.0
    up, down = CHURN + max(difference, 0), CHURN + max(-difference, 0)
    for b in range(n + 1):
        for c in range(n - b + 1):
            ways = factorial(n) / (factorial(b) * factorial(c) * factorial(n - b - c))
            if tango_bound(b, c, n, alpha=0.05, side="upper") <= limit:
                total += ways * up**b * down**c * (1 - up - down) ** (n - b - c)
    assert chance_below(n, difference, limit, 0.05) == pytest.approx(total, abs=1e-6)


def test_a_rise_by_the_margin_itself_passes_about_as_often_as_alpha() -> None:
    assert chance_below(1000, 0.02, 0.02, 0.05) == pytest.approx(0.05, abs=0.02)


def test_so_many_pairs_are_enough_and_clearly_fewer_are_not() -> None:
    needed = pairs_for(0.8, 0.0, 0.02, 0.05)
    assert needed is not None
    assert chance_below(needed, 0.0, 0.02, 0.05) >= 0.8
    assert chance_below(needed * 3 // 4, 0.0, 0.02, 0.05) < 0.8
    assert pairs_for(0.8, 0.02, 0.02, 0.05) is None  # a rise by the margin is never let through


@pytest.mark.parametrize(
    ("chance", "difference", "limit", "pairs"),
    [(0.8, 0.0, 0.02, 408), (0.8, 0.0, 0.003, 14_080), (0.99, -0.1, 0.0, 144)],
)
def test_the_number_is_at_most_a_fiftieth_above_the_smallest(
    chance: float, difference: float, limit: float, pairs: int
) -> None:
    needed = pairs_for(chance, difference, limit, 0.05)
    assert needed == pairs
    assert chance_below(needed, difference, limit, 0.05) >= chance
    fewer = range(needed - 1, needed - 2 - needed // 50, -1)
    assert any(chance_below(n, difference, limit, 0.05) < chance for n in fewer)


def test_a_small_number_of_pairs_is_exact_and_a_large_one_is_none() -> None:
    for n in (20, 40):
        chance = chance_below(n, -0.5, 0.0, 0.05)
        assert pairs_for(chance, -0.5, 0.0, 0.05) == n
        assert chance_below(n - 1, -0.5, 0.0, 0.05) < chance
    assert pairs_for(1e-9, 0.0, 0.9, 0.05) == 2  # fewer are no comparison
    most = pairs_for(0.8, 0.0, 0.0026, 0.05)
    assert most is not None and 16_384 < most <= 20_000
    assert pairs_for(0.8, 0.0, 0.0023, 0.05) is None  # it takes more than 20,000


def test_where_nothing_can_differ_no_limit_is_kept() -> None:
    # Of one pair with a limit of 1 the score is bounded where the first member alone counts.
    assert chance_below(1, 0.0, 1.0, 0.05) == pytest.approx(1 - CHURN, abs=1e-9)


def test_a_difference_of_all_pairs_leaves_room_for_chance() -> None:
    for difference, passes in ((1.0, 0), (-1.0, 1)):
        assert chance_below(20, difference, 0.5, 0.05) == pytest.approx(passes, abs=1e-9)
