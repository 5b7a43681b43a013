"""Every config composes, and wrong ones are told in one sentence."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.utils import get_method

from tbr_lightning.config.compose import compose_verb, options, shipped
from tbr_lightning.config.verbs import VERBS
from tbr_lightning.data.sources import SafetyMixData
from tbr_lightning.errors import UserError
from tbr_lightning.microworld.plugin import MicroworldData

CONF = shipped("conf")
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
# What a member cannot do without.
NEEDS = {
    ("reflection", "recorded"): ["reflection.path=x.jsonl"],
    ("suite", "xstest"): ["suite.path=x.csv"],
    ("data", "files"): ["data.general=x.json"],
}
OF_GROUP = {"suite": "evaluate", "judge": "evaluate", "gate": "promote"}
MODEL = {"evaluate": ["model=tiny"]}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes_by_default(verb: str) -> None:
    assert isinstance(compose_verb(verb, MODEL.get(verb, [])).config, VERBS[verb])


@pytest.mark.parametrize(
    ("group", "member"), [(group, member) for group in GROUPS for member in options(group)]
)
def test_every_member_of_every_group_composes(group: str, member: str) -> None:
    verb = OF_GROUP.get(group, "train")
    words = [f"{group}={member}", *NEEDS.get((group, member), []), *MODEL.get(verb, [])]
    composed = compose_verb(verb, words)
    assert isinstance(composed.config, VERBS[verb])


@pytest.mark.parametrize("member", ["microworld", "files", "safety_mix"])
def test_data_targets_take_what_their_schema_holds(member: str) -> None:
    config = compose_verb("train", [f"data={member}", "reflection=none"]).config.data
    names = {item.name for item in fields(config)} - {"_target_", "validation"}
    names |= {"seed", "cache"}
    assert set(inspect.signature(get_method(config._target_)).parameters) == names


@pytest.mark.parametrize("group", ["suite", "judge", "objective"])
def test_other_targets_exist(group: str) -> None:
    verb = OF_GROUP.get(group, "train")
    for member in options(group):
        words = [f"{group}={member}", *NEEDS.get((group, member), []), *MODEL.get(verb, [])]
        config = getattr(compose_verb(verb, words).config, group)
        assert callable(get_method(config._target_))


def test_tiny_goes_with_the_microworld_and_others_with_the_safety_mix() -> None:
    assert isinstance(compose_verb("train").config.data, MicroworldData)
    assert isinstance(compose_verb("train", ["model=mistral"]).config.data, SafetyMixData)
    chosen = compose_verb("train", ["model=mistral", "data=microworld"]).config
    assert isinstance(chosen.data, MicroworldData)


def test_keys_of_the_default_data_can_be_overridden() -> None:
    assert compose_verb("train", ["data.harmful=0"]).config.data.harmful == 0
    assert compose_verb("train", ["model=mistral", "data.general=7"]).config.data.general == 7


def test_hyper_parameters_go_with_the_data_and_can_be_overridden() -> None:
    microworld = compose_verb("train").config.trainer
    mix = compose_verb("train", ["model=mistral"]).config.trainer
    assert (microworld.batch_size, mix.batch_size) == (32, 8)
    assert compose_verb("train", ["trainer.epochs=99"]).config.trainer.epochs == 99


@pytest.mark.parametrize(
    ("verb", "words", "says"),
    [
        ("train", ["optimizer.lrr=1"], ["optimizer.lrr", "did you mean 'optimizer.lr'"]),
        ("train", ["optimzer.lr=1"], ["optimzer.lr", "did you mean 'optimizer.lr'"]),
        ("train", ["+optimizer.momentum=1"], ["optimizer.momentum", "not a key"]),
        ("train", ["model=mistrall"], ["mistrall", "did you mean 'mistral'"]),
        ("train", ["optimizer.lr=fast"], ["optimizer.lr", "fast"]),
        ("train", ["optimizer.lr=-1"], ["optimizer.lr=-1", "above 0"]),
        ("train", ["trainer.epochs=0"], ["trainer.epochs=0", "at least 1"]),
        ("train", ["reflection.kinds=[harmfull]"], ["harmfull", "did you mean 'harmful'"]),
        ("train", ["reflection=recorded"], ["reflection.path"]),
        ("train", ["data.generla=3"], ["data.generla", "did you mean 'data.general'"]),
        ("evaluate", [], ["model is not set"]),
        ("evaluate", ["model=tiny", "suite.half=train"], ["suite.half='train'"]),
        ("serve", ["host=0.0.0.0"], ["0.0.0.0", "loopback"]),
        ("promote", ["name=a/b"], ["a/b"]),
        ("demo", ["demo.train=[a=b]"], ["demo.train=[a=b]", "quote"]),
    ],
)
def test_mistakes_are_told_in_one_sentence(verb: str, words: list[str], says: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose_verb(verb, words)
    text = str(caught.value)
    assert "\n" not in text
    for part in says:
        assert part in text


def test_a_folder_of_ones_own_configs_comes_first(tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "strict.yaml").write_text("name: strict\nmin_prompts: 500\n")
    (tmp_path / "gate" / "default.yaml").write_text("name: mine\n")
    strict = compose_verb("promote", ["gate=strict"], str(tmp_path)).config.gate
    assert (strict.name, strict.min_prompts) == ("strict", 500)
    assert compose_verb("promote", [], str(tmp_path)).config.gate.name == "mine"
    with pytest.raises(UserError, match="not a folder"):
        compose_verb("train", [], str(tmp_path / "absent"))


RUN = "123e4567890123456789012345678901"  # to Hydra's grammar the beginning of a number


@pytest.mark.parametrize(
    ("word", "models"),
    [
        ("model=models:/a@champion", ["models:/a@champion"]),
        ("model=[models:/a@champion,models:/a/3]", ["models:/a@champion", "models:/a/3"]),
        (f"model=[{RUN}, tiny]", [RUN, "tiny"]),
        (f"model={RUN}", [RUN]),
        ("model=[/data/lr=1e-5/model,a b]", ["/data/lr=1e-5/model", "a b"]),
        ("model=['a','b']", ["a", "b"]),
    ],
)
def test_models_are_named_as_one_types_them(word: str, models: list[str]) -> None:
    assert compose_verb("evaluate", [word]).config.models == models
