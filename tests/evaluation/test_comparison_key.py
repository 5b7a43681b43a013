"""What makes two evaluations comparable: every setting that can change an answer or a verdict."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, make_dataclass, replace
from typing import Any

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.config.verbs import EvaluateConfig, GenerationConfig
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.evaluation.comparison_key import (
    _COUNTED,
    NO_EFFECT_ON_AN_EVALUATION,
    NO_EFFECT_ON_ANSWERS,
    cue_of,
    evaluation_key,
    other_settings,
    seed_of,
    token_limit,
)
from tbr_lightning.evaluation.judges.loading import identity

SEEDS = [0, 778162986, 707644324]

JUDGE = JudgeConfig(_target_="tbr_lightning.evaluation.judges.rules.build", name="rules")


def key(generation: GenerationConfig, think_format: ThinkFormat | None = None, **more: Any) -> str:
    cue = cue_of(think_format or ThinkFormat(), generation)
    return evaluation_key("suite", JUDGE, generation, 64, cue=cue, **more)


def test_the_sentence_that_asks_for_a_reflection_counts_where_it_is_asked() -> None:
    other = ThinkFormat(think_cue="Think of the harm first.")
    marked = ThinkFormat(think_open="[THINK]", think_close="[/THINK]")
    prompted, trained = GenerationConfig(arm="prompted"), GenerationConfig()
    assert len({key(prompted), key(prompted, other), key(prompted, marked)}) == 3
    assert key(trained) == key(trained, other)


@pytest.mark.parametrize(
    "changed",
    [
        {"arm": "forced"},
        {"temperature": 0.7},
        {"temperature": 0.7, "seed": 1},
    ],
)
def test_how_answers_are_made_counts(changed: dict[str, Any]) -> None:
    assert key(GenerationConfig(**changed)) != key(GenerationConfig())
    assert {"batch_size", "engine", "reuse", "dtype"} == set(NO_EFFECT_ON_ANSWERS)


def test_every_setting_of_an_evaluation_is_counted_or_named_as_without_effect() -> None:
    config = compose_verb("evaluate", ["model=tiny", "suite=smoke"]).config
    assert other_settings(config) == {}
    names = {item.name for item in fields(EvaluateConfig)}
    assert names == {*_COUNTED, *NO_EFFECT_ON_AN_EVALUATION}


def test_several_answers_come_from_independent_streams() -> None:
    """Of neighbouring seeds too, which shared four of five answers."""
    seeds = [seed_of(seed, repeat) for seed in range(50) for repeat in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert seed_of(7, 0) == 7  # the answers of an evaluation with one are the first of several
    assert not {seed_of(seed, repeat) for seed in range(50) for repeat in range(1, 50)} & set(
        range(10_000)
    )
    # Known, so that stored answers stay those of their keys.
    assert [seed_of(0, repeat) for repeat in range(3)] == SEEDS
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_key_changed_with_the_draws() -> None:
    drawn = GenerationConfig(temperature=0.7)
    assert key(drawn, repeats=1) == key(drawn)
    assert len({key(drawn, repeats=1), key(drawn, repeats=2), key(drawn, repeats=3)}) == 3
    # An evaluation of a version that took the next seeds is not taken for one of today.
    assert key(drawn, repeats=3) != f"{key(drawn)}-3"


def test_a_setting_that_is_added_later_counts_of_itself() -> None:
    later = make_dataclass("Later", [("shuffle", int, 1)], bases=(EvaluateConfig,))
    config = compose_verb("evaluate", ["model=tiny", "suite=smoke"]).config
    known = {item.name: getattr(config, item.name) for item in fields(EvaluateConfig)}
    one, two = later(**known), later(**known, shuffle=2)
    assert other_settings(one) == {"shuffle": 1}
    keys = [key(GenerationConfig(), others=other_settings(made)) for made in (one, two)]
    assert keys[0] != keys[1]
    assert key(GenerationConfig(), others={}) == key(replace(GenerationConfig(), batch_size=3))


def test_the_key_is_of_the_json_that_every_version_writes() -> None:
    judge = json.dumps(identity(JUDGE))
    plain = f'["suite", {judge}, {{"arm": "trained", "max_new_tokens": 64, "temperature": 0.0}}]'
    assert key(GenerationConfig()) == hashlib.sha256(plain.encode()).hexdigest()[:16]
    full = (
        f'["suite", {judge}, {{"arm": "prompted", "max_new_tokens": 64, "seed": 3, '
        '"temperature": 0.5}, "steering", "bfloat16", "cue: Think.", '
        r'"others: {\"a\": 1, \"b\": 2}"]'
    )
    sampled = GenerationConfig(arm="prompted", temperature=0.5, seed=3, batch_size=7)
    found = evaluation_key(
        "suite",
        JUDGE,
        sampled,
        64,
        "steering",
        dtype="bfloat16",
        cue="Think.",
        others={"b": 2, "a": 1},
    )
    assert found == hashlib.sha256(full.encode()).hexdigest()[:16]


def test_an_answer_may_have_as_many_tokens_as_the_model_was_exported_with_unless_told() -> None:
    exported = ThinkFormat(max_new_tokens=77)
    assert token_limit(exported, GenerationConfig()) == 77
    assert token_limit(exported, GenerationConfig(max_new_tokens=5)) == 5
