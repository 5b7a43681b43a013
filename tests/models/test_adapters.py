"""Adapters train alone, merge to the same model, and are told where they fit nowhere."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import AdapterConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.adapters import with_adapter
from tbr_lightning.models.backbone import Backbone

from ..training.conftest import fit_here

IDS = torch.arange(3, 40)[None]


def adapter(*words: str) -> AdapterConfig:
    config: AdapterConfig = compose_verb("train", list(words)).config.adapter
    return config


@pytest.mark.parametrize("name", ["none", "lora", "rslora", "dora"])
def test_each_adapter_trains_a_step_alone(name: str, backbone: Backbone) -> None:
    before = copy.deepcopy(backbone.model.state_dict())
    model = with_adapter(backbone.model, adapter(f"adapter={name}", "adapter.dropout=0.1"))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    if name == "none":
        assert model is backbone.model
    else:
        assert all("lora_" in parameter for parameter in trained)
    assert any("magnitude" in parameter for parameter in trained) == (name == "dora")
    with torch.no_grad():
        untouched = model.eval()(IDS).logits
        assert torch.allclose(untouched, backbone.model(IDS).logits, atol=1e-5)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()(IDS, labels=IDS).loss.backward()
    optimizer.step()
    with torch.no_grad():
        tuned = model.eval()(IDS).logits
        assert not torch.allclose(tuned, untouched)
        if name == "none":
            return
        frozen = {
            n.replace(".base_layer", "").removeprefix("base_model.model."): p
            for n, p in model.named_parameters()
            if not p.requires_grad
        }
        assert all(torch.equal(before[n], p) for n, p in frozen.items())
        assert torch.allclose(model.merge_and_unload()(IDS).logits, tuned, atol=1e-4)


def test_rank_stabilised_adapters_scale_by_the_root_of_the_rank(backbone: Backbone) -> None:
    model = with_adapter(backbone.model, adapter("adapter=rslora"))
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
    assert {layer.scaling["default"] for layer in layers} == {16 / 64**0.5}


@pytest.mark.parametrize("targets", [["nonesuch"], ["q_projj", "v_projj"]])
def test_targets_that_fit_no_layer_are_told(targets: list[str], backbone: Backbone) -> None:
    with pytest.raises(UserError, match="use all-linear") as caught:
        with_adapter(backbone.model, AdapterConfig(name="lora", target_modules=targets))
    assert str(targets) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_adapter_tensor_is_reached_by_a_fit(checkpointing: bool, tmp_path: Path) -> None:
    words = ("model=qwen2_5_0_5b", "adapter=dora", "trainer.max_steps=2")
    words += (f"trainer.gradient_checkpointing={checkpointing}",)
    _, fitted = fit_here(tmp_path, *words)
    for name, parameter in fitted.model.named_parameters():
        if "lora_B" in name:
            assert parameter.any(), name


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens"]])
def test_an_adapter_on_a_matrix_that_two_layers_share_is_refused(
    targets: list[str], backbone: Backbone
) -> None:
    tied = backbone.model.get_output_embeddings().weight is (
        backbone.model.get_input_embeddings().weight
    )
    assert tied
    with pytest.raises(UserError, match="are one matrix"):
        with_adapter(backbone.model, AdapterConfig(name="lora", target_modules=targets))
    apart = AdapterConfig(name="lora", target_modules=targets, export="adapter")
    assert with_adapter(backbone.model, apart) is not None
