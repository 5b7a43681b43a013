"""Models of which the text is a part, beside what sees: they train, answer and export as others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import AdapterConfig
from tbr_lightning.models.adapters import with_adapter
from tbr_lightning.models.architecture import (
    build_config,
    count_parameters,
    flops_per_token,
    is_composite,
    outside_text,
)
from tbr_lightning.models.backbone import Backbone, load_backbone, load_folder
from tbr_lightning.models.export import export
from tbr_lightning.models.generation import generate
from tbr_lightning.models.lm_head import logits_of

from .conftest import ROWS

SEEING = {
    "gemma3": {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 6},
        "vision_config": {"model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
    },
    "mistral3": {
        "model_type": "mistral3",
        "text_config": {"model_type": "ministral3"},
        "vision_config": {"model_type": "pixtral"},
    },
}


def seeing(kind: str, cache: Path) -> Backbone:
    words = ["model.init=random", "model.scale=tiny", "model.tokenizer=bytes"]
    config = compose_verb("train", words).config.model
    config.architecture = SEEING[kind]
    return load_backbone(config, data="files", rows=ROWS, cache=cache, seed=0)


@pytest.mark.parametrize("kind", SEEING)
def test_text_is_trained_answered_and_exported(kind: str, tmp_path: Path) -> None:
    made = seeing(kind, tmp_path)
    net = made.model
    assert is_composite(net.config)
    assert net.config.get_text_config().num_hidden_layers == 2
    assert sum(weight.numel() for weight in net.parameters()) < 2_000_000
    prompt = made.tokenizer.encode("Is it safe?")
    ids = torch.tensor([prompt])
    with torch.no_grad():
        whole = net(input_ids=ids)
        states = net.model(input_ids=ids).last_hidden_state[0]
        assert torch.allclose(logits_of(net, states), whole.logits[0].float(), atol=1e-4)
    ((_, answer),) = generate(made, [prompt], max_new_tokens=3)
    assert answer.new_tokens <= 3
    loaded = export(made, tmp_path / "out", dtype="float32")  # which compares what it has reloaded
    again = load_folder(tmp_path / "out", origin="o", thinks=True)
    assert type(again.model) is type(net) is type(loaded.model)
    assert again.think_format == made.think_format


@pytest.mark.parametrize("kind", SEEING)
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_what_sees_stays_as_it_is(kind: str, adapter: str, tmp_path: Path) -> None:
    net = seeing(kind, tmp_path).model
    outside = {name for name, _ in outside_text(net)}
    assert any("vision" in name for name in outside)
    tuned = with_adapter(net, AdapterConfig(name=adapter, r=2))
    trained = [name for name, weight in tuned.named_parameters() if weight.requires_grad]
    assert trained
    assert not any("vision" in name or "projector" in name for name in trained)
    tuned(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()
    without = [n for n, w in tuned.named_parameters() if w.requires_grad and w.grad is None]
    assert not without  # data-parallel training waits for the gradient of each


@pytest.mark.parametrize("kind", SEEING)
def test_it_is_estimated(kind: str) -> None:
    words = ["model.init=random", "model.scale=tiny", "model.tokenizer=bytes"]
    config = compose_verb("train", words).config.model
    config.architecture = SEEING[kind]
    architecture = build_config(config, vocab_size=300)
    total = count_parameters(architecture)
    assert 0 < flops_per_token(architecture, total, total, 64) < 6 * total + 1e7
