"""Where models come from, and what is told when they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.chat_template import prompt_ids
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone, load_backbone, load_folder
from tbr_lightning.models.export import export
from tbr_lightning.models.tokenizers import trained_tokenizer

from .conftest import ROWS, tiny


@pytest.mark.parametrize("text", ["How do I kill a Python process?", "Grüße, 火 🔥\n\tend "])
def test_trained_and_byte_tokenizers_write_any_text(text: str) -> None:
    for texts in ([], [row.prompt for row in ROWS]):
        tokenizer = trained_tokenizer(texts, 400, 128)
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_think_markers_are_single_tokens_that_survive_decoding() -> None:
    tokenizer = trained_tokenizer([], 0, 128)
    ids = tokenizer.encode("<think>x</think>y", add_special_tokens=False)
    assert len(ids) == 4
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>x</think>y"


def test_random_weights_follow_the_seed(tmp_path: Path) -> None:
    states = [
        load_backbone(tiny(), data="files", rows=ROWS, cache=tmp_path, seed=seed).model.state_dict()
        for seed in (0, 0, 1)
    ]
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def test_tiny_on_other_data_starts_from_random_weights(tmp_path: Path) -> None:
    config = compose_verb("train", ["data=files", "data.general=x.json"]).config.model
    made = load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)
    assert made.origin == "random/0"
    assert not made.thinks


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma2", "olmo2"])
def test_other_architectures_are_built(family: str, tmp_path: Path) -> None:
    config = tiny()
    config.architecture = {
        "model_type": family,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    made = load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)
    assert made.model.config.model_type == family


def test_what_cannot_be_built_is_told(tmp_path: Path) -> None:
    config = tiny()
    config.architecture = {"model_type": "nonesuch"}
    with pytest.raises(UserError, match=r"model\.architecture cannot be built"):
        load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)


def test_a_local_folder_without_a_chat_template_gets_the_fallback(
    backbone: Backbone, tmp_path: Path
) -> None:
    backbone.tokenizer.chat_template = None
    backbone.model.save_pretrained(tmp_path / "m")
    backbone.tokenizer.save_pretrained(tmp_path / "m")
    loaded = load_folder(tmp_path / "m", origin="m", thinks=False)
    assert not loaded.has_own_template
    text = loaded.tokenizer.decode(prompt_ids(loaded.tokenizer, "Hello."))
    assert text == "### User:\nHello.\n\n### Assistant:\n"


def test_an_export_carries_layout_template_and_weights(backbone: Backbone, tmp_path: Path) -> None:
    made = export(backbone, tmp_path / "out", dtype="float32")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert made.think_format == backbone.think_format
    parsed = made.tokenizer.parse_response(
        made.tokenizer.encode("<think>It hurts.</think>No.</s>", add_special_tokens=False),
        prefix=prompt_ids(made.tokenizer, "How?"),
    )
    assert (parsed["reasoning_content"], parsed["content"]) == ("It hurts.", "No.")


def test_an_empty_tensor_is_never_saved(backbone: Backbone, tmp_path: Path) -> None:
    backbone.model.model.norm.weight = torch.nn.Parameter(torch.empty(0))
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight: it has no elements"):
        export(backbone, tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()
