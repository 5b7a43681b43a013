"""Power of a paired comparison to show a difference, computed and not simulated.

The outcome of ``n`` pairs is trinomial: only the first member counts, only the second, or neither
or both. The chance that the score bound keeps a limit is the sum over all outcomes for which it
does.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binom, norm

CHURN = 0.01
"""Share of prompts that are taken to change each way beside the difference, as models do."""

_MOST = 20_000  # largest number of pairs considered
_TAIL = 1e-9  # probability of the outcomes that are left out


def chance_below(n: int, difference: float, limit: float, alpha: float) -> float:
    """Return the chance that the upper score bound of a paired difference is at most a limit.

    Args:
        n: Number of pairs.
        difference: True difference of the first member's share to the second's.
        limit: Limit in [-1, 1]; 0 asks whether a fall is shown.
        alpha: Level of the one-sided bound.
    """
    up, down = (min(CHURN + max(way, 0.0), 1 - CHURN) for way in (difference, -difference))
    b = _likely(n, up)
    c = _likely(n, down)
    # Of the pairs that are not b, each is c with this chance.
    weights = binom.pmf(b, n, up)[:, None] * binom.pmf(c[None, :], n - b[:, None], down / (1 - up))
    passes = _score(b[:, None], c[None, :], n, limit) <= -float(norm.isf(alpha))
    return float(min((weights * passes).sum(), 1.0))


def pairs_for(chance: float, difference: float, limit: float, alpha: float) -> int | None:
    """Return how many pairs reach a chance of :func:`chance_below`; ``None`` beyond 20,000.

    The chance rises with the pairs but for small steps, as counts are whole: the number returned
    reaches it, one slightly smaller may too.
    """
    low, high = 1, 2
    while chance_below(high, difference, limit, alpha) < chance:
        if high == _MOST:
            return None
        low, high = high, min(2 * high, _MOST)
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        if chance_below(middle, difference, limit, alpha) < chance:
            low = middle
        else:
            high = middle
    return high


def _likely(n: int, share: float) -> np.ndarray:
    low, high = binom.ppf([_TAIL, 1 - _TAIL], n, share)
    return np.arange(int(low), int(high) + 1)


def _score(b: np.ndarray, c: np.ndarray, n: int, delta: float) -> np.ndarray:
    """Return Tango's score statistic, as :mod:`.statistics` has it, for many tables at once."""
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0))
    variance = np.maximum(n * (2 * (root - linear) / (4 * n) + delta * (1 - delta)), 0.0)
    numerator = b - c - n * delta
    # Without variance it is infinite, or not a number where nothing differs: then no limit is kept.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerator / np.sqrt(variance))
