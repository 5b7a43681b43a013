"""What models are called and how they look: the same wherever they are shown."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from tbr_lightning.reports import names, style

PLAIN, TUNED = "plain refusals (tiny, seed 0)", "external reflections (tiny, seed 0)"

# Machado, Oliveira and Fernandes (2009), full severity, for linear RGB.
SEEN = {
    "everybody": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}


def linear(colour: str) -> Any:
    parts = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def oklab(rgb: Any) -> Any:
    """Return a colour in Oklab (Ottosson, 2020), where distances are as people see them."""
    lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    ) @ np.clip(rgb, 0, 1)
    return np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    ) @ np.cbrt(lms)


@pytest.mark.parametrize("eyes", SEEN)
def test_colours_of_models_stay_apart(eyes: str) -> None:
    found = [oklab(SEEN[eyes] @ linear(colour)) for colour in names.COLOURS]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(found, 2)) > 0.07


def test_no_model_has_the_colour_of_right_or_wrong() -> None:
    meant = [oklab(linear(colour)) for colour in (style.GOOD, style.BAD)]
    for colour in names.COLOURS:
        apart = [float(np.linalg.norm(oklab(linear(colour)) - one)) for one in meant]
        assert min(apart) > 0.1, colour


@pytest.mark.parametrize(
    ("params", "arm"),
    [
        ({"reflection.teacher": "none", "data.harmful": "300"}, "plain refusals"),
        ({}, "plain refusals"),
        ({"reflection.teacher": "none", "data.harmful": "0"}, "general rows only"),
        ({"reflection.teacher": "none", "data.harmful": "None"}, "general rows only"),
        ({"reflection.teacher": "external"}, "external reflections"),
        (
            {"reflection.teacher": "external", "reflection.kinds": "['general', 'harmful']"},
            "external reflections on every row",
        ),
        (
            {"reflection.teacher": "external", "reflection.kinds": "['harmful', 'look_alike']"},
            "external reflections",  # without such rows it is the same model
        ),
        (
            {
                "reflection.teacher": "external",
                "reflection.kinds": "['harmful', 'look_alike']",
                "data.look_alikes": "25",
            },
            "external reflections, 25 reasoned look-alikes",
        ),
        (
            {"reflection.teacher": "none", "data.look_alikes": "100"},
            "plain refusals, 100 look-alikes",
        ),
        ({"data.look_alike": "benign.json"}, "plain refusals, look-alikes"),
        (
            {
                "reflection.teacher": "recorded",
                "objective._target_": "tbr_lightning.objectives.dpo.DPO",
            },
            "recorded reflections, DPO",
        ),
    ],
)
def test_an_arm_is_named_by_what_its_training_did(params: dict[str, str], arm: str) -> None:
    assert names.arm_of(params) == arm


def test_what_all_names_share_is_left_out_and_said_once() -> None:
    short, common = names.shared([PLAIN, f"{TUNED} with system prompt"])
    assert list(short.values()) == ["plain refusals", "external reflections with system prompt"]
    assert common == "tiny, seed 0"
    untuned = f"{names.untuned('tiny')}, asked to reflect"
    assert names.shared([PLAIN, untuned]) == (
        {PLAIN: "plain refusals", untuned: "untuned, asked to reflect"},
        "tiny, seed 0",
    )
    roles = [names.with_role("champion v1", PLAIN), names.with_role("candidate v2", TUNED)]
    assert list(names.shared(roles)[0].values()) == [
        "champion v1: plain refusals",
        "candidate v2: external reflections",
    ]


@pytest.mark.parametrize(
    "whole",
    [
        [PLAIN],  # alone it says what it is
        [PLAIN, "external reflections (tiny, seed 1)"],  # told apart by the seed
        [PLAIN, "m-01234567"],  # a model that nothing is known of
        ["control: plain refusals (tiny, seed 0)", "external reflections (qwen3_4b, seed 0)"],
    ],
)
def test_names_that_need_it_stay_whole(whole: list[str]) -> None:
    assert names.shared(whole) == ({name: name for name in whole}, "")


def test_a_known_arm_looks_the_same_in_every_figure() -> None:
    alone = names.looks([TUNED])[TUNED]
    many = names.looks(["x", "y", "untuned (tiny)", PLAIN, TUNED, "general rows only (tiny)"])
    champion = names.with_role("champion v3", "external reflections (qwen3_4b, seed 7)")
    for name, look in {
        "in an arena": names.looks(["external reflections", "steering"])["external reflections"],
        "in a study's groups": names.looks(["none", "external"])["external"],
        "in the demo": names.looks([names.over_seeds(TUNED)])["external reflections (tiny)"],
        "at the gate": names.looks([champion])[champion],
        "among others": many[TUNED],
    }.items():
        assert look == alone, name
    assert many[PLAIN] == names.looks(["none"])["none"] != alone


def test_another_name_keeps_its_look_whatever_stands_beside_it() -> None:
    alone = names.looks(["steering"])["steering"]
    assert names.looks(["steering", "m-01234567"])["steering"] == alone


def test_no_two_models_of_a_figure_look_the_same() -> None:
    for count in range(1, 40):  # whatever the others' names would have liked
        beside = [f"rival {n}" for n in range(count)]
        assert names.looks([*beside, PLAIN])[PLAIN] == names.looks([PLAIN])[PLAIN]
    few = names.looks([f"{n}" for n in range(8)]).values()
    assert len({look.colour for look in few}) == 8
    many = names.looks([PLAIN, TUNED, *(f"rival {n}" for n in range(50))])
    assert len({(look.colour, look.marker) for look in many.values()}) == 52
