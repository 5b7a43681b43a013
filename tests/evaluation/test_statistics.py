"""Intervals against published and closed-form values."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep

from tbr_lightning.evaluation.statistics import (
    Estimate,
    Rate,
    clustered_rate,
    combined,
    macro,
    mean_share,
    over_seeds,
    smallest_margin,
    tango_bound,
    tango_interval,
)


def test_tango_agrees_with_the_published_example() -> None:
    # Airway hyper-responsiveness before and after transplantation (Bentur et al., 2009): of 21
    # pairs 1 and 7 differ; Fagerland et al. (2014) give -0.517 to -0.026.
    low, high = (tango_bound(1, 7, 21, alpha=0.025, side=side) for side in ("lower", "upper"))
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)
    assert tango_interval(1, 7, 21) == (low, high)


def test_without_a_differing_pair_the_interval_does_not_collapse() -> None:
    low, high = tango_interval(0, 0, 100)
    assert -low == pytest.approx(high) == pytest.approx(1.959964**2 / (100 + 1.959964**2))


@pytest.mark.parametrize("n", [20, 200, 1000])
def test_without_a_differing_pair_the_bound_has_a_closed_form(n: int) -> None:
    z = float(norm.isf(0.05))
    assert smallest_margin(n, 0.05) == pytest.approx(z**2 / (n + z**2), rel=1e-6)


@pytest.mark.parametrize(("b", "c", "n"), [(40, 20, 160), (3, 9, 200), (5, 0, 200), (1, 0, 10)])
def test_bounds_mirror_and_hold_the_estimate(b: int, c: int, n: int) -> None:
    low, high = (tango_bound(b, c, n, alpha=0.05, side=side) for side in ("lower", "upper"))
    assert low < (b - c) / n < high
    assert tango_bound(c, b, n, alpha=0.05, side="upper") == pytest.approx(-low)


@pytest.mark.parametrize(("b", "c"), [(15, 4), (30, 12), (2, 25)])
def test_the_bound_excludes_zero_where_mcnemar_rejects(b: int, c: int) -> None:
    # At a difference of 0 Tango's statistic is McNemar's without continuity correction.
    p = mcnemar([[0, b], [c, 100]], exact=False, correction=False).pvalue
    low, high = (tango_bound(b, c, 200, alpha=p / 2, side=side) for side in ("lower", "upper"))
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)


def test_extreme_tables() -> None:
    assert tango_bound(5, 0, 5, alpha=0.05, side="upper") == 1.0
    assert -1 < tango_bound(0, 5, 5, alpha=0.05, side="upper") < 0
    for table in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="no table"):
            tango_bound(*table, alpha=0.05, side="upper")


def test_wilson_by_hand() -> None:
    z, n, p = 1.959964, 50, 0.2
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert Rate(10, 50).interval == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert Rate(0, 10).interval[0] == pytest.approx(0)
    assert math.isnan(Rate(0, 0).value)


def test_repeats_are_no_independent_prompts() -> None:
    # 20 prompts of which 5 are hit, each answered the same ten times: worth 20 answers (19, since
    # the variance is estimated), not 200.
    hits = [prompt < 5 for prompt in range(20) for _ in range(10)]
    prompts = [prompt for prompt in range(20) for _ in range(10)]
    rate = clustered_rate(hits, prompts)
    assert (rate.count, rate.n) == (50, 200)
    assert rate.effective == pytest.approx(19)
    low, high = rate.interval
    assert high - low > 2.5 * (Rate(50, 200).interval[1] - Rate(50, 200).interval[0])


def test_repeats_are_worth_at_most_what_they_are_many() -> None:
    # Each prompt is hit in one of two answers: between prompts nothing varies.
    rate = clustered_rate([True, False] * 30, [prompt for prompt in range(30) for _ in "ab"])
    assert rate.interval == Rate(30, 60).interval


@pytest.mark.parametrize("hit", [True, False])
def test_where_all_answers_agree_prompts_are_counted(hit: bool) -> None:
    rate = clustered_rate([hit] * 60, [prompt for prompt in range(20) for _ in range(3)])
    assert rate.interval == Rate(20 * hit, 20).interval


def test_single_answers_are_left_as_they_are() -> None:
    assert clustered_rate([True, False, True], "abc") == Rate(2, 3)
    assert clustered_rate([], []) == Rate(0, 0)


def test_squared_and_added_limits_are_newcombes() -> None:
    a, b = Rate(56, 70), Rate(48, 80)
    found = combined([a, b], [1, -1], 150)
    expected = confint_proportions_2indep(56, 70, 48, 80, method="newcomb", compare="diff")
    assert found.interval == pytest.approx(expected)
    # Newcombe (1998), table II, method 10.
    assert [round(x, 4) for x in (found.value, *found.interval)] == [0.2, 0.0524, 0.3339]


def test_the_macro_average_counts_benchmarks_alike() -> None:
    found = macro([Rate(1, 10), Rate(300, 1000)])
    assert found.value == pytest.approx(0.2)
    assert found.n == 1010
    assert macro([Rate(3, 9)]).interval == pytest.approx(Rate(3, 9).interval)
    low, high = macro([Rate(0, 100), Rate(0, 100)]).interval
    assert (low, high) == pytest.approx((0, Rate(0, 100).interval[1] / math.sqrt(2)))


def test_answers_that_differ_within_each_prompt_are_worth_no_more_than_they_are() -> None:
    # Each prompt is answered once either way: the mean varies less than by chance.
    hits, prompts = [True, False] * 10, [number // 2 for number in range(20)]
    assert clustered_rate(hits, prompts).effective == 20
    hits[:4] = [True, True, False, False]
    assert clustered_rate(hits, prompts).effective == 20


def test_a_rate_is_written_in_percent_with_its_interval() -> None:
    assert str(Rate(50, 100)) == "50.0 [40.4, 59.6]"


def test_seeds_that_agree_keep_the_interval_of_the_prompts() -> None:
    none = over_seeds([Rate(0, 200)] * 5)
    assert (none.value, none.interval[0]) == (0, 0)
    assert none.interval[1] == pytest.approx(Rate(0, 200).interval[1])
    half = over_seeds([Rate(80, 200)] * 3)
    assert half.interval == pytest.approx(Rate(80, 200).interval, abs=1e-9)
    apart = over_seeds([Rate(60, 200), Rate(100, 200)])
    assert apart.interval[1] - apart.interval[0] > half.interval[1] - half.interval[0]


@pytest.mark.parametrize("count", [0, 1, 100, 199, 200])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_an_interval_over_seeds_is_never_a_point(count: int, seeds: int) -> None:
    found = over_seeds([Rate(count, 200)] * seeds)
    assert found.interval == pytest.approx(Rate(count, 200).interval, abs=1e-9)
    assert found.interval[1] - found.interval[0] > 0.01


def test_an_interval_over_seeds_by_hand() -> None:
    # Rates 0.2 and 0.4 of intervals [0.1, 0.3] and [0.3, 0.5]: the variance between the seeds is
    # 0.02 / 2 = 0.01, that over prompts (0.1 / 1.96)² = 0.002603, together 0.012603; degrees of
    # freedom 1 * (0.012603 / 0.01)² = 1.588.
    parts = [Estimate(0.2, (0.1, 0.3), 100), Estimate(0.4, (0.3, 0.5), 100)]
    variance = 0.01 + (0.1 / 1.959964) ** 2
    freedom = (variance / 0.01) ** 2
    half = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
    assert (round(variance, 6), round(freedom, 3)) == (0.012603, 1.588)
    found = over_seeds([*parts])
    assert found.value == pytest.approx(0.3)
    assert found.interval == pytest.approx((max(0.3 - half, 0), min(0.3 + half, 1)))
    assert found.interval[1] - found.interval[0] > 0.6  # two seeds that differ show little


def test_a_mean_of_shares_by_hand() -> None:
    # Variance (1/4 + 1/4) / 3 = 1/6, of the mean 1/24: a rate of one half varies so much over six.
    found = mean_share([0, 0.5, 1, 0.5])
    assert (found.value, found.n) == (0.5, 4)
    assert found.interval == pytest.approx(Rate(3, 6).interval)
    # Where nothing varies, and of a single number, it is as wide as a rate's over as many.
    assert mean_share([0.5] * 4).interval == pytest.approx(Rate(2, 4).interval)
    alone = mean_share([0.25])
    assert alone.interval == pytest.approx(Rate(1, 4, effective=1).interval)
    assert (alone.value, alone.n) == (0.25, 1)
    assert mean_share([1, 0, 1.0]) == Rate(2, 3)
    assert mean_share([]) == Rate(0, 0)


def test_of_nothing_there_is_no_interval() -> None:
    assert all(math.isnan(end) for end in Rate(0, 0).interval)
    assert clustered_rate([True, False], "aa") == Rate(1, 2, effective=1)


def test_an_interval_over_seeds_keeps_to_what_can_be() -> None:
    shares = [Estimate(0.2, (0.0, 0.4), 100), Estimate(0.8, (0.6, 1.0), 100)]
    assert over_seeds(shares).interval == (0, 1)
    for sign in (1, -1):  # differences reach beyond, on whichever side
        parts = [
            Estimate(sign * 0.2, (sign * 0.2 - 0.3, sign * 0.2 + 0.3), 100),
            Estimate(sign * 0.8, (sign * 0.8 - 0.3, sign * 0.8 + 0.3), 100),
        ]
        low, high = over_seeds(parts).interval
        assert low < -1.5 + sign * 0.5 and high > 1.5 + sign * 0.5
        assert low + high == pytest.approx(sign * 1.0)
    assert [over_seeds(shares[:n]).n for n in (1, 2)] == [1, 2]
    assert over_seeds(shares[:1]).interval == (0, 0.4)


def test_a_weight_of_zero_takes_an_estimate_out() -> None:
    a, b = Rate(56, 70), Rate(48, 80)
    found = combined([a, b], [1, 0], 70)
    assert (found.value, found.n) == (a.value, 70)
    assert found.interval == pytest.approx(a.interval)


def test_bounds_of_tables_at_the_edge() -> None:
    # All pairs differ one way, or so many: at the end there is nothing left to bound.
    assert tango_bound(0, 5, 5, alpha=0.05, side="lower") == -1.0
    assert tango_bound(5, 5, 10, alpha=0.05, side="upper") == pytest.approx(
        -tango_bound(5, 5, 10, alpha=0.05, side="lower")
    )
    # One pair that is alike is enough for a bound within.
    assert 0.5 < tango_bound(4, 0, 5, alpha=0.05, side="upper") < 1
    # Counts of repeated answers are fractions that add up to n but for rounding.
    assert tango_bound(0.1 + 0.2, 0.7, 1.0, alpha=0.05, side="upper") < 1
