"""Intervals for rates and for paired differences of rates, all at 95% unless stated otherwise.

None of them collapses to a point where all outcomes agree, as intervals from a standard error or a
bootstrap do.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

_LEVEL = 0.975  # quantile of two-sided 95% intervals


class Estimated(Protocol):
    """A number with its interval."""

    @property
    def value(self) -> float:
        """The estimate."""

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its Wilson 95% interval.

    Attributes:
        count: Numerator of the share.
        n: Denominator of the share; with 0 it is not a number.
        effective: Number of independent outcomes that the ``n`` are worth, where prompts were
            answered repeatedly; ``None`` if all are independent.
    """

    count: int
    n: int
    effective: float | None = None

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval at 95%, of the effective size."""
        if not self.n:
            return math.nan, math.nan
        size = self.n if self.effective is None else self.effective
        low, high = proportion_confint(self.value * size, size, alpha=0.05, method="wilson")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with an interval that was computed elsewhere, over ``n`` outcomes."""

    value: float
    interval: tuple[float, float]
    n: int


def mean_share(values: Sequence[float]) -> Rate | Estimate:
    """Return the mean of numbers in [0, 1]: a rate where each is 0 or 1.

    Else Wilson's interval at the size at which a rate would vary as much as this mean.
    """
    n, mean = len(values), float(np.mean(values)) if values else math.nan
    if all(value in (0, 1) for value in values):
        return Rate(round(sum(values)), n)
    variance = float(np.var(values, ddof=1)) / n if n > 1 else 0.0
    size = mean * (1 - mean) / variance if variance > 0 else n
    low, high = proportion_confint(mean * size, size, alpha=0.05, method="wilson")
    return Estimate(mean, (float(low), float(high)), n)


def clustered_rate(hits: Sequence[bool], clusters: Sequence[Hashable]) -> Rate:
    """Return the share of hits among outcomes that come in clusters.

    Answers to one prompt are a cluster. The cluster-robust variance of the share says how many
    independent outcomes they are worth, and Wilson's interval is taken at that size: never more
    than there are outcomes, and as many as there are clusters where all outcomes agree, which
    shows nothing of their variance.

    Source:
        Dean and Pagano, Evaluating confidence interval methods for binomial proportions in
        clustered surveys, Journal of Survey Statistics and Methodology 3 (2015).
    """
    count, n, several = sum(hits), len(hits), len(set(clusters))
    if several == n:
        return Rate(count, n)
    if count in (0, n) or several == 1:
        return Rate(count, n, float(several))
    from statsmodels.regression.linear_model import OLS

    names = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    groups = np.array([names[cluster] for cluster in clusters])
    fit = OLS(np.array(hits, float), np.ones(n)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    share, variance = count / n, float(fit.bse[0]) ** 2
    worth = share * (1 - share) / variance if variance > 0 else n
    return Rate(count, n, min(worth, float(n)))


def combined(parts: Sequence[Estimated], weights: Sequence[float], n: int) -> Estimate:
    """Return the weighted sum of independent estimates; its limits square and add theirs.

    For the difference of two rates this is Newcombe's hybrid score interval.

    Source:
        Zou and Donner, Construction of confidence limits about effect measures: a general
        approach, Statistics in Medicine 27 (2008).
    """
    value = sum(w * part.value for w, part in zip(weights, parts, strict=True))
    below = above = 0.0
    for weight, part in zip(weights, parts, strict=True):
        low, high = part.interval
        down, up = weight * (part.value - low), weight * (high - part.value)
        below += (down if weight > 0 else up) ** 2
        above += (up if weight > 0 else down) ** 2
    return Estimate(value, (value - math.sqrt(below), value + math.sqrt(above)), n)


def macro(rates: Sequence[Rate]) -> Estimate:
    """Return the mean over benchmarks, each counting the same however many prompts it has."""
    return combined(rates, [1 / len(rates)] * len(rates), sum(rate.n for rate in rates))


def over_seeds(estimates: Sequence[Estimated]) -> Estimate:
    """Return the mean over seeds with an interval that holds what varies: seeds and prompts.

    The variance between seeds and the mean one over prompts add up, and Student's quantile is
    taken at the degrees of freedom that the two together are worth (Satterthwaite). So it does not
    collapse to a point where the seeds agree, as an interval from the seeds alone does.

    Source:
        Satterthwaite, An approximate distribution of estimates of variance components, Biometrics
        Bulletin 2 (1946).
    """
    if len(estimates) == 1:
        return Estimate(estimates[0].value, estimates[0].interval, 1)
    values = np.array([one.value for one in estimates])
    bounds = np.array([one.interval for one in estimates])
    mean, between = float(values.mean()), float(values.var(ddof=1)) / len(values)
    ends = []
    for side in (0, 1):
        # Wilson's intervals are not symmetric: each side has its own spread.
        prompts = (float(np.abs(bounds[:, side] - values).mean()) / norm.ppf(_LEVEL)) ** 2
        variance = between + prompts
        freedom = math.inf if between == 0 else (len(values) - 1) * (variance / between) ** 2
        spread = float(t.ppf(_LEVEL, freedom)) * math.sqrt(variance)
        ends.append(mean + (spread if side else -spread))
    if bounds.min() >= 0 and bounds.max() <= 1:
        ends = [min(max(end, 0.0), 1.0) for end in ends]
    return Estimate(mean, (ends[0], ends[1]), len(values))


def tango_bound(b: float, c: float, n: float, *, alpha: float, side: str) -> float:
    """Return a one-sided score bound of the difference of two paired proportions.

    The difference is ``(b - c) / n``, where of ``n`` pairs ``b`` are 1 only in the first member
    and ``c`` only in the second. Unlike a bootstrap the bound does not collapse where no pair
    differs: then it is ``z² / (n + z²)``.

    Args:
        b: Number of pairs that are (1, 0).
        c: Number of pairs that are (0, 1).
        n: Number of all pairs. Counts may be fractional: see
            :mod:`tbr_lightning.evaluation.comparison`.
        alpha: Level of the one-sided bound; two bounds at 0.025 make a 95% interval.
        side: ``upper`` or ``lower``.

    Raises:
        ValueError: No table has these counts.

    Source:
        Tango, Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design, Statistics in Medicine 17 (1998).
    """
    if min(b, c) < 0 or b + c > n * (1 + 1e-12) or n <= 0:
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


def tango_interval(b: float, c: float, n: float, alpha: float = 0.05) -> tuple[float, float]:
    """Return the two-sided score interval: one-sided bounds at half the level each."""
    return (
        tango_bound(b, c, n, alpha=alpha / 2, side="lower"),
        tango_bound(b, c, n, alpha=alpha / 2, side="upper"),
    )


def _score(b: float, c: float, n: float, delta: float) -> float:
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
