"""A dry run shows what a run would do, and does none of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from tbr_lightning import cli
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.sources import load
from tbr_lightning.data.split import split
from tbr_lightning.data.think_format import Span, ThinkFormat, token_row
from tbr_lightning.kinds import KINDS
from tbr_lightning.microworld.plugin import MicroworldData
from tbr_lightning.models.tokenizers import load_tokenizer
from tbr_lightning.reflection.teachers import Request

MISTRAL = (
    "model=mistral",
    "model.tokenizer=bytes",
    "data=microworld",
    "reflection=external",
    "dry_run=true",
)
SMALL = ("data.general=20", "data.harmful=12")


@pytest.fixture
def look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    """Run ``train dry_run=true`` where no weights can be loaded and the hub is out of reach."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", never)
    monkeypatch.setattr("tbr_lightning.models.backbone.load_folder", never)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    monkeypatch.setenv("TBR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> str:
        code = cli.main("train", list(words))
        said = capsys.readouterr()
        assert code == 0, said.err
        assert not list(tmp_path.glob("mlflow.db*"))
        assert not (tmp_path / "mlartifacts").exists()
        assert not (tmp_path / "cache" / "bases").exists()
        return said.out

    return run


def test_a_7b_model_is_looked_at_offline(look: Any) -> None:
    shown = look(*MISTRAL, *SMALL, "seed=7")
    assert "--cfg job" in shown  # where the config is shown
    assert shown.index("parameters") < shown.index("A real run will need") < shown.index("Examples")
    assert re.search(r"parameters\W+7,241,732,096", shown)
    assert re.search(r"trained\W+7,241,732,096 \(100.00%\)", shown)
    assert "token counts are estimates" in shown
    assert "A real run will need" in shown
    assert "the weights of mistralai/Mistral-7B-v0.1" in shown
    assert "tracking.uri" not in shown
    lora = look(*MISTRAL, *SMALL, "adapter=lora")
    assert re.search(r"parameters\W+7,241,732,096", lora)
    assert re.search(r"trained\W+41,943,040 \(0.58%\)", lora)


@pytest.mark.parametrize(
    "words", [("model=tiny",), ("model=mistral", "model.tokenizer=bytes", "model.init=random")]
)
def test_counts_are_those_of_the_rows_token_by_token(
    look: Any, tmp_path: Path, words: tuple[str, ...]
) -> None:
    words = (*words, *SMALL, "data=microworld", "reflection=external", "data.validation=0.2")
    shown = look(*words, "dry_run=true")
    config = compose_verb("train", words).config
    examples = load(config.data, config.seed, tmp_path / "cache")
    training, held_out = split(examples, 0.2)
    tokenizer, _ = load_tokenizer(config.model, data="microworld", rows=examples)
    asked = Request([row for row in examples if row.kind == "harmful"])
    texts = {
        row.id: draft.text for row, draft in MicroworldData().teacher("external", 0).write(asked)
    }
    found = np.zeros((len(KINDS), 4), int)
    for row in training:
        kind = KINDS.index(row.kind)
        tokens = token_row(tokenizer, ThinkFormat.of(config.model), row, kind, texts.get(row.id))
        found[kind] += [1, *(list(tokens.spans).count(int(span)) for span in Span)]
    for kind in ("general", "harmful"):
        numbers = re.search(rf"│ {kind} +│([\d,│ ]+)│", shown)
        assert numbers is not None, shown
        assert [int(n.replace(",", "")) for n in numbers[1].split("│")] == [
            *found[KINDS.index(kind)]
        ]
    total = int(found[:, 1:].sum())
    assert f"{len(training):,} training rows (0 left out" in shown
    assert f"{len(held_out):,} for validation; {total:,} tokens an epoch" in shown


def test_three_examples_show_where_the_loss_falls(look: Any) -> None:
    shown = look("model=tiny", "data=microworld", *SMALL, "reflection=external", "dry_run=true")
    heads = re.findall(r"^(\w+), (\d+) tokens, (\d+) with loss$", shown, re.MULTILINE)
    assert len(heads) == 3
    assert {kind for kind, _, _ in heads} == {"general", "harmful"}
    assert all(0 < int(trained) < int(tokens) for _, tokens, trained in heads)
    assert shown.count("<think>") >= 1


def test_reflections_that_would_cost_something_are_not_asked_for(look: Any) -> None:
    shown = look(*MISTRAL, *SMALL, "reflection=internal")
    assert "12 reflections are not written yet" in shown
    assert "has not written this reflection yet" in shown


def test_steps_are_those_of_the_run(look: Any) -> None:
    words = ("model=tiny", "data=microworld", *SMALL, "reflection=none", "dry_run=true")
    shown = look(*words, "trainer.batch_size=5", "trainer.accumulate=2", "trainer.epochs=3")
    assert "12 optimizer steps of 5 x 2 x 1 rows" in shown
    assert "\n5 optimizer steps" in look(*words, "trainer.batch_size=5", "trainer.max_steps=5")


def test_a_setting_that_cannot_work_is_part_of_what_is_shown(look: Any) -> None:
    shown = look(*MISTRAL, *SMALL, "trainer=gpu", "adapter=qlora")
    for part in ("trainer=gpu: this machine has no NVIDIA driver", "adapter=qlora needs"):
        assert part in shown


def test_pairs_that_are_not_sampled_yet_are_announced(look: Any) -> None:
    told = look(
        *MISTRAL[:3],
        *SMALL,
        "dry_run=true",
        "reflection=none",
        "objective=dpo",
        "data.pairs=sampled",
        "pairs.samples=3",
    )
    assert "the model will write 3 answers to each of 32 prompts" in told
    assert "the model has not written this answer yet" in told


def test_of_reinforcement_it_says_that_answers_are_drawn(look: Any) -> None:
    told = look(*MISTRAL[:3], *SMALL, "dry_run=true", "reflection=none", "objective=grpo")
    assert "the model draws the answers" in told


def test_a_row_of_a_pair_is_one_row_and_a_side_that_is_missing_is_not_shown(
    look: Any, tmp_path: Path
) -> None:
    words = ("model=tiny", "data=microworld", *SMALL, "reflection=external", "dry_run=true")
    shown = look(*words, "objective=dpo")
    for kind, rows in (("general", 20), ("harmful", 12)):
        assert re.search(rf"│ {kind} +│ {rows} +│", shown), shown
    sides = [{"instruction": f"Name the tree {n}.", "output": "An oak."} for n in range(8)]
    sides[0]["rejected"] = "No."
    (tmp_path / "sides.json").write_text(json.dumps(sides))
    words = ("model=tiny", "data=files", "data.general=sides.json", "reflection=none")
    shown = look(*words, "objective=kto", "dry_run=true")
    assert re.search(r"│ general +│ 8 +│", shown), shown
    assert re.findall(r"^general, (\d+) tokens", shown, re.MULTILINE)
