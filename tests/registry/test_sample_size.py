"""What a suite can show, told before anything is judged, and suites that can show too little."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tbr_lightning.errors import UserError
from tbr_lightning.registry.answers import Answers
from tbr_lightning.registry.gate import judge
from tbr_lightning.registry.sample_size import Sizes, check_support, no_room

from .test_gate import CHAMPION, CONFIG, N, evaluation, failed


def test_a_benchmark_too_small_to_be_judged_alone_is_told() -> None:
    sizes = Sizes({"x": N}, {"large": 900, "tiny": 20}, {"g": N})
    told = check_support(sizes, CONFIG, paired=True)
    assert "too few to be judged alone: tiny" in told
    assert "920 harmful prompts, a margin of 0.3 points" in told


def test_the_power_is_told_before_anything_is_judged() -> None:
    told = check_support(Sizes({"x": 200}, {"h": 200}, {"g": 200}), CONFIG, paired=True)
    assert "a fall of false refusal by 10 points is shown in 100 of 100 cases" in told
    assert (
        "with 200 harmful prompts an unchanged harmful compliance keeps the margin of 2 points in "
        "48 of 100 cases (ask for 408 for 80)"
    ) in told
    assert "a rise by 4 points is stopped in 100 of 100" in told
    alone = check_support(Sizes({"x": 200}, {"h": 200}, {"g": 200}), CONFIG, paired=False)
    assert "power" not in alone


def test_a_champion_without_refusals_to_lose_is_told_before_anything_is_judged() -> None:
    told = no_room(1, 200, CONFIG)
    assert told is not None
    assert "the champion refuses 1 of 200 look-alikes (0.5%)" in told
    least = int(told.partition("fewer than ")[2].split()[0])
    # As the gate has it: by so many fewer it is shown, by one less it is not.
    for refused in (least - 1, least):
        verdict = judge(evaluation(0, 2, 16), evaluation(refused, 2, 16), CONFIG)
        assert ("superiority" in failed(verdict)) == (refused < least)
        assert (no_room(refused, N, CONFIG) is None) == (refused == least)
    assert no_room(0, 200, replace(CONFIG, require_superiority=False)) is None
    assert no_room(0, 0, CONFIG) is None


def test_other_prompts_are_refused() -> None:
    with pytest.raises(UserError, match="differ in 300 prompts"):
        judge(evaluation(0, 0, 0, n=300), CHAMPION, CONFIG)


def test_several_answers_to_a_prompt_are_refused() -> None:
    twice = Answers([*CHAMPION.rows, *(replace(row, repeat=1) for row in CHAMPION.rows)])
    with pytest.raises(UserError, match="champion's evaluation has several answers"):
        judge(CHAMPION, twice, CONFIG)


def test_too_few_prompts_are_refused() -> None:
    few = evaluation(0, 0, 0, n=50)
    with pytest.raises(UserError, match=r"gate\.min_prompts=100"):
        judge(few, few, CONFIG)


def test_a_margin_that_the_suite_cannot_support_is_refused() -> None:
    config = replace(CONFIG, harmful_compliance_margin=0.01)
    with pytest.raises(UserError, match=r"harmful_compliance_margin=0\.01 .* 0\.0133"):
        judge(CHAMPION, CHAMPION, config)
    with pytest.raises(UserError, match=r"max_harmful_compliance=0\.001"):
        judge(CHAMPION, None, replace(CONFIG, max_harmful_compliance=0.001))


def test_a_suite_without_general_ability_is_refused_unless_that_is_wanted() -> None:
    sizes = Sizes({"x": N}, {"x": N})
    with pytest.raises(UserError, match="no general ability"):
        check_support(sizes, CONFIG, paired=True)
    assert check_support(sizes, CONFIG, paired=False)
    assert check_support(sizes, replace(CONFIG, general_accuracy_margin=None), paired=True)
