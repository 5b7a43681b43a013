"""The search space: ranges, conditions, corners, grids, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import yaml

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.errors import UserError
from tbr_lightning.tuning.space import Space, cells, corners, cover, overrides_of, suggest
from tbr_lightning.tuning.study import read_study


def space_of(spec: dict[str, Any]) -> Space:
    study = {"space": spec, "objectives": {"r": "minimize"}, "trials": 1}
    return read_study("s", "s.yaml", yaml.safe_dump(study, sort_keys=False)).space


BRANCHES: dict[str, Any] = {
    "reflection": {"choices": ["none", "internal", "external"]},
    "objective.reflection_weight": {
        "low": "5e-1",
        "high": 2.0,
        "log": True,
        "when": {"reflection": ["internal", "external"]},
    },
    "adapter": {"choices": ["none", "lora"]},
    "adapter.r": {"choices": [4, 8], "when": {"adapter": "lora"}},
    "adapter.dropout": {"low": 0.0, "high": 0.1, "when": {"adapter.r": 8}},
}


def test_only_what_its_conditions_allow_is_drawn() -> None:
    space = space_of(BRANCHES)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        trial = study.ask()
        point = suggest(space, trial)
        assert point == trial.params
        assert ("objective.reflection_weight" in point) == (point["reflection"] != "none")
        assert ("adapter.r" in point) == (point["adapter"] == "lora")
        assert ("adapter.dropout" in point) == (point.get("adapter.r") == 8)
        seen.add(tuple(point))
    assert len(seen) == 6


def test_few_points_show_every_choice_and_every_end() -> None:
    space = space_of(BRANCHES)
    points = cover(space)
    assert len(points) <= 5
    for key, one in space.items():
        assert {point[key] for point in points if key in point} == set(one.ends())
    # reflection: 1 + 2 x 2 ends; adapter: 1 + 1 + 2 ends of its dropout
    assert len(corners(space, 100)) == 5 * 4
    assert corners(space, 19) == points


def test_a_grid_has_the_points_of_its_branches_only() -> None:
    space = space_of(
        {
            "a": {"choices": ["x", "y"]},
            "b": {"low": 1, "high": 5, "step": 2, "when": {"a": "y"}},
            "c": {"low": 0.0, "high": 0.3, "step": 0.1},
        },
    )
    grid = cells(space)
    assert len(grid) == 4 + 3 * 4
    assert grid[:2] == [{"a": "x", "c": 0.0}, {"a": "x", "c": 0.1}]
    assert grid[-1] == {"a": "y", "b": 5, "c": 0.3}


def test_points_become_overrides_that_hydra_reads() -> None:
    point = {
        "run_name": "a b, c=d's",
        "trainer.threads": None,
        "trainer.checkpoint": False,
        "optimizer.lr": 1e-05,
        "reflection.kinds": '["harmful", "look_alike"]',
    }
    config = compose_verb("train", overrides_of(point)).config
    assert config.run_name == "a b, c=d's"
    assert config.trainer.threads is None
    assert config.trainer.checkpoint is False
    assert config.optimizer.lr == 1e-5
    assert config.reflection.kinds == ["harmful", "look_alike"]
    space = space_of({"reflection.kinds": {"choices": [["harmful"], ["general"]]}})
    assert cells(space)[1] == {"reflection.kinds": '["general"]'}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (3, "Invalid type assigned"),
        ({"choice": [1]}, "did you mean 'choices'"),
        ({"choices": []}, "low is missing: give {low: …, high: …} or choices"),
        ({"choices": "a"}, "is not a ListConfig"),
        ({"choices": ["a", "a"]}, '"a" is one choice'),
        ({"choices": [True, 1]}, "true and 1 is one choice"),
        ({"choices": [1, 2, 1.0]}, "1 and 1.0 is one choice"),
        ({"choices": [0, False]}, "0 and false is one choice"),
        ({"choices": [8, "8"]}, '8 and "8" is one choice'),
        ({"choices": ["1e-4", 0.0001]}, "0.0001 is one choice"),
        ({"choices": [1], "low": 1}, "contradict"),
        ({"low": 1}, "high is missing"),
        ({"low": 2, "high": 1}, "low=2, high=1"),
        ({"low": 0, "high": 1, "log": True}, "must hold for log=True"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "only accept step is 1"),
        ({"low": 1, "high": 9, "step": 0}, "step > 0 must hold"),
        ({"low": 1, "high": 9, "step": 9}, "step=9 from low=1 never reaches high=9"),
        ({"low": True, "high": 9}, "low=True is not a finite number"),
        ({"low": 1, "high": 9, "step": 3}, "step=3 from low=1 never reaches high=9"),
        ({"low": "small", "high": 1}, "low=small is not a finite number"),
        ({"low": 1, "high": ".inf"}, "high=.inf is not a finite number"),
        ({"low": 1, "high": 2, "log": "so"}, "is not a valid bool"),
        ({"choices": [1], "when": {"b": 1}}, "not a key of the space before it"),
        ({"choices": [1], "when": {"first": "z"}}, "first is never z"),
        ({"choices": [1], "when": {"range": 1}}, "has a range"),
        ({"choices": [1], "when": 3}, "Cannot assign int"),
    ],
)
def test_contradictions_are_told_in_one_sentence(spec: Any, says: str) -> None:
    before = {"first": {"choices": ["x", "y"]}, "range": {"low": 0, "high": 1}}
    with pytest.raises(UserError) as caught:
        space_of({**before, "key": spec})
    assert says in str(caught.value)
    assert str(caught.value).startswith("s.yaml: ")
    assert "space.key" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_space_without_number_has_no_grid() -> None:
    with pytest.raises(UserError, match="give"):
        cells(space_of({"a": {"low": 0.0, "high": 1.0}}))
    with pytest.raises(UserError, match="more than 100000 points"):
        cells(space_of({k: {"low": 1, "high": 400} for k in "abc"}))


def test_choices_of_a_text_keep_their_characters() -> None:
    study = """
objectives: {r: minimize}
trials: 1
space:
  model.revision: {choices: [83e5123, 1e5, 2024_05_01, 3.10, 007, true, null]}
  optimizer.lr: {choices: [1e-4, 0.001], when: {model.revision: [1e5, 3.10]}}
"""
    space = read_study("s", "s.yaml", study).space
    typed = ["83e5123", "1e5", "2024_05_01", "3.10", "007", "true", None]
    assert space["model.revision"].choices == typed
    assert space["optimizer.lr"].choices == [1e-4, 1e-3]
    assert space["optimizer.lr"].when == {"model.revision": ["1e5", "3.10"]}
    for text in typed:
        words = overrides_of({"model.revision": text})
        assert compose_verb("train", ["model=mistral", *words]).config.model.revision == text
