"""Intervals for rates and for paired differences of rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its Wilson 95% interval.

    Attributes:
        count: How many.
        n: Of how many; with 0 the share is not a number.
    """

    count: int
    n: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval at 95%."""
        if not self.n:
            return math.nan, math.nan
        low, high = proportion_confint(self.count, self.n, alpha=0.05, method="wilson")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def tango_bound(b: int, c: int, n: int, *, alpha: float, side: str) -> float:
    """Return a one-sided score bound of the difference of two paired proportions.

    The difference is ``(b - c) / n``, where of ``n`` pairs ``b`` are 1 only in the first member
    and ``c`` only in the second. Unlike a bootstrap the bound does not collapse where no pair
    differs: then it is ``z² / (n + z²)``.

    Args:
        b: Pairs that are (1, 0).
        c: Pairs that are (0, 1).
        n: All pairs.
        alpha: Level of the one-sided bound; two bounds at 0.025 make a 95% interval.
        side: ``upper`` or ``lower``.

    Raises:
        ValueError: The counts are no table.

    Source:
        Tango, Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design, Statistics in Medicine 17 (1998).
    """
    if min(b, c) < 0 or b + c > n or n < 1:
        raise ValueError(f"no table of {n} pairs has {b} and {c} differing ones")
    if side == "lower":
        return -tango_bound(c, b, n, alpha=alpha, side="upper")
    z = float(norm.isf(alpha))
    observed = (b - c) / n

    def excess(delta: float) -> float:
        return _score(b, c, n, delta) + z

    # The score falls as the hypothesised difference grows; at 1 it is -inf but for b = n.
    edge = 1 - 1e-12
    if excess(edge) >= 0:
        return 1.0
    return float(brentq(excess, observed, edge, xtol=1e-12))


def _score(b: int, c: int, n: int, delta: float) -> float:
    """Return Tango's score statistic of the hypothesis that the difference is ``delta``."""
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    root = math.sqrt(max(linear**2 - 8 * n * constant, 0.0))
    q = (root - linear) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    numerator = b - c - n * delta
    if variance <= 0:
        return 0.0 if abs(numerator) < 1e-9 else math.copysign(math.inf, numerator)
    return numerator / math.sqrt(variance)


def smallest_margin(n: int, alpha: float) -> float:
    """Return the smallest margin that ``n`` pairs can support: the bound when none differs."""
    return tango_bound(0, 0, n, alpha=alpha, side="upper")
