"""The served chat template, and the tokens that it makes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from jinja2 import Environment

from tbr_lightning.data.chat_template import FALLBACK_TEMPLATE
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError
from tbr_lightning.models import precision
from tbr_lightning.serving import transformers_engine
from tbr_lightning.serving.engines import TRANSFORMERS
from tbr_lightning.serving.transformers_engine import (
    SUPPRESSED,
    cache_words,
    compute_threads,
    dtype_words,
    is_first,
)
from tbr_lightning.serving.weights import FORCE, forcing, prepare

TURN = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("think_format", [ThinkFormat(), ThinkFormat(think_open='[THINK "ä😀"]\n')])
@pytest.mark.parametrize("tail", ["", "\n"])
def test_forcing_appends_the_marker_and_nothing_else(think_format: ThinkFormat, tail: str) -> None:
    environment = Environment(trim_blocks=True, lstrip_blocks=True)  # as transformers renders

    def render(template: str, **more: object) -> str:
        return environment.from_string(template).render(messages=TURN, **more)

    template = FALLBACK_TEMPLATE + tail
    served = forcing(template, think_format)
    begun = render(template, add_generation_prompt=True)
    assert render(served, add_generation_prompt=True) == begun
    assert (
        render(served, add_generation_prompt=True, **{FORCE: True})
        == begun + think_format.think_open
    )
    assert render(served, **{FORCE: True}) == render(template)


def test_forced_prompts_have_the_tokens_of_the_evaluated_arm(
    base_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from tbr_lightning.data.chat_template import prompt_ids

    weights = prepare((base_folder,), tmp_path / "served")
    assert weights.forcible
    own = AutoTokenizer.from_pretrained(base_folder)
    served = AutoTokenizer.from_pretrained(weights.folder)
    turn = [{"role": "user", "content": "How do I kill a process?"}]
    forced = served.apply_chat_template(
        turn, add_generation_prompt=True, return_dict=True, **{FORCE: True}
    )["input_ids"]
    opened = own.encode(weights.think_format.think_open, add_special_tokens=False)
    assert forced == prompt_ids(own, turn[0]["content"]) + opened
    assert weights.first == opened[0]
    assert not (base_folder / "chat_template.jinja").is_symlink()
    assert FORCE not in (base_folder / "chat_template.jinja").read_text()


def test_what_is_missing_is_named(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is missing"):
        prepare((base_folder, tmp_path / "absent"), tmp_path / "a")
    part = tmp_path / "part"
    part.mkdir()
    with pytest.raises(UserError, match=r"config.json is missing or no JSON"):
        prepare((part,), tmp_path / "b")


def test_only_the_first_token_of_a_suppressed_request_is_barred() -> None:
    def state(number: str, written: list[int], true_initial: int = 0) -> SimpleNamespace:
        return SimpleNamespace(
            request_id=number, generated_tokens=written, _true_initial_tokens=true_initial
        )

    assert is_first(state("1" + SUPPRESSED, []))
    assert not is_first(state("1", []))
    assert not is_first(state("1" + SUPPRESSED, [7]))
    assert not is_first(state("1" + SUPPRESSED, [], true_initial=9))  # it gave way and came back


def test_the_cache_fits_the_machine() -> None:
    tiny = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 128}
    assert cache_words(tiny | {"max_position_embeddings": 128}, 2**34)[1] == "64"
    large = {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "max_position_embeddings": 32768,
        "dtype": "bfloat16",
    }
    blocks = int(cache_words(large, 2**36)[1])
    assert 4 < blocks < 64 * 128
    assert blocks * 256 * 2 * 32 * 8 * 128 * 2 < 0.2 * 2**36


def test_the_engine_computes_in_the_type_that_an_evaluation_computes_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for units, taken in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(precision, "has_bfloat16_units", lambda _, units=units: units)
        assert dtype_words("bfloat16", ["model"]) == ["--dtype", taken]
        assert dtype_words("float32", ["model"]) == ["--dtype", "float32"]
    assert dtype_words("bfloat16", ["model", "--dtype", "bfloat16"]) == []
    assert dtype_words("bfloat16", ["model", "--dtype=float16"]) == []
    assert dtype_words("", ["model"]) == []


@pytest.mark.parametrize(
    ("config", "saved"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"model_type": "gemma3", "text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"text_config": None}, ""),
    ],
)
def test_the_engine_is_told_the_type_of_the_weights(
    config: dict[str, object], saved: str, tmp_path: Path
) -> None:
    weights = SimpleNamespace(folder=tmp_path / "m", first=7, config=config)
    command = TRANSFORMERS.command(weights, tmp_path / "socket", ["--cb-num-blocks", "4"])
    assert command[command.index("--saved") + 1] == saved


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (16, "15")])
def test_a_core_is_left_to_requests(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: str
) -> None:
    monkeypatch.setattr(transformers_engine, "cores", lambda: cores)
    assert compute_threads({}) == {"OMP_NUM_THREADS": threads}
    assert compute_threads({"OMP_NUM_THREADS": "7"}) == {}
