"""Every shipped model: its architecture has the published size, and its tiny form runs."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tbr_lightning import locate, preflight
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import options
from tbr_lightning.config.schema import TINY_CONTEXT, ModelConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models import backbone
from tbr_lightning.models.architecture import (
    build_config,
    context_length,
    count_parameters,
    flops_per_logits,
    flops_per_token,
)
from tbr_lightning.models.backbone import load_backbone

from ..support.families import families
from .conftest import ROWS, tiny

# Millions of parameters as the model cards or the weight files give them, tied matrices once.
PUBLISHED = {
    "deepseek_r1_llama_70b": 70554,
    "deepseek_r1_llama_8b": 8030,
    "deepseek_r1_qwen_1_5b": 1777,
    "deepseek_r1_qwen_7b": 7616,
    "gemma3_12b": 11766,
    "gemma3_1b": 1000,
    "gemma3_270m": 268,
    "gemma3_27b": 27009,
    "gemma3_4b": 3880,
    "llama3_1_8b": 8030,
    "llama3_1_8b_instruct": 8030,
    "llama3_3_70b_instruct": 70554,
    "ministral3_14b": 13500,
    "ministral3_3b": 3430,
    "ministral3_8b": 8490,
    "mistral_small3_24b": 23572,
    "olmo3_7b": 7298,
    "olmo3_7b_instruct": 7298,
    "phi4": 14660,
    "phi4_mini": 3836,
    "qwen3_14b": 14768,
    "qwen3_1_7b": 1721,
    "qwen3_32b": 32762,
    "qwen3_4b": 4022,
    "qwen3_4b_instruct": 4022,
    "qwen3_5_0_8b": 752,
    "qwen3_5_4b": 4210,
    "qwen3_5_9b": 8950,
    "smollm3_3b": 3075,
    "gemma2_2b": 2614,
    "gemma2_9b": 9242,
    "gemma_2b": 2506,
    "llama2_13b": 13016,
    "llama2_70b": 68977,
    "llama2_7b": 6738,
    "llama3_2_1b": 1236,
    "llama3_2_3b": 3213,
    "llama3_70b": 70554,
    "llama3_8b": 8030,
    "mistral": 7242,
    "mixtral_8x7b": 46703,
    "olmo2_1b": 1485,
    "olmo2_7b": 7299,
    "phi3_mini": 3821,
    "qwen2_5_0_5b": 494,
    "qwen2_5_14b": 14770,
    "qwen2_5_1_5b": 1544,
    "qwen2_5_7b": 7616,
    "qwen3_0_6b": 596,
    "qwen3_8b": 8191,
    "smollm2_135m": 135,
    "smollm2_135m_instruct": 135,
    "smollm2_1_7b": 1711,
    "smollm2_360m": 362,
}
REAL = [name for name in options("model") if not name.startswith("tiny") and name != "hub"]
"""Models that state their architecture; `hub` takes it from the files."""
OF_EACH = [
    pytest.param(name, marks=() if name in families().values() else pytest.mark.slow)
    for name in REAL
]
"""All of them; the second and further ones of a family in the slow set."""
LOADED = ("gemma3_270m", "smollm2_135m_instruct")
"""Models whose real weights the project has loaded."""
TINY = ("model.init=random", "model.scale=tiny", "model.tokenizer=bytes")


def model(name: str, *words: str) -> ModelConfig:
    return compose_verb("train", [f"model={name}", *words]).config.model


@pytest.mark.parametrize("name", OF_EACH)
def test_a_shipped_model_has_the_published_size_and_says_what_it_is(name: str) -> None:
    config = model(name)
    assert count_parameters(build_config(config)) / 1e6 == pytest.approx(PUBLISHED[name], rel=0.01)
    assert config.name == name
    assert config.hub_id
    assert config.licence != "unknown"
    verified = name in LOADED
    assert (config.revision, config.verified, config.init) == (None, verified, "pretrained")
    assert config.architecture["max_position_embeddings"] >= config.max_length


def test_many_families_and_sizes_are_shipped() -> None:
    assert set(REAL) == set(PUBLISHED)
    assert len(REAL) >= 18
    assert len(families()) >= 6
    assert len({round(size, -3) for size in PUBLISHED.values()}) >= 5


@pytest.mark.parametrize("name", OF_EACH)
def test_a_tiny_form_runs_and_takes_its_adapters(name: str, tmp_path: Path) -> None:
    config = model(name, *TINY)
    made = load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)
    net = made.model
    assert sum(weight.numel() for weight in net.parameters()) < 1_000_000
    assert net.config.model_type == config.architecture["model_type"]
    assert net.config.num_hidden_layers == 2
    assert context_length(net.config) == TINY_CONTEXT
    assert net.config.vocab_size == len(made.tokenizer)
    ids = torch.tensor([made.tokenizer.encode("Is it safe?")])
    with torch.no_grad():
        assert net(ids).logits.isfinite().all()
    lora = LoraConfig(
        r=2, lora_dropout=0.1, target_modules=config.adapter_targets, task_type="CAUSAL_LM"
    )
    trained = [n for n, w in get_peft_model(net, lora).named_parameters() if w.requires_grad]
    assert trained
    assert all("lora_" in weight for weight in trained)


def test_a_tiny_form_keeps_what_makes_the_architecture() -> None:
    gemma = build_config(model("gemma2_9b", *TINY))
    assert (gemma.attn_logit_softcapping, gemma.final_logit_softcapping) == (50, 30)
    assert gemma.layer_types == ["sliding_attention", "full_attention"]
    assert (gemma.num_attention_heads, gemma.num_key_value_heads) == (4, 2)
    assert gemma.sliding_window < TINY_CONTEXT
    mixture = build_config(model("mixtral_8x7b", *TINY))
    assert (mixture.num_local_experts, mixture.num_experts_per_tok) == (4, 2)
    llama = build_config(model("llama3_2_1b", *TINY))
    assert llama.rope_parameters["rope_type"] == "llama3"
    assert llama.rope_parameters["original_max_position_embeddings"] < TINY_CONTEXT
    assert llama.tie_word_embeddings
    assert build_config(model("qwen2_5_0_5b", *TINY)).num_key_value_heads == 1
    assert build_config(model("phi4_mini", *TINY)).rope_parameters["partial_rotary_factor"] == 0.75


def test_special_tokens_are_those_of_the_tokenizer_in_use() -> None:
    config = model("phi3_mini", *TINY)
    assert build_config(config).pad_token_id == 32000
    assert build_config(config, vocab_size=300).pad_token_id is None
    assert build_config(config, vocab_size=300, special={"pad_token_id": 7}).pad_token_id == 7


def test_operations_of_a_token_follow_what_is_used_and_trained() -> None:
    def flops(name: str, trainable: int | None = None, context: int = 2048) -> float:
        config = build_config(model(name))
        total = count_parameters(config)
        return flops_per_token(config, total if trainable is None else trainable, total, context)

    look_up = 32000 * 4096
    attention = 6 * 32 * 32 * 128  # per token of context: PaLM's 12, halved by the causal mask
    full = 6 * (6_738_415_616 - look_up) + attention * 2048
    assert flops("llama2_7b") == pytest.approx(full)
    assert flops("llama2_7b", trainable=0) == pytest.approx(full - 2 * (6_738_415_616 - look_up))
    # Beyond its window of 4096, Mistral's attention grows no more as Llama's does.
    wide, narrow = (flops("mistral", context=size) for size in (8192, 4096))
    assert wide - narrow == pytest.approx(attention * (2 * (4096 - 1024) - 4096))
    # Two of eight experts work: 12.9 B of Mixtral's 46.7 B parameters.
    assert flops("mixtral_8x7b", context=1) / 6 == pytest.approx(12.9e9 - look_up, rel=0.01)
    # The logits of a position cost the output matrix, times 6 if it is trained, else 4.
    config = build_config(model("llama2_7b"))
    assert flops_per_logits(config, trained=True) == 6 * look_up
    assert flops_per_logits(config, trained=False) == 4 * look_up
    # A tied embedding also computes the logits.
    assert flops("smollm2_135m", context=1) == pytest.approx(6 * 134_515_008, rel=0.001)


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ({"model_type": "nonesuch"}, "nonesuch"),
        ({}, "model_type"),
        ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size"),
        ({"model_type": "llama", "hidden_size": 65, "num_attention_heads": 4}, "65"),
        ({"model_type": "t5"}, "causal"),
    ],
)
def test_what_cannot_be_built_is_told_in_a_sentence(architecture: dict, says: str) -> None:
    config = tiny()
    config.architecture = architecture
    with pytest.raises(UserError, match=r"model\.architecture cannot be built") as caught:
        build_config(config)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=mistral", "model.scale=tiny"], ["model.scale=tiny needs model.init=random"]),
        (["model=mistral", "model.scale=small"], ["model.scale='small'"]),
        (["model=mistral", "model.attention=flash"], ["model.attention='flash'", "known:"]),
        (["model=mistral", "model.adapter_targets=all"], ["model.adapter_targets=all", "list"]),
        (["model=mistral", "model.adapter_targets=[]"], ["model.adapter_targets=[]", "list"]),
    ],
)
def test_wrong_fields_are_told_while_composing(words: list[str], says: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose_verb("train", words)
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        (
            "llama2_7b",
            ["model.max_length=8192"],
            "context of llama2_7b (4096 tokens)",
        ),
        ("llama3_8b", [*TINY, "model.max_length=4096"], "llama3_8b (2048 tokens)"),
        ("llama2_7b", ["model.attention=flash_attention_2"], "flash_attn"),
    ],
)
def test_what_a_model_cannot_do_is_told_before_the_run(
    name: str, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda _: None)
    config = compose_verb(
        "train", [f"model={name}", "model.init=random", "data=microworld", *words]
    ).config
    with pytest.raises(UserError) as caught:
        preflight.check(config.model, config.data, config.reflection, config.trainer)
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_the_implementation_of_attention_is_chosen(kind: str, tmp_path: Path) -> None:
    config = model("llama2_7b", *TINY, f"model.attention={kind}")
    made = load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)
    assert made.model.config._attn_implementation == kind
    made.model.save_pretrained(tmp_path / "m")
    made.tokenizer.save_pretrained(tmp_path / "m")
    loaded = backbone.load_folder(tmp_path / "m", origin="m", thinks=False, attention=kind)
    assert loaded.model.config._attn_implementation == kind


def _gated() -> Exception:
    from huggingface_hub import errors

    error = OSError("You are trying to access a gated repo.\nMake sure to have access.")
    response = SimpleNamespace(headers={}, request=None)
    error.__cause__ = errors.GatedRepoError("403", response=response)  # type: ignore[arg-type]
    return error


def test_a_gated_model_without_access_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise _gated()

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **more: None)
    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **more: None)
    assert "gated" in locate.missing_weights(model("llama2_7b"))[0]
    assert not locate.missing_weights(model("qwen2_5_7b"))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (_gated(), "gated and your account has no access"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "set HF_HOME"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "set HF_HOME"),
        (ValueError("a broken file\nand more"), "cannot be loaded: a broken file and more"),
    ],
)
def test_weights_that_cannot_be_had_are_told_in_a_sentence(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(backbone.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(UserError) as caught:
        load_backbone(model("llama2_7b"), data="files", rows=ROWS, cache=tmp_path, seed=0)
    assert "the weights of meta-llama/Llama-2-7b-hf" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
