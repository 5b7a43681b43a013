"""Settings of type text keep what was typed, in every verb and in studies."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.quoting import store_words
from tbr_lightning.errors import UserError
from tbr_lightning.tuning.space import overrides_of


def train(*words: str) -> Any:
    return compose_verb("train", ["model=tiny", "data=files", *words]).config


@pytest.mark.parametrize(
    "text",
    ["2024_05_01", "83e5123", "1e5", "3.10", "true", "0x1F", "007", "a=b", "a b, c", "it's",
     "données", "a\\b", "a\\", "\\'", "[x]", "100%", "a#b", "a:b", "(x)"],
)  # fmt: skip
def test_a_text_keeps_its_characters(text: str) -> None:
    assert train(f"run_name={text}").run_name == text
    # As a study writes its choices.
    assert train(*overrides_of({"run_name": text})).run_name == text


def test_quotes_null_and_other_types_mean_what_they_did() -> None:
    assert train("run_name='2024 05'").run_name == "2024 05"
    assert train('run_name="x"').run_name == "x"
    assert train("run_name=null").run_name is None
    assert train("optimizer.lr=1e-5").optimizer.lr == 1e-5
    assert train("reflection.kinds=[harmful]").reflection.kinds == ["harmful"]


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        ("['a=/x y.json',b=40]", ["a=/x y.json", "b=40"]),
        ("[a.b=[x,y],c=[],d={e: 1, f: 2}]", ["a.b=[x,y]", "c=[]", "d={e: 1, f: 2}"]),
        ("['a=[x,y]', \"b='c'\"]", ["a=[x,y]", "b='c'"]),
        ("[it's,so]", ["it's", "so"]),
        ("[]", []),
    ],
)
def test_a_list_of_texts_is_split_outside_of_quotes_and_brackets(
    typed: str, texts: list[str]
) -> None:
    config = compose_verb("sweep", ["study=arena", f"sweep.evaluate={typed}"]).config
    assert config.sweep.evaluate == texts


def test_mappings_of_texts() -> None:
    assert train("tags={a: 2024_05, b: c}").tags == {"a": "2024_05", "b": "c"}
    assert train("tags={a: 'x y', b: c=d, e: [f,g]}").tags == {"a": "x y", "b": "c=d", "e": "[f,g]"}
    assert train("tags.a=1_0", "+tags.b=x=y").tags == {"a": "1_0", "b": "x=y"}


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train("data.general=~/a=b.json").data.general == str(tmp_path / "a=b.json")
    assert train("run_name=~x").run_name == "~x"


@pytest.mark.parametrize("word", ["experiment=1", "experiment=nope", "debug=slow", "data=1"])
def test_a_member_that_is_not_there_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"{word} does not exist"):
        compose_verb("train", ["model=tiny", word])


def test_variables_of_the_chat_template_are_added_as_they_are_typed() -> None:
    config = train("model.template_args.enable_thinking=false", "model.template_args.n=3")
    assert config.model.template_args == {"enable_thinking": False, "n": 3}


def test_names_of_modules_are_texts() -> None:
    config = train("adapter=lora", "adapter.target_modules=[1e5, q_proj]")
    assert config.adapter.target_modules == ["1e5", "q_proj"]
    assert train("adapter=lora", "adapter.target_modules=1e5").adapter.target_modules == "1e5"
    both = train("adapter=lora", "model.adapter_targets=[2_0]")
    assert both.adapter.target_modules == both.model.adapter_targets == ["2_0"]
    for wrong in ("[]", "null"):
        with pytest.raises(UserError, match=r"adapter\.target_modules=.* names no modules"):
            train("adapter=lora", f"adapter.target_modules={wrong}")


def test_the_home_folder_beyond_the_beginning_of_a_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TBR_HOME", "~/tbr")  # as a file of environment variables has it
    monkeypatch.setenv("TBR_CACHE", "")
    group = tmp_path / "own" / "reflection"
    group.mkdir(parents=True)
    (group / "mine.yaml").write_text("defaults: [recorded]\npath: ~/r.jsonl\n", encoding="utf-8")
    words = ["model=tiny", "data=files", "data.general=g.json", "reflection=mine"]
    words += ["tracking.uri=sqlite:///~/mlflow.db", "tracking.artifacts=~/a"]
    config = compose_verb("train", words, str(tmp_path / "own")).config
    assert config.reflection.path == str(tmp_path / "r.jsonl")
    assert config.tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert config.tracking.artifacts == str(tmp_path / "a")
    assert config.paths.runs == str(tmp_path / "tbr" / "runs")
    assert config.paths.cache == str(tmp_path / "tbr" / "cache")
    asked = compose_verb("evaluate", ["model=[~/m,b c.gguf]"]).config
    assert asked.models == [str(tmp_path / "m"), "b c.gguf"]


def test_the_advice_on_quotes_works_in_a_shell() -> None:
    with pytest.raises(UserError) as told:
        train("model.template_args.x=a=b c")
    advice = re.search(r"as in (.+)$", str(told.value))
    assert advice is not None
    assert shlex.split(advice[1]) == ["key='a=b'"]
    assert train("model.template_args.x='a=b c'").model.template_args == {"x": "a=b c"}


def test_a_shown_command_names_the_store_that_was_given() -> None:
    words = ["tracking.uri=sqlite:///a b/it's.db", "paths.runs=r#1", "seed=3", "tracking=local"]
    shown = shlex.split(store_words(train(*words).given))
    again = train(*shown)
    assert again.tracking.uri == "sqlite:///a b/it's.db"
    assert again.paths.runs == "r#1"
    assert not any("seed" in word for word in shown)
    secret = ["tracking.uri=https://me:secret@host/x"]
    assert store_words(train(*secret).given) == ""
