"""Settings of type text keep what was typed, in every verb and in studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tbr_lightning.config.compose import compose_verb
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


def test_mappings_of_texts() -> None:
    assert train("tags={a: 2024_05, b: c}").tags == {"a": "2024_05", "b": "c"}
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
