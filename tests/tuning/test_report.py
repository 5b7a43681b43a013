"""The report says what was searched, what came of it, and how."""

from __future__ import annotations

import re

from optuna.trial import FrozenTrial, TrialState

from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning import report
from tbr_lightning.tuning.report import RetrainedModel, StudyResult
from tbr_lightning.tuning.study import Study

from .conftest import filled, made_trial, make_study

BOUND = ["harmful_compliance_rate <= 0.1"]


def ended(study: Study) -> tuple[list[FrozenTrial], StudyResult]:
    trials = filled(
        study,
        [
            made_trial(
                [0.3, 0.05],
                [-0.05],
                harmful=150,
                intervals={"false_refusal_rate": [0.2, 0.4]},
                runs=[{"seed": 0, "reused": True}],
                seconds=1800,
            ),
            made_trial([0.1, 0.2], [0.1]),
            made_trial(None, state=TrialState.FAIL, reason="the loss is NaN\nat step 3"),
            made_trial(None, state=TrialState.FAIL, reason="the loss is NaN\nat step 9"),
            made_trial(None, state=TrialState.PRUNED, reason="pruned at step 4"),
        ],
    )[1]
    choice = fronts.choose(study, fronts.pareto_front(study, trials))
    made = [
        RetrainedModel(1, "run1", "models:/m-1", {"false_refusal_rate": 0.31}, fresh=True),
        RetrainedModel(
            2,
            "run2",
            "models:/m-2",
            {
                "false_refusal_rate": 0.25,
                "false_refusal_rate_lo": 0.2,
                "false_refusal_rate_hi": 0.3,
            },
            {"harmful_compliance_rate": 0.04},
            "run3",
            fresh=True,
        ),
    ]
    return trials, StudyResult(
        choice,
        made=made,
        failed={3: "out of memory"},
        taken=made[1],
        name="tbr-microworld",
        version="4",
        gate=["tbr-microworld v4 with no champion yet: promoted", "passed  ceiling"],
    )


def test_the_whole_report() -> None:
    study = make_study(constraints=BOUND)
    trials, ending = ended(study)
    text = report.markdown(
        study,
        trials,
        ending,
        budget="20 trials",
        figures=["pareto.png"],
    )
    for part in (
        "- chosen: trial 0, since it is the only trial on the front\n  - to train it: python -m",
        "| **0** | 30.0% [20.0%, 40.0%] | 5.0% | none | 150 | 0.0005 |",
        "2 finished, 1 pruned, 2 failed; budget 20 trials; 0.51 hours",
        "1 of 2 finished trials break `harmful_compliance_rate <= 0.1`.",
        "failed, trials 2, 3: the loss is NaN",
        "pruned, trials 4: pruned at step 4",
        "1 training runs were taken from earlier trials",
        "  - seed 2: false_refusal_rate 25.0% [20.0%, 30.0%]; test half: ",
        "; test half: harmful_compliance_rate 4.0%; models:/m-2",
        "seed 3 failed: out of memory",
        "- test half, seed 2: harmful_compliance_rate 4.0%\n",
        "- registered: tbr-microworld version 4, challenger (models:/m-2)",
        "- gate: tbr-microworld v4 with no champion yet: promoted\n  - passed  ceiling",
        "low: 100",
        "![pareto](figures/pareto.png)",
        fronts.METHOD,
        report.MEDIAN,
    ):
        assert part in text, part
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        widths = {line.count("|") for line in table.strip().splitlines()}
        assert len(widths) == 1


def test_the_command_can_be_pasted() -> None:
    study = make_study()
    study.fixed = ["model=tiny", "reflection.kinds=[harmful, general]"]
    trials = filled(study, [made_trial([0.1, 0.1])])[1]
    choice = fronts.choose(study, trials)
    text = report.markdown(study, trials, StudyResult(choice), budget="1 trials")
    assert (
        "train model=tiny 'reflection.kinds=[harmful, general]' reflection=none data.harmful=100"
        in text
    )


def test_nothing_chosen_is_told() -> None:
    study = make_study(["general_accuracy"], ["maximize"])
    ending = StudyResult(None, instead="no trial has finished (no trial)")
    text = report.markdown(study, [], ending, budget="5 trials")
    assert "- nothing is registered: no trial has finished (no trial)" in text
    assert "No finished trial meets every constraint." in text
    assert fronts.METHOD not in text


def test_the_description_fits_a_tag_however_long_the_front() -> None:
    study = make_study()
    trials = filled(study, [made_trial([i / 100, 1 - i / 100]) for i in range(100)])[1]
    choice = fronts.choose(study, fronts.pareto_front(study, trials))
    text = report.description(study, trials, StudyResult(choice), "100 trials")
    assert len(text) < 5000
    whole = report.markdown(study, trials, StudyResult(choice), budget="100 trials")
    assert "and 50 more, in the artifact `front.json`" in whole


def test_passwords_stay_out() -> None:
    study = make_study()
    study.settings["fixed"].append("reflection.endpoint.base_url=http://me:hidden@127.0.0.1")  # type: ignore[index]
    assert "hidden" not in report.markdown(study, [], StudyResult(None, "none"), budget="1")
