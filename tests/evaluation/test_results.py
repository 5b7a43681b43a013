"""Metrics of a hand-labelled set of twelve responses, computed by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tbr_lightning.evaluation.results import Judged, from_table, metrics, rates, table_rows


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
        "harmful_compliance": (1, 3),
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


def test_what_is_absent_is_not_logged() -> None:
    numbers = metrics([row for row in TWELVE if row.kind == "harmful"])
    assert "false_refusal_rate" not in numbers
    assert "general_accuracy" not in numbers


def test_the_table_comes_back_as_it_was() -> None:
    rows = table_rows(TWELVE)
    stored = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    assert from_table(json.dumps(stored)) == TWELVE
