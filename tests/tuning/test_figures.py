"""Figures of made studies: what they show, and a reason for each that cannot be drawn."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.container import ErrorbarContainer
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tbr_lightning.tuning import figures
from tbr_lightning.tuning import front as fronts
from tbr_lightning.tuning.study import Study

from .conftest import filled, made_trial, make_study

BOUND = ["harmful_compliance_rate <= 0.5"]


def spread(study: Study, count: int = 12) -> list[FrozenTrial]:
    rng = np.random.default_rng(0)
    trials = []
    for number in range(count):
        values = rng.random(len(study.objectives)).round(3).tolist()
        excess = [values[min(1, len(values) - 1)] - 0.5] if study.constraints else []
        ends = {
            name: [max(value - 0.1, 0), min(value + 0.2, 1)]
            for name, value in zip(study.objectives, values, strict=True)
        }
        reflection = ("none", "external")[number % 2]
        trials.append(
            made_trial(values, excess, reflection=reflection, harmful=100 + number, intervals=ends)
        )
    trials.append(made_trial(None, state=TrialState.FAIL))
    trials.append(made_trial(None, state=TrialState.PRUNED))
    return filled(study, trials)[1]


def drawable(figure: Any) -> bool:
    target = io.BytesIO()
    figure.savefig(target, bbox_inches="tight")
    return target.getvalue().startswith(b"\x89PNG")


def test_everything_is_drawn_and_nothing_is_left_behind() -> None:
    study = make_study(constraints=BOUND)
    style = dict(mpl.rcParams)
    drawn, missing = figures.study_figures(study, spread(study))
    assert set(drawn) == {
        "pareto.png",
        "importances.png",
        "parallel.png",
        "slice_false_refusal_rate.png",
        "slice_harmful_compliance_rate.png",
        "history_false_refusal_rate.png",
        "history_harmful_compliance_rate.png",
    }
    assert missing == {}
    assert all(drawable(figure) for figure in drawn.values())
    assert plt.get_fignums() == []
    assert {key: mpl.rcParams[key] for key in style} == style


def test_the_front_has_intervals_a_mark_and_a_line_for_each_bound() -> None:
    study = make_study(constraints=BOUND)
    trials = spread(study)
    done = fronts.finished(trials)
    front = fronts.pareto_front(study, trials)
    choice = fronts.choose(study, front)
    assert choice is not None
    (axes,) = figures.front_figure(study, done, choice.trial).axes
    labels = axes.get_legend_handles_labels()[1]
    assert set(labels) == {
        "breaks a constraint",
        "dominated",
        "Pareto front, 95% intervals",
        f"chosen: trial {choice.trial.number}",
        "harmful compliance rate <= 0.5",
    }
    (bars,) = [item for item in axes.containers if isinstance(item, ErrorbarContainer)]
    across, up = bars.lines[0].get_data()
    assert sorted(zip(across, up, strict=True)) == sorted(tuple(t.values) for t in front)
    across_bars = bars.lines[2][0].get_segments()
    first = front[0]
    low, high = first.user_attrs["intervals"]["false_refusal_rate"]
    assert np.allclose(across_bars[0][:, 0], [low, high])
    numbers = {text.get_text() for text in axes.texts}
    assert numbers == {str(trial.number) for trial in front}
    points = sum(len(group.get_offsets()) for group in axes.collections if len(group.get_offsets()))
    assert points >= len(done) - len(front)


def test_three_objectives_are_shown_in_pairs() -> None:
    study = make_study(["a", "b", "c"], ["minimize", "maximize", "minimize"])
    trials = spread(study)
    figure = figures.front_figure(study, fronts.finished(trials))
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert labels == [
        ("a (lower is better)", "b (higher is better)"),
        ("a (lower is better)", "c (lower is better)"),
        ("b (higher is better)", "c (lower is better)"),
    ]
    drawn, missing = figures.study_figures(study, trials)
    assert missing == {}
    assert len(drawn) == 3 + 2 * 3


def test_one_objective_has_no_front() -> None:
    study = make_study(["general_accuracy"], ["maximize"])
    drawn, missing = figures.study_figures(study, spread(study))
    assert list(missing) == ["pareto.png"]
    assert {"importances.png", "parallel.png", "history_general_accuracy.png"} <= set(drawn)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_trials_are_a_reason_and_no_error(two: Study, count: int) -> None:
    trials = filled(two, [made_trial([0.1, 0.2]), made_trial(None, state=TrialState.FAIL)])[1]
    drawn, missing = figures.study_figures(two, trials[:count])
    assert missing["importances.png"] == f"{count} finished trials say nothing about it"
    assert "slice_false_refusal_rate.png" in missing
    assert ("pareto.png" in drawn) == (count == 1)


def test_what_does_not_vary_is_a_reason(two: Study) -> None:
    trials = filled(two, [made_trial([0.1, 0.2]), made_trial([0.2, 0.1])])[1]
    drawn, missing = figures.study_figures(two, trials)
    assert missing["parallel.png"] == "no parameter varies among the finished trials"
    assert "history_false_refusal_rate.png" in drawn
    trials = filled(two, [made_trial([0.1, 0.2], harmful=100 + i) for i in range(4)])[1]
    drawn, missing = figures.study_figures(two, trials)
    assert "every finished trial has the same" in missing["importances.png"]
    assert all(drawable(figure) for figure in drawn.values())


def test_conditional_parameters_and_infeasible_everything(two: Study) -> None:
    study = make_study(constraints=BOUND)
    arms = {"reflection": CategoricalDistribution(["none", "external"])}
    weight = {"objective.reflection_weight": FloatDistribution(0.1, 2)}
    trials = []
    for number in range(8):
        external = number % 2 == 1
        params: dict[str, Any] = {"reflection": "external" if external else "none"}
        if external:
            params["objective.reflection_weight"] = 0.2 * number + 0.1
        trials.append(
            create_trial(
                values=[0.1 * number, 0.6],
                params=params,
                distributions=arms | (weight if external else {}),
                user_attrs={"constraints": [0.1]},
            )
        )
    drawn, missing = figures.study_figures(study, filled(study, trials)[1])
    assert missing == {}
    assert all(drawable(figure) for figure in drawn.values())


def test_many_trials_share_a_parallel_plot(two: Study) -> None:
    rng = np.random.default_rng(0)
    points = rng.random((figures._LINES + 100, 2))
    trials = filled(two, [made_trial(p, harmful=100 + i % 200) for i, p in enumerate(points)])[1]
    drawn, missing = figures.study_figures(two, trials)
    assert missing == {}
    assert "200 of 300" in drawn["parallel.png"].axes[0].get_title("left")
