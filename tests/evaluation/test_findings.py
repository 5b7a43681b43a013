"""Titles of figures: what the numbers show, and never more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tbr_lightning.config.evaluation import JudgeConfig, SuiteConfig
from tbr_lightning.evaluation import findings
from tbr_lightning.evaluation.comparison import compare
from tbr_lightning.evaluation.findings import Change, compared, unpaired
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import FALSE_REFUSAL, HARMFUL_COMPLIANCE
from tbr_lightning.evaluation.statistics import Rate

PLAIN, TUNED = "plain refusals (tiny, seed 0)", "external reflections (tiny, seed 0)"


def answers(refused: int, complied: int = 0, n: int = 100, **more: Any) -> list[Judged]:
    """Answers to ``n`` look-alikes, of which so many are refused, and to ``n`` harmful prompts."""
    made = []
    for kind, hits in (("look_alike", refused), ("harmful", n - complied)):
        for number in range(n):
            label = "full_refusal" if number < hits else "full_compliance"
            facts: dict[str, Any] = {
                "id": f"{kind}{number}",
                "prompt": "p",
                "kind": kind,
                "benchmark": "microworld",
                "category": f"c{number % 2}",
                "reference": "",
                "reflection": None,
                "answer": "a",
                "label": label,
                "because": "",
                "right": None,
                "new_tokens": 1,
                **more,
            }
            made.append(Judged(**facts))
    return made


def title(*models: list[Judged]) -> str:
    named = dict(zip([PLAIN, TUNED, "steering (tiny, seed 0)"], models, strict=False))
    return compared(named, compare(named) if len(named) > 1 else [])


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            answers(93),
            answers(0),
            "External reflections against plain refusals: false refusal falls from 93.0% to 0.0%; "
            "no difference shown in harmful compliance (0.0% and 0.0%)",
        ),
        (
            answers(50),
            answers(48),  # two of a hundred prompts changed: the interval holds zero
            "External reflections against plain refusals: no difference shown in false refusal "
            "(50.0% and 48.0%); no difference shown in harmful compliance (0.0% and 0.0%)",
        ),
        (
            answers(10, complied=2),
            answers(40, complied=30),
            "External reflections against plain refusals: false refusal rises from 10.0% to 40.0%; "
            "harmful compliance rises from 2.0% to 30.0%",
        ),
    ],
)
def test_a_title_says_what_an_interval_shows(
    before: list[Judged], after: list[Judged], says: str
) -> None:
    assert title(before, after) == says


def test_one_model_is_measured_and_compared_with_nothing() -> None:
    assert title(answers(93, complied=2)) == (
        "Plain refusals (tiny, seed 0): refuses 93.0% of look-alikes, complies with 2.0% of "
        "harmful requests"
    )
    harmful = [row for row in answers(0) if row.kind == "harmful"]
    assert title(harmful).endswith("seed 0): complies with 0.0% of harmful requests")


@pytest.mark.parametrize(
    ("second", "third", "says"),
    [
        (answers(1), answers(90), "1 of 2 models refuses fewer look-alikes than plain refusals; no "
         "rise in harmful compliance is shown for it"),
        (answers(1), answers(2, complied=50), "2 of 2 models refuse fewer look-alikes than plain "
         "refusals; for 1 of them no rise in harmful compliance is shown"),
        (answers(92), answers(91, complied=50), "None of 2 models is shown to refuse fewer "
         "look-alikes than plain refusals"),
        (answers(0, complied=60), answers(0, complied=50), "2 of 2 models refuse fewer look-alikes "
         "than plain refusals; each complies with more harmful requests"),
    ],
)  # fmt: skip
def test_several_models_are_counted(second: list[Judged], third: list[Judged], says: str) -> None:
    assert title(answers(93), second, third) == says


def test_the_end_of_an_interval_at_zero_shows_nothing() -> None:
    assert Change(0.5, 0.4, -0.2, 0.0).direction == 0
    assert Change(0.5, 0.4, -0.2, -0.001).direction == -1
    assert Change(0.4, 0.5, 0.001, 0.2).direction == 1


def test_means_over_seeds_are_compared_without_pairs() -> None:
    found = unpaired([Rate(90, 100), Rate(94, 100)], [Rate(1, 100), Rate(0, 100)])
    assert found is not None
    assert (found.before, found.after) == (pytest.approx(0.92), pytest.approx(0.005))
    assert found.low < -0.9 < found.high < -0.8
    close = unpaired([Rate(50, 100), Rate(54, 100)], [Rate(47, 100), Rate(49, 100)])
    assert close is not None
    assert close.direction == 0
    assert unpaired([Rate(0, 0)], [Rate(1, 2)]) is None


def test_categories_are_described_and_not_tested() -> None:
    def shares(**counts: int) -> dict[str, Rate]:
        return {key: Rate(count, 10) for key, count in counts.items()}

    heading = FALSE_REFUSAL.heading
    assert findings.categories({"a": shares(x=9, y=8), "b": shares(x=0, y=8)}, heading) == (
        "false refusal is lower with b in 1 of 2 categories"
    )
    assert findings.categories({"a": shares(x=9, y=1), "b": shares(x=0, y=8)}, heading) == (
        "false refusal is lower with b in 1 of 2 categories and higher in 1"
    )
    assert findings.categories({"a": shares(x=9), "b": shares(x=9)}, heading).endswith(
        "is the same in all 1 categories"
    )
    assert findings.categories({"a": shares(x=9, some_thing=1)}, heading) == (
        "false refusal goes from 10% (some thing) to 90% (x)"
    )


def test_reflections_are_told_by_kind() -> None:
    silent = answers(0)
    speaking = [row if row.kind == "harmful" else replace(row, reflection="so") for row in silent]
    assert findings.reflections({PLAIN: silent, TUNED: speaking}) == (
        "Plain refusals: no reflection before any prompt; external reflections: a reflection "
        "before 100% of look-alikes"
    )


@pytest.mark.parametrize(
    ("of", "suite", "judge", "says"),
    [
        (
            ["microworld"],
            SuiteConfig(name="smoke", title="the micro-world", caveat="a made miniature"),
            JudgeConfig(name="rules"),
            "100 harmful prompts and 100 look-alikes of the micro-world's test half (a made "
            "miniature), judged by rules",
        ),
        (
            ["xstest"],
            SuiteConfig(name="xstest", half="dev"),
            JudgeConfig(name="wildguard"),
            "100 harmful prompts and 100 look-alikes of XSTest's dev half, judged by wildguard",
        ),
        (
            ["xstest", "advbench"],
            SuiteConfig(name="standard", half="all"),
            JudgeConfig(name="rules"),
            "200 harmful prompts and 200 look-alikes of XSTest and AdvBench, judged by rules",
        ),
        (
            ["a", "b", "c", "d"],
            SuiteConfig(name="mine"),
            JudgeConfig(name="rules"),
            "400 harmful prompts and 400 look-alikes of the suite mine, test half, judged by rules",
        ),
    ],
)
def test_a_caption_says_who_was_asked_what(
    of: list[str], suite: SuiteConfig, judge: JudgeConfig, says: str
) -> None:
    rows = [replace(row, id=f"{name}{row.id}") for name in of for row in answers(1, benchmark=name)]
    assert findings.asked_of(suite, judge, rows) == says


def test_a_caption_counts_prompts_and_not_answers() -> None:
    twice = [*answers(1), *answers(2, repeat=1)]
    suite, judge = SuiteConfig(name="s"), JudgeConfig(name="rules")
    assert findings.asked_of(suite, judge, twice, ["look_alike"]).startswith("100 look-alikes of")
    assert findings.SIDES == (FALSE_REFUSAL, HARMFUL_COMPLIANCE)
