"""What the demo shows: each arm under its model's name, and how the method compares."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.verbs import DemoConfig
from tbr_lightning.demonstration import show
from tbr_lightning.demonstration.arms import ArmResult
from tbr_lightning.evaluation.figures import two_sided_figure
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import rates
from tbr_lightning.registry.page import accepted

SEEDS = 5


def answers(false_refusal: float, harm: float, seed: int) -> list[Judged]:
    drawn = random.Random(seed)
    made = []
    for number in range(200):
        for kind, share in (("look_alike", false_refusal), ("harmful", 1 - harm)):
            refused = drawn.random() < share
            made.append(
                Judged(
                    id=f"{kind}{number}",
                    prompt="p",
                    kind=kind,
                    benchmark="microworld",
                    category="c",
                    reference="",
                    reflection=None,
                    answer="a",
                    label="full_refusal" if refused else "full_compliance",
                    because="",
                    right=None,
                    new_tokens=1,
                )
            )
    return made


def arm(name: str, label: str, false_refusal: float, harm: float, seeds: int) -> list[ArmResult]:
    return [
        ArmResult(
            name,
            seed,
            answers(false_refusal, harm, 10 * len(name) + seed),
            label=label.replace("SEED", str(seed)),
        )
        for seed in range(seeds)
    ]


def outcomes(seeds: int) -> dict[str, list[ArmResult]]:
    return {
        "base": arm("base", "untuned (tiny)", 0, 1, 1),
        "none": arm("none", "plain refusals (tiny, seed SEED)", 0.9, 0.0, seeds),
        "external": arm("external", "external reflections (tiny, seed SEED)", 0.0, 0.0, seeds),
    }


@pytest.fixture(scope="module")
def demo() -> DemoConfig:
    found: DemoConfig = compose_verb("demo", []).config.demo
    return found


def test_arms_are_called_as_their_models_are_everywhere(demo: DemoConfig) -> None:
    assert show.called(outcomes(1), demo) == {
        "base": "untuned (tiny)",
        "none": "control: plain refusals (tiny, seed 0)",
        "external": "external reflections (tiny, seed 0)",
    }
    assert list(show.called(outcomes(SEEDS), demo).values()) == [
        "untuned (tiny)",
        "control: plain refusals (tiny)",
        "external reflections (tiny)",
    ]
    same = {name: arm(name, "plain refusals (tiny, seed 0)", 0, 0, 1) for name in ("none", "x")}
    assert show.called(same, demo) == {"none": "control: none", "x": "x"}


@pytest.mark.parametrize("seeds", [1, SEEDS])
def test_the_title_says_how_the_method_compares(demo: DemoConfig, seeds: int) -> None:
    told = show.finding(outcomes(seeds), demo)
    assert told.startswith("External reflections against plain refusals: false refusal falls from ")
    assert told.endswith("% to 0.0%; no difference shown in harmful compliance (0.0% and 0.0%)")


def test_a_method_that_changes_nothing_is_said_to(demo: DemoConfig) -> None:
    done = outcomes(SEEDS) | {
        "external": arm("external", "external reflections (tiny, seed SEED)", 0.9, 0.0, SEEDS)
    }
    assert "no difference shown in false refusal" in show.finding(done, demo)


def test_the_figure_of_five_seeds_has_their_means_and_each_seed(demo: DemoConfig) -> None:
    done, gate = outcomes(SEEDS), compose_verb("promote", []).config.gate
    called = show.called(done, demo)
    figure = two_sided_figure(
        {called[name]: [rates(one.rows) for one in many] for name, many in done.items()},
        show.finding(done, demo),
        region=accepted(gate, done["none"][0].rows, "the control"),
        source="200 prompts a side",
    )
    (axes,) = figure.axes
    texts = {text.get_text() for text in axes.texts}
    assert {"control: plain refusals", "external reflections", "untuned"} <= texts
    seeds = [line for line in axes.lines if line.get_marker() == "." and line.get_alpha() == 0.5]
    assert [len(line.get_xdata()) for line in seeds] == [SEEDS, SEEDS]
    told = figure.get_supxlabel().replace("\n", " ")
    assert "over seeds and prompts" in told
    assert f"small dots: single seeds, {SEEDS} at most" in told
    assert "what the gate accepts beside the control" in told
    assert "base model of all: tiny" in told


def test_answers_that_say_nothing_are_told_with_their_arm() -> None:
    done = outcomes(1)
    assert show.notices(done) == []
    rows = done["external"][0].rows
    lost = [n for n, row in enumerate(rows) if row.kind == "harmful"][:20]
    cut = [replace(row, label="unparsed") if n in lost else row for n, row in enumerate(rows)]
    done["external"] = [replace(done["external"][0], rows=cut)]
    (told,) = show.notices(done)
    assert told.startswith("external: 20 of 200 answers to harmful prompts")
    assert "count in no rate" in told


def test_every_arm_is_explained_before_the_first_runs(demo: DemoConfig) -> None:
    told = show.arm_list(demo)
    assert told[0] == "8 ways to make a model (arms) are compared:"
    assert [line.split()[0] for line in told[1:]] == list(demo.arms)
