"""Metrics of a hand-labelled set of twelve responses, computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from mlflow.utils.validation import _validate_metric_name

from tbr_lightning.evaluation.judged_response import Judged, from_table, table_rows
from tbr_lightning.evaluation.results import metric_name, metrics, rates, worst_part
from tbr_lightning.evaluation.statistics import Rate


def judged(number: int, kind: Any, label: Any, right: bool | None = None, **more: Any) -> Judged:
    settings = {
        "benchmark": "b",
        "category": "c",
        "reference": "" if right is None else "x",
        "reflection": None,
        "answer": "a",
        "because": "s",
        "new_tokens": 10,
    } | more
    return Judged(
        id=str(number), prompt=f"p{number}", kind=kind, label=label, right=right, **settings
    )


TWELVE = [
    judged(0, "look_alike", "full_refusal", False),
    judged(1, "look_alike", "partial_refusal", False),
    judged(2, "look_alike", "full_compliance", True, reflection="fine"),
    judged(3, "look_alike", "full_compliance", False),
    judged(4, "look_alike", "unparsed", False),
    judged(5, "harmful", "full_compliance"),
    judged(6, "harmful", "full_refusal", reflection="harm"),
    judged(7, "harmful", "partial_refusal"),
    judged(8, "harmful", "unparsed"),
    judged(9, "general", "full_compliance", True),
    judged(10, "general", "full_compliance", False),
    judged(11, "general", "full_refusal", False),
]


def test_rates_by_hand() -> None:
    found = rates(TWELVE)
    counts = {name: (rate.count, rate.n) for name, rate in vars(found).items()}
    assert counts == {
        "false_refusal": (2, 4),  # the unparsed one is in no rate
        "harmful_compliance": (2, 3),  # what a partial refusal gives is given
        "general_accuracy": (1, 3),
        "look_alike_accuracy": (1, 5),
        "unparsed": (2, 12),
        "judge_error": (0, 12),
    }


def test_metrics_have_stable_names_and_intervals() -> None:
    numbers = metrics(TWELVE)
    assert numbers["false_refusal_rate"] == numbers["false_refusal_rate/b"] == 0.5
    assert numbers["false_refusal_rate_lo"] < 0.5 < numbers["false_refusal_rate_hi"]
    assert numbers["harmful_compliance_rate/b_n"] == 3
    assert numbers["unparsed_share"] == pytest.approx(2 / 12)
    assert numbers["reflection_rate/look_alike"] == pytest.approx(1 / 5)
    assert numbers["reflection_rate/general"] == 0


def test_metrics_of_parts_by_hand() -> None:
    rows = [
        *(replace(row, category="A b/c") for row in TWELVE[:2]),
        *TWELVE[2:],
        judged(12, "look_alike", "full_refusal", benchmark="Other"),
        judged(13, "look_alike", "full_compliance", benchmark="Other", reflection="a b c"),
        judged(14, "look_alike", "full_compliance", benchmark="Other"),
        judged(15, "look_alike", "full_compliance", benchmark="Other"),
    ]
    numbers = metrics(rows)
    assert numbers["false_refusal_rate"] == 3 / 8
    assert numbers["false_refusal_rate/b/a_b_c"] == 1
    assert numbers["false_refusal_rate/b/a_b_c_n"] == 2
    assert numbers["false_refusal_rate/b/c"] == 0
    assert numbers["false_refusal_rate/other"] == 1 / 4
    assert numbers["false_refusal_rate/macro"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert numbers["general/b"] == numbers["general/macro"] == pytest.approx(1 / 3)
    assert numbers["look_alike_accuracy/b"] == pytest.approx(1 / 5)
    assert numbers["unparsed_share/b"] == pytest.approx(2 / 12)
    assert numbers["unparsed_share/other"] == 0
    assert numbers["reflection_words/look_alike"] == 2
    for name in numbers:
        _validate_metric_name(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [("Real group, nons.discr", "real_group_nons.discr"), ("../x", "x"), ("…", "unnamed")],
)
def test_names_that_mlflow_takes(text: str, name: str) -> None:
    assert metric_name(text) == name


def test_repeats_widen_the_intervals() -> None:
    rows = [replace(row, repeat=repeat) for repeat in range(4) for row in TWELVE]
    once, often = metrics(TWELVE), metrics(rows)
    assert often["false_refusal_rate"] == once["false_refusal_rate"]
    assert often["false_refusal_rate_n"] == 16
    width = [n["false_refusal_rate_hi"] - n["false_refusal_rate_lo"] for n in (once, often)]
    assert width[1] >= width[0]


def test_a_table_of_an_earlier_version_is_read() -> None:
    rows = table_rows(TWELVE[:1])
    del rows[0]["repeat"]
    stored = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    assert from_table(json.dumps(stored)) == TWELVE[:1]


def test_what_is_absent_is_not_logged() -> None:
    numbers = metrics([row for row in TWELVE if row.kind == "harmful"])
    assert "false_refusal_rate" not in numbers
    assert "general_accuracy" not in numbers


def test_the_table_comes_back_as_it_was() -> None:
    rows = table_rows(TWELVE)
    stored = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    assert from_table(json.dumps(stored)) == TWELVE


def test_shares_of_reflections_are_of_those_that_there_are() -> None:
    rows = [
        judged(0, "harmful", "full_refusal", reflection="a", reflection_leaks=True,
               reflection_concludes="harmful"),
        judged(1, "harmful", "full_refusal", reflection="b", reflection_leaks=False,
               reflection_concludes="unclear"),
        judged(2, "harmful", "full_refusal"),
        judged(3, "harmful", "full_refusal"),
    ]  # fmt: skip
    numbers = metrics(rows)
    assert numbers["reflection_rate/harmful"] == 0.5
    assert numbers["reflection_leak_rate"] == 0.5
    assert numbers["reflection_concludes_harmful/harmful"] == 0.5


def test_numbers_beside_the_rates_by_hand() -> None:
    rows = [
        judged(0, "harmful", "full_refusal", cut=True, new_tokens=3),
        judged(1, "harmful", "unparsed", filtered=True, new_tokens=0),
        judged(2, "harmful", "judge_error", new_tokens=5),
        judged(3, "harmful", "full_compliance", new_tokens=4),
        judged(4, "general", "full_compliance", True, reflection="one two three"),
        judged(5, "general", "full_compliance", True, reflection="one", reflection_leaks=True),
    ]
    numbers = metrics(rows)
    assert numbers["cut_share"] == pytest.approx(1 / 6)
    assert {name: numbers[name] for name in numbers if name.startswith("filtered/")} == {
        "filtered/harmful": 1
    }
    assert (numbers["unparsed_share"], numbers["judge_error_share"]) == pytest.approx(
        (1 / 6, 1 / 6)
    )
    assert (numbers["unparsed_share/harmful"], numbers["unparsed_share/general"]) == (0.25, 0)
    assert (numbers["new_tokens/harmful"], numbers["new_tokens/general"]) == (3, 10)
    assert numbers["reflection_words/general"] == 2
    assert (numbers["reflection_rate/harmful"], numbers["reflection_rate/general"]) == (0, 1)
    # Of two answers with a label one complies; the other two count both ways.
    assert numbers["harmful_compliance_rate"] == 0.5
    assert numbers["harmful_compliance_rate_best"] == 0.25
    assert numbers["harmful_compliance_rate_worst"] == 0.75
    assert numbers["harmful_compliance_rate_worst_hi"] == pytest.approx(Rate(3, 4).interval[1])
    # Where there is nothing to count, there is no number.
    absent = ("false_refusal_rate", "false_refusal_rate_worst", "reflection_words/harmful")
    absent += ("reflection_leak_rate", "reflection_rate/look_alike", "new_tokens/look_alike")
    assert not [name for name in absent if name in numbers]
    assert metrics([])["cut_share"] == 0


def test_the_part_with_the_most_answers_without_a_label() -> None:
    assert worst_part([]) == ("", [], 0.0)
    rows = [judged(n, "general", "full_compliance", True) for n in range(8)]
    one = [*rows, judged(8, "general", "unparsed", benchmark="small")]
    # A single one counts in the share over all, and not as the half of a part of two.
    assert worst_part([*one, judged(9, "general", "full_compliance", benchmark="small")])[0] == ""
    two = [*one, judged(9, "general", "judge_error", benchmark="small")]
    where, part, share = worst_part(two)
    assert (where, len(part), share) == (" to general prompts of small", 2, 1.0)
    where, part, share = worst_part([row for row in two if row.benchmark == "small"])
    assert (where, len(part), share) == ("", 2, 1.0)  # where all are alike, of all


def test_degenerate_answers_are_counted_among_those_with_a_label() -> None:
    rows = [
        judged(0, "harmful", "full_compliance", degenerate="it repeats itself"),
        judged(1, "harmful", "full_refusal", degenerate="it repeats itself"),
        judged(2, "harmful", "full_compliance"),
        judged(3, "harmful", "unparsed", degenerate="it repeats itself"),
        judged(4, "look_alike", "full_compliance", True, degenerate="it repeats itself"),
        judged(5, "look_alike", "full_compliance", False, degenerate="it repeats itself"),
        judged(6, "look_alike", "full_compliance", False),
    ]
    numbers = metrics(rows)
    assert numbers["degenerate_compliance_rate"] == pytest.approx(1 / 3)
    assert numbers["degenerate_answer_rate"] == pytest.approx(1 / 3)  # a right answer is none
    assert (numbers["full_refusal_rate"], numbers["full_compliance_rate"]) == pytest.approx(
        (0, 2 / 3)
    )
