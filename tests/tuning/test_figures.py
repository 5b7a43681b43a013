"""The figure of a made study: what it shows."""

from __future__ import annotations

import numpy as np
from matplotlib.container import ErrorbarContainer
from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.tuning import figures
from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning.study import Study

from .conftest import filled, made_trial, make_study

BOUND = ["harmful_compliance_rate <= 0.5"]


def spread(study: Study, count: int = 12) -> list[FrozenTrial]:
    rng = np.random.default_rng(0)
    trials = []
    for number in range(count):
        values = rng.random(len(study.objectives)).round(3).tolist()
        excess = [values[min(1, len(values) - 1)] - 0.5] if study.bounds else []
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
        "worse than a trial on the front",
        "Pareto front",
        f"chosen: trial {choice.trial.number}",
        "harmful compliance rate <= 50%",
    }
    (bars,) = [item for item in axes.containers if isinstance(item, ErrorbarContainer)]
    across, up = bars.lines[0].get_data()
    assert sorted(zip(up, across, strict=True)) == sorted(tuple(t.values) for t in front)
    up_bars = bars.lines[2][1].get_segments()  # false refusal is up, as everywhere
    first = front[0]
    low, high = first.user_attrs["intervals"]["false_refusal_rate"]
    assert np.allclose(up_bars[0][:, 1], [low, high])
    title = axes.figure.get_suptitle().replace("\n", " ")
    values = [f"{100 * value:.1f}%" for value in choice.trial.values]
    arm = choice.trial.params["reflection"]
    assert title == (
        f"Trial {choice.trial.number} (reflection={arm}) is chosen, with false refusal "
        f"{values[0]} and harmful compliance {values[1]}; "
        f"{len(front)} of {len(done)} trials on the Pareto front"
    )
    numbers = {text.get_text() for text in axes.texts}
    assert numbers == {str(trial.number) for trial in front}
    points = sum(len(group.get_offsets()) for group in axes.collections if len(group.get_offsets()))
    assert points >= len(done) - len(front)


def test_of_few_trials_each_is_numbered_and_its_choices_are_told() -> None:
    study = make_study()
    trials = spread(study, count=4)
    figure = figures.front_figure(study, fronts.finished(trials))
    numbers = {text.get_text() for text in figure.axes[0].texts}
    assert set("0123") <= set(", ".join(numbers))
    told = figure.get_supxlabel().replace("\n", " ")
    assert "reflection=none: trials 0 and 2; reflection=external: trials 1 and 3" in told


def test_a_study_that_keeps_no_constraint_says_so() -> None:
    study = make_study(constraints=BOUND)
    trials = filled(study, [made_trial([0.1, 0.9], [0.4]), made_trial([0.2, 0.8], [0.3])])[1]
    (axes,) = figures.front_figure(study, fronts.finished(trials)).axes
    assert axes.figure.get_suptitle() == "None of 2 trials keeps every constraint"


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
