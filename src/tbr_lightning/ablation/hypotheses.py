"""A study's claims about its arms, each answered with yes, no, or not shown, over its models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tbr_lightning.ablation.models import chooses_model, model_of_trial, values_of
from tbr_lightning.ablation.view import is_share
from tbr_lightning.tuning.study import Hypothesis, Study

LEVEL = 0.05
_LEAST = 3  # models: two give an interval, but no one would rest a claim on it


@dataclass(frozen=True)
class Answer:
    """The answer of a study to one hypothesis.

    Attributes:
        about: The claim.
        metric: Metric that it is about.
        models: Number of models that it was tested over.
        value: Mean difference over models, or Spearman's rank correlation with the size.
        interval: 95% interval of the difference over models; ``None`` for a correlation.
        p: One-sided p-value that the claim fails, Holm-adjusted over the study's hypotheses.
        p_opposite: One-sided p-value that its opposite fails, likewise adjusted.
    """

    about: str
    metric: str
    models: int
    value: float = math.nan
    interval: tuple[float, float] | None = None
    p: float = math.nan
    p_opposite: float = math.nan

    @property
    def verdict(self) -> str:
        """``yes``, ``no`` or ``not shown``."""
        if self.p < LEVEL:
            return "yes"
        return "no" if self.p_opposite < LEVEL else "not shown"

    @property
    def line(self) -> str:
        """Line to print."""
        if math.isnan(self.value):
            few = self.models < _LEAST
            why = f"{_LEAST} are needed" if few else "their sizes or rates do not differ enough"
            return f"not shown: {self.about} ({self.models} models; {why})"
        if self.interval is None:
            shown = f"rank correlation with size {self.value:+.2f}"
        elif not is_share(self.metric):
            low, high = self.interval
            shown = f"{self.value:+.3g} [{low:.3g}, {high:.3g}]"
        else:
            low, high = (100 * end for end in self.interval)
            shown = f"{100 * self.value:+.1f} points [{low:.1f}, {high:.1f}]"
        return f"{self.verdict}: {self.about} ({shown}, {self.models} models, p={self.p:.2g})"


def answers(study: Study, trials: Iterable[FrozenTrial]) -> list[Answer]:
    """Answer a study's hypotheses; models are the units, so that a claim is about models.

    Differences between two arms are tested by Student's one-sided t over the models, each giving
    the difference of its arms' means; the fall with size by Spearman's rank correlation among all
    orders of the models, of which three are too few to show anything. P-values are
    adjusted after Holm, those for the claims and those against them apart.

    Args:
        study: Study with ``hypotheses``.
        trials: Trials in any state; only finished ones count.
    """
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    found = [_answer(study, one, done) for one in study.hypotheses]
    tested = [one for one in found if not math.isnan(one.value)]
    if not tested:
        return found
    holm = [
        iter(multipletests([getattr(one, name) for one in tested], method="holm")[1])
        for name in ("p", "p_opposite")
    ]
    return [
        one
        if math.isnan(one.value)
        else replace(one, p=float(next(holm[0])), p_opposite=float(next(holm[1])))
        for one in found
    ]


def as_table(found: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return one flat mapping per answer."""
    return [
        {
            "hypothesis": one.about,
            "answer": one.verdict,
            "metric": one.metric,
            "models": one.models,
            "value": one.value,
            "lo": one.interval[0] if one.interval else math.nan,
            "hi": one.interval[1] if one.interval else math.nan,
            "p_holm": one.p,
            "p_opposite_holm": one.p_opposite,
        }
        for one in found
    ]


def _answer(study: Study, asked: Hypothesis, done: Sequence[FrozenTrial]) -> Answer:
    ours = _means(study, asked.of, asked.metric, done)
    if asked.expect == "falls_with_size":
        return _size(study, asked, done, ours)
    theirs = _means(study, asked.than, asked.metric, done)
    shared = [model for model in ours if model in theirs]
    answer = Answer(asked.about, asked.metric, len(shared))
    if len(shared) < _LEAST:
        return answer
    differences = np.array([ours[model] - theirs[model] for model in shared])
    # lower: below 0; not_higher: below the margin; not_lower: above its negative.
    bound = {"lower": 0.0, "not_higher": asked.margin, "not_lower": -asked.margin}[asked.expect]
    below, above = (_one_sided(differences, bound, side) for side in ("less", "greater"))
    p, opposite = (above, below) if asked.expect == "not_lower" else (below, above)
    mean = float(differences.mean())
    half = float(stats.t.ppf(0.975, len(shared) - 1) * stats.sem(differences))
    return replace(
        answer, value=mean, interval=(mean - half, mean + half), p=p, p_opposite=opposite
    )


def _one_sided(differences: Any, bound: float, alternative: str) -> float:
    if np.ptp(differences) < 1e-12:  # no spread: a t-test would divide by zero
        beyond = differences[0] < bound if alternative == "less" else differences[0] > bound
        return 0.0 if beyond else 1.0
    return float(stats.ttest_1samp(differences, bound, alternative=alternative).pvalue)


def _size(
    study: Study, asked: Hypothesis, done: Sequence[FrozenTrial], ours: Mapping[str, float]
) -> Answer:
    sizes = {_identity(study, one): model_of_trial(study, one).parameters for one in done}
    known = {name: sizes[name] for name in ours if sizes[name]}
    answer = Answer(asked.about, asked.metric, len(known))
    values = [ours[name] for name in known]
    if len(set(known.values())) < _LEAST or np.ptp(values) == 0:
        return answer  # no order of sizes, or none of rates
    size, rate = (stats.rankdata(one) for one in (list(known.values()), values))
    size, rate = size - size.mean(), rate - rate.mean()
    rho = float(size @ rate / np.sqrt((size @ size) * (rate @ rate)))
    falls, rises = (_by_order(size, rate, side) for side in ("less", "greater"))
    return replace(answer, value=rho, p=falls, p_opposite=rises)


def _by_order(size: Any, rate: Any, alternative: str) -> float:
    """Return the share of orders of the models whose rank correlation is at least as extreme.

    Of up to seven models all orders are looked at, else 9,999 of them. The usual approximation by
    Student's t is for hundreds: it gives three models that fall in order p = 0, where one order in
    six does.
    """
    found = stats.permutation_test(
        (size,),
        lambda orders, axis: (orders * rate).sum(axis=axis),
        permutation_type="pairings",
        alternative=alternative,
        vectorized=True,
        n_resamples=9999,
        rng=0,
    )
    return float(found.pvalue)


def _means(
    study: Study, arm: Mapping[str, Any], metric: str, done: Sequence[FrozenTrial]
) -> dict[str, float]:
    """Return the mean of a metric over the trials of one arm, by model."""
    found: dict[str, list[float]] = {}
    for trial in done:
        metrics = trial.user_attrs.get("metrics", {})
        here = all(trial.params.get(key) == value for key, value in arm.items())
        if here and math.isfinite(metrics.get(metric, math.nan)):
            found.setdefault(_identity(study, trial), []).append(metrics[metric])
    return {model: float(np.mean(values)) for model, values in found.items()}


def _identity(study: Study, trial: FrozenTrial) -> str:
    keys = [key for key in study.groups if key in trial.params and chooses_model(key)]
    return values_of(trial, keys) or model_of_trial(study, trial).name
