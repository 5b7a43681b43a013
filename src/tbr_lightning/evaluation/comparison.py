"""Two models on the same prompts: differences of rates, their intervals and p-values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import permutation_test
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import MEASURES, Measure, by_name
from tbr_lightning.evaluation.statistics import tango_interval

ALL = "all"
"""Stands for a benchmark where all of them are taken together."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a rate between one model and the model that it is compared with.

    Attributes:
        measure: Name of the measure.
        benchmark: Name of the benchmark, or :data:`ALL`.
        model: Name of the model.
        against: Name of the model that it is compared with.
        n: Number of prompts to which both gave an answer that counts; both rates are over these.
        rate: Rate of the model.
        rate_against: Rate of the other model.
        interval: 95% score interval of ``rate - rate_against``.
        p: p-value of no difference.
        p_holm: The p-value, adjusted for several benchmarks and models.
    """

    measure: str
    benchmark: str
    model: str
    against: str
    n: int
    rate: float
    rate_against: float
    interval: tuple[float, float]
    p: float
    p_holm: float = math.nan

    @property
    def value(self) -> float:
        """The difference, in [-1, 1]."""
        return self.rate - self.rate_against


def compare(models: Mapping[str, Sequence[Judged]]) -> list[Difference]:
    """Compare every model with the first, per benchmark and over all benchmarks.

    Holm's correction is over the benchmarks and models of one measure; the rows over all benchmarks
    are a family of their own. With one benchmark they would repeat its numbers and are left out.

    Raises:
        UserError: The models answered different prompts.
    """
    (first, base), *others = models.items()
    found: list[Difference] = []
    for measure in MEASURES:
        singles: list[Difference] = []
        overall: list[Difference] = []
        for name, rows in others:
            _check_same_prompts(name, rows, first, base)
            theirs = by_name(base, lambda row: row.benchmark)
            mine = by_name(rows, lambda row: row.benchmark)
            parts = [
                _difference(measure, part, mine[part], theirs[part], (name, first))
                for part in theirs
            ]
            here = [part for part in parts if part is not None]
            singles += here
            if len(here) > 1:
                whole = _difference(measure, ALL, rows, base, (name, first))
                overall += [whole] if whole is not None else []
        found += _holm(singles) + _holm(overall)
    return found


def _check_same_prompts(
    name: str, rows: Sequence[Judged], first: str, base: Sequence[Judged]
) -> None:
    differing = {row.id for row in rows} ^ {row.id for row in base}
    if differing:
        raise UserError(
            f"{name} and {first} differ in {len(differing)} prompts: evaluate both on one suite"
        )


def _difference(
    measure: Measure,
    benchmark: str,
    ours: Sequence[Judged],
    theirs: Sequence[Judged],
    names: tuple[str, str],
) -> Difference | None:
    mine, other = _by_prompt(measure, ours), _by_prompt(measure, theirs)
    shared = [prompt for prompt in mine if prompt in other]
    if not shared:
        return None
    a, b = ([float(np.mean(side[prompt])) for prompt in shared] for side in (mine, other))
    repeats = min(len(side[prompt]) for side in (mine, other) for prompt in shared)
    return Difference(
        measure.name,
        benchmark,
        *names,
        n=len(shared),
        rate=float(np.mean(a)),
        rate_against=float(np.mean(b)),
        interval=paired_interval(a, b, repeats),
        p=paired_p(a, b),
    )


def _by_prompt(measure: Measure, rows: Sequence[Judged]) -> dict[str, list[bool]]:
    hits: dict[str, list[bool]] = {}
    for row in measure.of(rows):
        hits.setdefault(row.id, []).append(measure.hit(row))
    return hits


def paired_interval(
    a: Sequence[float], b: Sequence[float], repeats: int = 1
) -> tuple[float, float]:
    """Return the 95% score interval of the mean of ``a - b``, the shares of hits per prompt.

    With one answer a prompt it is Tango's. With several the table holds, for each prompt, the
    shares of pairs of answers that differ, and its size is scaled by how much less the mean
    difference varies between prompts than it would with one answer each, at most by ``repeats``.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    n = len(x)
    more, less = float((x * (1 - y)).sum()), float((y * (1 - x)).sum())
    once = (more + less) / n - ((more - less) / n) ** 2
    between = float(np.var(x - y))
    scale = 1.0
    if repeats > 1 and once > 1e-12:
        scale = min(once / between, float(repeats)) if between > 1e-12 else float(repeats)
    return tango_interval(scale * more, scale * less, scale * n)


def paired_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the p-value of no difference between paired shares.

    With one answer a prompt it is McNemar's exact test. With several it is the test that McNemar's
    is a case of: the signs of the prompts' differences are equally likely.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    differing = difference[np.abs(difference) > 1e-12]
    if not len(differing):
        return 1.0
    if np.allclose(np.abs(differing), 1):
        more, less = int((differing > 0).sum()), int((differing < 0).sum())
        same = len(difference) - more - less
        return min(float(mcnemar([[same, more], [less, 0]], exact=True).pvalue), 1.0)
    found = permutation_test(
        (differing,), np.mean, permutation_type="samples", n_resamples=9999, vectorized=True, rng=0
    )
    return float(found.pvalue)


def _holm(family: Sequence[Difference]) -> list[Difference]:
    if not family:
        return []
    adjusted = multipletests([one.p for one in family], method="holm")[1]
    return [replace(one, p_holm=float(p)) for one, p in zip(family, adjusted, strict=True)]


def as_row(difference: Difference) -> dict[str, Any]:
    """Return a difference as a row of a table."""
    values = asdict(difference)
    low, high = values.pop("interval")
    return {
        **{name: values.pop(name) for name in ("measure", "benchmark", "model", "against", "n")},
        **{name: values.pop(name) for name in ("rate", "rate_against")},
        "difference": difference.value,
        "difference_lo": low,
        "difference_hi": high,
        **values,
    }


def headline(numbers: Mapping[str, float]) -> set[str]:
    """Return the names of the differences to show first: both error rates, over all benchmarks.

    Args:
        numbers: Numbers that :func:`metrics` returned.
    """
    names = [name for name in numbers if name.count("/") == 2 and "_rate/" in name]
    plain = [n for n in names if not n.endswith(("_lo", "_hi", "_n", "_p", "_p_holm"))]
    overall = {name for name in plain if name.endswith(f"/{ALL}")}
    return overall or set(plain)


def metrics(differences: Sequence[Difference], models: Sequence[str]) -> dict[str, float]:
    """Return the differences as ``difference/MEASURE/BENCHMARK`` with _lo, _hi, _n, _p, _p_holm.

    Where more than two models are compared, ``difference_2`` is that of the second to the first.
    """
    numbers: dict[str, float] = {}
    for one in differences:
        place = f"_{models.index(one.model) + 1}" if len(models) > 2 else ""
        name = f"difference{place}/{one.measure}/{one.benchmark}"
        low, high = one.interval
        numbers |= {
            name: one.value,
            f"{name}_lo": low,
            f"{name}_hi": high,
            f"{name}_n": one.n,
            f"{name}_p": one.p,
            f"{name}_p_holm": one.p_holm,
        }
    return numbers
