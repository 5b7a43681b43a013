"""Intervals against published and closed-form values."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar

from tbr_lightning.evaluation.statistics import Rate, smallest_margin, tango_bound


def test_tango_agrees_with_the_published_example() -> None:
    # Airway hyper-responsiveness before and after transplantation (Bentur et al., 2009): of 21
    # pairs 1 and 7 differ; Fagerland et al. (2014) give -0.517 to -0.026.
    low, high = (tango_bound(1, 7, 21, alpha=0.025, side=side) for side in ("lower", "upper"))
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


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
