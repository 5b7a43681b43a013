"""Base models in several architectures and sizes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.groups import options
from tbr_lightning.errors import UserError
from tbr_lightning.microworld import base
from tbr_lightning.microworld.base import BaseSettings, base_config, base_model, content_hash
from tbr_lightning.microworld.tokenizer import build_tokenizer
from tbr_lightning.models.architecture import count_parameters
from tbr_lightning.models.config_facts import planned_config

SMALL = {"hidden": 16, "layers": 2, "heads": 2, "documents": 120, "batch": 4}
SHIPPED = [name for name in options("model") if name.startswith("tiny")]
ARCHITECTURES = ["llama", "gemma2", "gpt_neox", "olmo2", "qwen3"]


def test_at_least_five_architectures_are_shipped() -> None:
    configs = [compose_verb("train", [f"model={name}"]).config for name in SHIPPED]
    assert {config.model.pretraining["architecture"] for config in configs} >= set(ARCHITECTURES)
    assert {config.data.name for config in configs} == {"microworld"}
    for name, config in zip(SHIPPED, configs, strict=True):
        assert config.model.name == name
        # With other data the same architecture starts from random weights.
        kind = config.model.architecture["model_type"]
        assert kind == config.model.pretraining["architecture"]
        assert planned_config(config.model, data="files", vocab_size=300).vocab_size == 300


def test_the_shipped_config_is_the_default_base() -> None:
    config = compose_verb("train", ["model=tiny"]).config.model
    settings = {k: v for k, v in config.pretraining.items() if k not in ("_target_", "data")}
    assert BaseSettings(**settings) == BaseSettings()
    planned = planned_config(config, data="microworld")
    assert (planned.model_type, planned.hidden_size) == ("llama", 128)
    wider = compose_verb("train", ["model=tiny", "model.pretraining.hidden=192"]).config.model
    assert planned_config(wider, data="microworld").hidden_size == 192


@pytest.mark.parametrize(
    "architecture",
    [*ARCHITECTURES[:2], *(pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES[2:])],
)
def test_an_architecture_is_trained_and_loads(architecture: str, tmp_path: Path) -> None:
    settings = BaseSettings(architecture=architecture, **SMALL)
    folder = base_model(tmp_path, settings)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = build_tokenizer()
    assert model.config.model_type == architecture
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    total = sum(weight.numel() for weight in model.parameters())
    assert count_parameters(base_config(settings, tokenizer)) == total
    # Packed rows of the corpus must not let a document see the one before it.
    first = tokenizer("<bos>A cat is an animal.", return_tensors="pt")["input_ids"]
    second = tokenizer("<bos><user>How do I feed a cat?", return_tensors="pt")["input_ids"]
    packed = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(one.shape[1]) for one in (first, second)])[None]
    with torch.no_grad():
        alone = model(input_ids=second, use_cache=False).logits
        together = model(input_ids=packed, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(together[:, first.shape[1] :], alone, atol=1e-4, rtol=1e-3)


def test_every_setting_is_another_base() -> None:
    hashes = [
        content_hash(settings)
        for settings in (
            BaseSettings(),
            BaseSettings(architecture="qwen3"),
            BaseSettings(hidden=64),
            BaseSettings(documents=18_000),
        )
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"architecture": "lama"}, "architecture=lama cannot be built"),
        ({"architecture": "vit"}, "architecture=vit cannot be built"),
        ({"architecture": "falcon"}, "architecture=falcon cannot be built"),
        ({"hidden": 100}, "give a multiple of 8"),
        ({"layers": 0}, "model.pretraining.layers=0"),
    ],
)
def test_what_cannot_be_built_is_told_before_it_is_trained(
    settings: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        base_model(tmp_path, BaseSettings(**{"documents": 120, **settings}))  # type: ignore[arg-type]


def test_of_processes_that_want_a_base_at_once_one_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train = base.train

    def counted(*args: object) -> object:
        trained.append(args)
        return train(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(base, "train", counted)
    settings = BaseSettings(**SMALL)
    threads = [threading.Thread(target=base_model, args=(tmp_path, settings)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1
