"""Claims of a study are answered as the numbers of its models say."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial

from tbr_lightning.ablation.hypotheses import answers
from tbr_lightning.errors import UserError
from tbr_lightning.tuning.study import Study, read_study

MODELS = {"smollm2_135m": 0.135, "llama3_2_1b": 1.2, "llama3_2_3b": 3.2, "llama3_8b": 8.0}
STUDY = f"""
fixed: [data=safety_mix]
space:
  reflection: {{choices: [none, external]}}
  model: {{choices: [{", ".join(MODELS)}]}}
objectives: {{false_refusal_rate: minimize, harmful_compliance_rate: minimize}}
sampler: grid
groups: [model, reflection]
hypotheses:
  - {{about: lowers, metric: false_refusal_rate, of: {{reflection: external}},
     than: {{reflection: none}}}}
  - {{about: as safe, metric: harmful_compliance_rate, of: {{reflection: external}},
     than: {{reflection: none}}, expect: not_higher, margin: 0.02}}
  - {{about: as able, metric: general/mmlu, of: {{reflection: external}},
     than: {{reflection: none}}, expect: not_lower, margin: 0.02}}
  - {{about: falls, metric: false_refusal_rate, of: {{reflection: external}},
     expect: falls_with_size}}
"""


def study_of(text: str = STUDY) -> Study:
    return read_study("s", "s.yaml", text)


def trials(numbers: dict[tuple[str, str], dict[str, float]]) -> list[FrozenTrial]:
    space = study_of().space
    found = []
    for (model, reflection), metrics in numbers.items():
        params: dict[str, Any] = {"reflection": reflection, "model": model}
        distributions = {key: space[key].distribution() for key in params}
        found.append(
            optuna.trial.create_trial(
                values=[0.0, 0.0],
                params=params,
                distributions=distributions,
                user_attrs={"metrics": metrics},
            )
        )
    return found


def numbers(refused: list[float], harm: list[float], mmlu: list[float]) -> list[FrozenTrial]:
    """Return trials whose external arms differ from 0.5, 0.1 and 0.4 of ``none`` as said."""
    made = {}
    for model, a, b, c in zip(MODELS, refused, harm, mmlu, strict=True):
        for arm, on in (("none", 0), ("external", 1)):
            made[model, arm] = {
                "false_refusal_rate": 0.5 + on * a,
                "harmful_compliance_rate": 0.1 + on * b,
                "general/mmlu": 0.4 + on * c,
            }
    return trials(made)


def test_clear_numbers_are_answered() -> None:
    found = answers(
        study_of(),
        numbers([-0.1, -0.2, -0.3, -0.4], [0.0, 0.001, 0.0, -0.001], [-0.2, -0.19, -0.21, -0.2]),
    )
    # Of four models one order in 24 falls throughout: with Holm's factor that shows nothing.
    assert [one.verdict for one in found] == ["yes", "yes", "no", "not shown"]
    lowers, as_safe, _, falls = found
    assert lowers.value == pytest.approx(-0.25)
    # Student's t with three degrees of freedom: 3.182 times the standard error of the mean.
    half = 3.18245 * np.std([-0.1, -0.2, -0.3, -0.4], ddof=1) / 2
    assert lowers.interval == pytest.approx((-0.25 - half, -0.25 + half), abs=1e-5)
    assert as_safe.models == 4
    assert falls.value == pytest.approx(-1.0)
    assert falls.interval is None
    assert "yes: lowers (-25.0 points" in lowers.line


@pytest.mark.parametrize(("models", "p"), [(3, 1 / 6), (4, 1 / 24)])
def test_a_fall_with_size_is_as_rare_as_its_order_among_all_orders(models: int, p: float) -> None:
    alone = study_of()
    alone.hypotheses = alone.hypotheses[3:]
    made = numbers([-0.1, -0.2, -0.3, -0.4], [0.0] * 4, [0.0] * 4)
    few = [one for one in made if one.params["model"] in list(MODELS)[:models]]
    (falls,) = answers(alone, few)
    assert falls.value == pytest.approx(-1.0)
    assert falls.p == pytest.approx(p)
    assert falls.p_opposite == pytest.approx(1.0)
    assert falls.verdict == ("yes" if models == 4 else "not shown")


def test_a_number_that_is_no_share_is_not_told_in_points() -> None:
    study = study_of(STUDY.replace("metric: harmful_compliance_rate", "metric: new_tokens/harmful"))
    made = numbers([-0.1] * 4, [0.0] * 4, [0.0] * 4)
    for number, one in enumerate(made):
        one.user_attrs["metrics"]["new_tokens/harmful"] = 20.0 + number
    told = answers(study, made)[1].line
    assert "+1 [1, 1]" in told and "points" not in told


def test_what_varies_too_much_is_not_shown() -> None:
    found = answers(
        study_of(), numbers([-0.4, 0.3, -0.2, 0.2], [0.1, -0.1, 0.1, -0.1], [0.2, -0.2, 0.1, -0.1])
    )
    assert [one.verdict for one in found] == ["not shown"] * 4


def test_holm_makes_a_lone_small_p_larger() -> None:
    made = numbers([-0.11, -0.1, -0.12, -0.05], [0.1, -0.1, 0.1, -0.1], [0.2, -0.2, 0.1, -0.1])
    alone = study_of()
    alone.hypotheses = alone.hypotheses[:1]
    (single,), many = answers(alone, made), answers(study_of(), made)
    assert many[0].p == pytest.approx(4 * single.p)


def test_two_models_show_nothing() -> None:
    made = numbers([-0.5] * 4, [0.0] * 4, [0.0] * 4)
    few = [one for one in made if "3_" not in one.params["model"]]
    found = answers(study_of(), few)
    assert {one.verdict for one in found} == {"not shown"}
    assert "1 models; 3 are needed" in found[0].line


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("than: {reflection: none}}", "of: {reflection: none}}", "needs than"),
        ("{reflection: external}", "{reflections: external}", "is not known"),
        ("{reflection: external}", "{reflection: externl}", "is never externl"),
        ("expect: falls_with_size", "expect: falls", "is not known"),
    ],
)
def test_a_wrong_hypothesis_is_told(old: str, new: str, said: str) -> None:
    text = STUDY.replace(old, new)
    if "needs than" in said:
        text = STUDY.replace(",\n     than: {reflection: none}}", "}")
    with pytest.raises(UserError, match=said):
        study_of(text)
