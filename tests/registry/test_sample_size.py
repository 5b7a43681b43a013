"""What a suite can show, told before anything is judged, and suites that can show too little."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.power import chance_below
from tbr_lightning.registry.answers import Answers
from tbr_lightning.registry.gate import judge
from tbr_lightning.registry.sample_size import Sizes, check_support, no_room, power

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


def test_what_a_suite_can_show_is_told_whole() -> None:
    sizes = Sizes({"x": 100}, {"h": 200}, {"arc": 500, "qa": 200}, {"arc": 0.25})
    first, *others = check_support(sizes, ROOMY, paired=True).splitlines()
    assert first == (
        "what the suite can show at 95%: 100 look-alike prompts, a margin of 2.6 points; "
        "200 harmful prompts, a margin of 1.3 points; 500 arc prompts, a margin of 0.5 points; "
        "200 qa prompts, a margin of 1.3 points"
    )
    assert others[:2] == [
        "floor of arc: 26.5% (guessing gets 25.0%), which takes 149 of 500 right, 29.8%",
        "floor of qa: 50.0%, which takes 112 of 200 right, 56.0%",
    ]
    fall = 100 * chance_below(100, -0.1, 0.0, 0.05)
    assert 80 < fall < 99  # a number that other limits do not give
    assert others[2:] == [
        "power, if 1% of the answers also change each way by chance:",
        "  with 100 look-alike prompts a fall of false refusal by 10 points is shown in "
        f"{fall:.0f} of 100 cases",
        "  with 100 look-alike prompts an unchanged false refusal keeps the margin of 50 points in "
        "100 of 100 cases",
        f"  and a rise by 75 points is stopped in {stopped(100, 0.75, 0.5)} of 100",
        "  with 200 harmful prompts an unchanged harmful compliance keeps the margin of 10 points "
        "in 100 of 100 cases",
        f"  and a rise by 20 points is stopped in {stopped(200, 0.2, 0.1)} of 100",
    ]
    alone = check_support(sizes, ROOMY, paired=False).splitlines()
    assert alone == [first, *others[:2]]


ROOMY = replace(CONFIG, false_refusal_margin=0.5, harmful_compliance_margin=0.1)


def stopped(n: int, rise: float, margin: float) -> str:
    return f"{100 * (1 - chance_below(n, rise, margin, 0.05)):.0f}"


def test_power_that_no_suite_reaches_is_told() -> None:
    tight = replace(CONFIG, harmful_compliance_margin=0.0015, false_refusal_margin=0.0015)
    told = "\n".join(power(Sizes({"x": 2000}, {"h": 2000}), tight))
    assert "of 100 cases (no suite is large enough for 80)" in told
    waived = power(Sizes({"x": 200}, {"h": 200}), replace(CONFIG, require_superiority=False))
    assert len(waived) == 5 and not any("is shown" in line for line in waived)


def test_each_problem_of_a_suite_is_named_once() -> None:
    with pytest.raises(UserError) as told:
        check_support(Sizes({"x": 40}, {"h": 40}, {"t": 100}), CONFIG, paired=True)
    assert str(told.value).splitlines() == [
        f"the suite has 40 {kind} prompts, fewer than gate.min_prompts=100: use a larger suite or "
        "lower gate.min_prompts"
        for kind in ("look-alike", "harmful")
    ]
    # All together they are enough to be asked of; below that the kinds have said it.
    with pytest.raises(UserError, match="cannot be shown with 300 prompts"):
        check_support(
            Sizes({"x": 100}, {"h": 100}, {"t": 100}),
            replace(CONFIG, max_answer_leaks=0.001, harmful_compliance_margin=0.1),
            paired=False,
        )
    empty = replace(CONFIG, min_prompts=1, general_accuracy_margin=None, max_answer_leaks=1)
    with pytest.raises(
        UserError, match=r"max_harmful_compliance=0\.1 cannot be shown with 10 harmful prompts"
    ):
        check_support(Sizes({"x": 10}, {"h": 10}), empty, paired=False)


def test_a_benchmark_is_too_small_alone_where_its_margin_is_narrower_than_it_supports() -> None:
    parts = {"a": 25, "b": 400}
    for margin, named in ((0.2, False), (0.05, True), (None, False)):
        config = replace(ROOMY, benchmark_margin=margin)
        told = check_support(Sizes(parts, {"h": 400}, {"t": 400}), config, paired=True)
        assert ("too few to be judged alone: a" in told) is named
    one = check_support(Sizes({"a": 425}, {"h": 400}, {"t": 400}), ROOMY, paired=True)
    assert "too few" not in one


def test_a_floor_that_all_right_answers_just_reach() -> None:
    # Of 100 right answers Wilson's bound is 100 / (100 + z²) = 0.97366.
    sizes = Sizes({"x": 100}, {"h": 200}, {"t": 100})
    for floor, possible in ((0.9736, True), (0.9737, False)):
        config = replace(ROOMY, task_floors={"t": floor})
        if possible:
            told = check_support(sizes, config, paired=False)
            assert "which takes 100 of 100 right, 100.0%" in told
            continue
        with pytest.raises(UserError, match=r"a floor of 0\.9737 cannot be shown with 100 t"):
            check_support(sizes, config, paired=False)
