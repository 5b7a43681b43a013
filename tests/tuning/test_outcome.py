"""From seeds to a trial: means, intervals, and what is no result."""

from __future__ import annotations

import numpy as np
import pytest

from tbr_lightning.errors import UserError
from tbr_lightning.tuning.folder import TrialResult
from tbr_lightning.tuning.outcome import constraints_of, over_seeds, values_of
from tbr_lightning.tuning.study import read_study


def seed(value: float, half: float = 0.05) -> dict[str, float]:
    return {"r": value, "r_lo": value - half, "r_hi": value + half, "r_n": 100, "loss": value}


def test_one_seed_keeps_the_evaluations_own_interval() -> None:
    means, intervals = over_seeds([seed(0.2)])
    assert means == {"r": 0.2, "loss": 0.2}
    assert intervals == {"r": pytest.approx([0.15, 0.25])}


def test_seeds_that_agree_leave_the_interval_of_the_prompts() -> None:
    means, intervals = over_seeds([seed(0.4)] * 3)
    assert means["r"] == pytest.approx(0.4)
    assert intervals["r"] == pytest.approx([0.35, 0.45])


def test_seeds_that_differ_widen_it_and_rates_stay_rates() -> None:
    _, close = over_seeds([seed(0.40), seed(0.41)])
    _, apart = over_seeds([seed(0.30), seed(0.51)])
    assert apart["r"][1] - apart["r"][0] > close["r"][1] - close["r"][0] > 0.1
    _, edge = over_seeds([seed(0.06), seed(0.5)])
    assert edge["r"][0] == 0


def test_the_interval_covers_the_mean_of_seeds_and_prompts() -> None:
    random, seeds, prompts, hit = np.random.default_rng(0), 4, 100, 0
    for _ in range(400):
        difficulty = random.normal(0, 0.1, prompts)  # shared by all seeds
        rows = []
        for _ in range(seeds):
            p = np.clip(0.5 + random.normal(0, 0.05) + difficulty, 0, 1)
            mean = (random.random(prompts) < p).mean()
            half = 1.96 * np.sqrt(mean * (1 - mean) / prompts)
            rows.append(seed(float(mean), float(half)))
        low, high = over_seeds(rows)[1]["r"]
        hit += low <= 0.5 <= high
    assert hit / 400 > 0.94


def test_what_is_missing_or_not_finite_is_no_result() -> None:
    study = read_study(
        "s",
        "s.yaml",
        "space: {a: {choices: [1]}}\nobjectives: {r: minimize}\n"
        "constraints: ['h <= 0.1']\ntrials: 1",
    )
    result = TrialResult("complete", metrics={"r": 0.3, "h": 0.25})
    assert values_of(study, result) == [0.3]
    assert constraints_of(study, result) == [pytest.approx(0.15)]
    with pytest.raises(UserError, match=r"objectives\.r: no run logged it"):
        values_of(study, TrialResult("complete"))
    with pytest.raises(UserError, match=r"constraints\.h=inf is not a finite number"):
        constraints_of(study, TrialResult("complete", metrics={"h": float("inf")}))
