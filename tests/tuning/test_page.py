"""The page of a study says of how many prompts its numbers are, or nothing."""

from __future__ import annotations

from tbr_lightning.tuning.page import _numbers


def test_a_number_has_its_prompts_or_is_not_shown() -> None:
    test = {f"false_refusal_rate{end}": v for end, v in (("", 0.2), ("_lo", 0.1), ("_hi", 0.3))}
    (of_before,) = _numbers("trial 1", test)
    assert not of_before.of["trial 1"].known  # not "n=1"
    (now,) = _numbers("trial 1", test | {"false_refusal_rate_n": 250.0})
    assert now.of["trial 1"].n == 250
