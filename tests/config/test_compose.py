"""Every config composes, and wrong ones are told in one sentence."""

from __future__ import annotations

import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_method
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import options, shipped
from tbr_lightning.config.targets import restored
from tbr_lightning.config.verbs import VERBS, EvaluateConfig, TrainConfig
from tbr_lightning.config.yaml_reading import read_yaml
from tbr_lightning.data.sources import SafetyMixData
from tbr_lightning.errors import UserError
from tbr_lightning.microworld.plugin import MicroworldData
from tbr_lightning.tuning.reuse import load, save

CONF = shipped("conf")
# An endpoint is part of other groups' members.
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "endpoint")
# What a member cannot do without.
NEEDS = {
    ("reflection", "recorded"): ["reflection.path=x.jsonl"],
    ("suite", "xstest"): ["suite.path=x.csv"],
    ("data", "files"): ["data.general=x.json"],
    ("world", "real"): ["demo.needs=[]"],
}
OF_GROUP = {
    "suite": "evaluate",
    "judge": "evaluate",
    "mitigation": "evaluate",
    "gate": "promote",
    "world": "demo",
}
MODEL = {"evaluate": ["model=tiny"], "export": ["model=tiny"]}


@cache
def with_member(group: str, member: str) -> Any:
    """Return a config with a member of a group, to be left as it is."""
    verb = OF_GROUP.get(group, "train")
    words = [f"{group}={member}", *NEEDS.get((group, member), []), *MODEL.get(verb, [])]
    return compose_verb(verb, words).config


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes_by_default(verb: str) -> None:
    assert isinstance(compose_verb(verb, MODEL.get(verb, [])).config, VERBS[verb])


@pytest.mark.parametrize(
    ("group", "member"), [(group, member) for group in GROUPS for member in options(group)]
)
def test_every_member_of_every_group_composes(group: str, member: str) -> None:
    assert isinstance(with_member(group, member), VERBS[OF_GROUP.get(group, "train")])


@pytest.mark.parametrize("group", ["suite", "judge", "objective"])
def test_other_targets_exist(group: str) -> None:
    for member in options(group):
        config = getattr(with_member(group, member), group)
        assert callable(get_method(config._target_))


def test_tiny_goes_with_the_microworld_and_others_with_the_safety_mix() -> None:
    assert isinstance(compose_verb("train").config.data, MicroworldData)
    assert isinstance(compose_verb("train", ["model=mistral"]).config.data, SafetyMixData)
    chosen = compose_verb("train", ["model=mistral", "data=microworld"]).config
    assert isinstance(chosen.data, MicroworldData)


def test_data_that_go_with_the_model_can_be_asked_for_by_name() -> None:
    assert isinstance(compose_verb("train", ["data=auto"]).config.data, MicroworldData)
    words = ["model=mistral", "data=auto", "data.harmful_source=x.json"]
    assert isinstance(compose_verb("train", words).config.data, SafetyMixData)


def test_data_go_with_the_model_as_it_is_in_the_end(tmp_path: Path) -> None:
    preset = tmp_path / "experiment" / "foreign.yaml"
    preset.parent.mkdir()
    preset.write_text("# @package _global_\nmodel:\n  pretraining:\n    data: safety_mix\n")
    assert compose_verb("train", ["model=[mistral,tiny]"]).choices["data"] == "microworld"
    composed = compose_verb("train", ["experiment=foreign"], str(tmp_path))
    assert composed.choices["data"] == composed.choices["recipe"] == "safety_mix"
    assert isinstance(composed.config.data, SafetyMixData)


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
        ("train", ["hydra.run.dir=x"], ["'hydra.run.dir' is not a key of train"]),
        ("train", ["model=null"], ["model=null names no member of model: give one of", "tiny"]),
        ("train", ["suite@probe=null"], ["names no member of suite: give one of", "leave it out"]),
        ("train", ["experiment=null"], ["experiment=null does not exist; known: every_row"]),
        ("train", ["hydra/launcher=x"], ["'hydra/launcher' is not a config group of train"]),
        ("train", ["trainer.epochs=1,2"], ["trainer.epochs=1,2"]),
        ("train", ["model=mistrall"], ["mistrall", "did you mean 'mistral'"]),
        ("train", ["~model"], ["model is not set"]),
        ("train", ["optimizer.lr=fast"], ["optimizer.lr", "fast"]),
        ("train", ["optimizer.lr=-1"], ["optimizer.lr=-1", "above 0"]),
        ("train", ["trainer.epochs=0"], ["trainer.epochs=0", "at least 1"]),
        ("train", ["reflection.kinds=[harmfull]"], ["harmfull", "did you mean 'harmful'"]),
        ("train", ["reflection.unstated=maybe"], ["reflection.unstated", "accept"]),
        ("train", ["data.generla=3"], ["data.generla", "did you mean 'data.general'"]),
        ("evaluate", [], ["model is not set"]),
        ("evaluate", ["model=tiny", "suite.half=train"], ["suite.half='train'"]),
        ("serve", ["host=0.0.0.0"], ["0.0.0.0", "loopback"]),
        ("promote", ["name=a/b"], ["a/b"]),
        ("demo", ["demo.seeds=[a=b]"], ["demo.seeds=[a=b]", "quote"]),
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


PLUGIN = """
from dataclasses import dataclass, field

from tbr_lightning.data.example import Example
from tbr_lightning.data.sources import DataConfig
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import at_least


@dataclass
class Rows(DataConfig):
    _target_: str = "my_rows.Rows"
    name: str = "mine"
    count: int = 3
    words: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        at_least("data.count", self.count, 1)

    def load(self, seed, cache):
        return Examples.of(Example(f"{n}?", "Yes.", "general", "mine") for n in range(self.count))
"""


@pytest.fixture
def own_rows(importable: Path) -> str:
    """A user's own class of data in a folder of configs whose name a URI would escape."""
    (importable / "my_rows.py").write_text(PLUGIN)
    folder = importable / "my conf 100%25 #1?"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "mine.yaml").write_text("_target_: my_rows.Rows\ncount: 2\n")
    return str(folder)


def test_data_of_ones_own_is_one_class_and_one_file(own_rows: str, tmp_path: Path) -> None:
    from tbr_lightning.data.sources import load

    words = ["data=mine", "reflection=none", "data.words=[a,b]"]
    config = compose_verb("train", words, own_rows).config.data
    assert (type(config).__name__, config.count, config.words) == ("Rows", 2, ["a", "b"])
    assert [row.instruction for row in load(config, 0, tmp_path)] == ["0?", "1?"]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("data.cuont=3", "'data.cuont' is not a key of train; did you mean 'data.count'?"),
        ("data.count=some", "data.count=some: Value 'some' of type 'str' could not be converted"),
        ("data.count=0", "data.count=0 is too small"),
    ],
)
def test_a_class_of_ones_own_is_checked_like_ours(own_rows: str, word: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        compose_verb("train", ["data=mine", "reflection=none", word], own_rows)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nvocab_size: 3\nname: b\n", r"mine\.yaml:3: found duplicate key name"),
        ("name: [a\nb: c\n", r"mine\.yaml:2: "),
    ],
)
def test_yaml_of_ones_own_that_cannot_be_read_is_told_with_its_line(
    text: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=says) as told:
        compose_verb("train", ["model=mine"], str(tmp_path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("typed", "value"),
    [("1e-3", 1e-3), ("yes", True), ("2024-05-01", "2024-05-01"), ("0x10", 16), ("1_000", 1000)],
)
def test_yaml_means_what_it_means_to_omegaconf(typed: str, value: object) -> None:
    assert read_yaml(f"a: {typed}").a == OmegaConf.create(f"a: {typed}").a == value


def test_a_shipped_config_that_was_changed_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "conf"
    shutil.copytree(CONF, copied)
    monkeypatch.setattr("tbr_lightning.config.compose.shipped", lambda folder: tmp_path / folder)
    assert compose_verb("promote").config.gate.max_false_refusal != 0.123
    file = copied / "gate" / "default.yaml"
    file.write_text(re.sub(r"max_false_refusal: \S+", "max_false_refusal: 0.123", file.read_text()))
    assert compose_verb("promote").config.gate.max_false_refusal == 0.123
    compose_verb("promote").config.gate.max_false_refusal = 1  # no other caller's
    assert compose_verb("promote").config.gate.max_false_refusal == 0.123


def test_a_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("_target_: nowhere.Rows\n")
    with pytest.raises(UserError, match=r"_target_: nowhere\.Rows cannot be imported"):
        compose_verb("train", ["data=mine"], str(tmp_path))


def test_configs_that_an_earlier_version_saved_are_read() -> None:
    from omegaconf import OmegaConf

    from tbr_lightning.config.targets import restored

    config = compose_verb("train", ["data.general=7"]).config
    saved = OmegaConf.to_container(OmegaConf.structured(config))
    saved["data"]["_target_"] = "tbr_lightning.data.sources.microworld"
    saved["objective"]["_target_"] = "tbr_lightning.training.objective.sft"
    saved["probe"]["_target_"] = "tbr_lightning.evaluation.suites.microworld"
    for name in ("_target_", "data"):
        del saved["model"]["pretraining"][name]
    for name in ("tasks", "only_for"):
        del saved["probe"][name]
    saved["probe"] |= {"choices": ["microworld"], "lm_eval": []}
    assert restored(VERBS["train"], OmegaConf.create(saved)) == config


def test_settings_of_endpoints_are_read_where_earlier_versions_had_them(tmp_path: Path) -> None:
    words = ["model=tiny", "judge=llm", "judge.model=m", "judge@second_judge=llm"]
    words += ["second_judge.base_url=http://h/v1?key=a=b", "judge.concurrency=3"]
    made = compose_verb("evaluate", words).config
    assert (made.judge.endpoint.model, made.judge.endpoint.concurrency) == ("m", 3)
    assert made.second_judge.endpoint.base_url == "http://h/v1?key=a=b"
    own = tmp_path / "judge" / "own.yaml"
    own.parent.mkdir()
    own.write_text("defaults: [llm]\nmodel: mine\nretries: 2\n")
    endpoint = compose_verb(
        "evaluate", ["model=tiny", "judge=own"], str(tmp_path)
    ).config.judge.endpoint
    assert (endpoint.model, endpoint.retries, endpoint.timeout) == ("mine", 2, 60)
    saved = {"reflection": {"teacher": "external", "base_url": "http://h/v1", "traces": 3}}
    node = compose_verb("train", ["model=tiny", "data=microworld"]).node
    base = OmegaConf.to_container(node, resolve=True)
    old = restored(TrainConfig, OmegaConf.create(base | saved)).reflection
    assert (old.endpoint.base_url, old.endpoint.traces) == ("http://h/v1", 3)


def test_the_gates_earlier_words_are_read() -> None:
    made = compose_verb("promote", ["model=m", "gate.require_merit=false"])
    assert made.config.gate.require_superiority is False


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("data", "os.system"),
        ("suite", "subprocess.getoutput"),
        ("judge", "builtins.eval"),
        ("objective", "torch.nn.Linear"),
        ("data", "torch.load"),
        ("suite", "torch.load"),  # a function that its module has from another
        # Functions of their own modules, which read what a config names.
        ("judge", "joblib.numpy_pickle.load"),
        ("second_judge", "pandas.io.pickle.read_pickle"),
        ("probe", "torch.serialization.load"),
        ("judge", "antigravity.fly"),  # importing it alone would do something
        # Of this package, and of another group.
        ("data", "tbr_lightning.objectives.sft.SFT"),
        ("objective", "tbr_lightning.data.sources.FilesData"),
        ("suite", "tbr_lightning.cli.main"),
        ("judge", "tbr_lightning.evaluation.suites.published"),
        ("judge", "tbr_lightning.evaluation.judges.rules.re.compile"),
    ],
)
def test_a_saved_config_imports_only_what_its_group_holds(group: str, target: str) -> None:
    before = set(sys.modules)
    saved = OmegaConf.create({group: {"_target_": target}})
    with pytest.raises(UserError, match=rf"{group}._target_: {target} in a saved config"):
        restored(TrainConfig if group in ("data", "objective", "probe") else EvaluateConfig, saved)
    assert "antigravity" not in set(sys.modules) - before


@pytest.mark.parametrize(
    ("saved", "where"),
    [
        ({"suite": {"tasks": {"mine": "os.system"}}}, r"suite\.tasks\.mine"),
        (
            {"suite": {"tasks": {"mine": {"_target_": "os.system"}}}},
            r"suite\.tasks\.mine\._target_",
        ),
        ({"suite": {"more": [{"_target_": "os.system"}]}}, r"suite\.more\[0\]\._target_"),
        ({"mitigation": {"inner": {"_target_": "os.system"}}}, r"mitigation\.inner\._target_"),
    ],
)
def test_a_saved_config_hides_no_target_deeper_within(saved: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError, match=rf"{where}: os\.system in a saved config"):
        restored(EvaluateConfig, OmegaConf.create(saved))


def test_a_saved_config_reads_no_variable_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its values are logged: somebody else's run folder would fetch what it names."""
    monkeypatch.setenv("A_KEY", "planted")
    config = compose_verb("train", ["model=tiny", "reflection=none"]).config
    named = "${oc.env:A_KEY}"
    saved = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(config)))
    saved.run_name, saved.tags = named, {"a": [named, {"b": "${run_name}"}]}
    found = restored(TrainConfig, saved)
    assert (found.run_name, found.tags) == (named, {"a": [named, {"b": "${run_name}"}]})
    saved.seed = named
    with pytest.raises(OmegaConfBaseException) as caught:
        restored(TrainConfig, saved)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("text", ["${a}", "\\${a}", "\\\\${a} \\ $b {c}", "costs $5 \\"])
def test_a_text_is_read_back_as_it_was_saved(text: str, tmp_path: Path) -> None:
    config = compose_verb("train", ["model=tiny", "reflection=none"]).config
    config.run_name = text
    save(config, tmp_path / "config.yaml")
    found = load(TrainConfig, tmp_path / "config.yaml", config.tracking, config.paths)
    assert found.run_name == text


def test_what_was_typed_may_be_of_a_file_of_ones_own_when_it_is_read_back(own_rows: str) -> None:
    config = compose_verb("train", ["data=mine"], own_rows).config
    saved = OmegaConf.create({"data": OmegaConf.to_container(OmegaConf.structured(config.data))})
    assert restored(TrainConfig, OmegaConf.merge(OmegaConf.structured(config), saved)) == config


def test_the_real_world_of_the_demo_needs_its_files(tmp_path: Path) -> None:
    words = ["world=real", f"demo.root='{tmp_path}'"]
    with pytest.raises(UserError, match=r"lacks alpaca/random_9k\.json, star1/STAR-1\.json, "):
        compose_verb("demo", words)
    demo = compose_verb("demo", [*words, "demo.needs=[]"]).config.demo
    trained = [arm for arm in demo.arms.values() if arm.train is not None]
    made = [
        compose_verb("train", [f"model={demo.model}", *demo.rows, *arm.train]).config
        for arm in trained
    ]
    assert [config.reflection.teacher for config in made] == ["none", "none", "recorded"]
    assert [config.data.harmful is None for config in made] == [True, False, False]
    assert {config.seed for config in made} == {0}
    asked = compose_verb("evaluate", ["model=tiny", *demo.suite]).config
    assert (asked.suite.half, asked.suite.benchmarks) == ("test", ["xstest"])
    assert asked.suite.root == str(tmp_path)


def test_a_group_of_another_verb_is_not_its_own_suggestion() -> None:
    with pytest.raises(UserError, match=r"^'world' is not a config group of train; known: "):
        compose_verb("train", ["world=real"])
