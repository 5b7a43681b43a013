"""Where models come from, and what is told when they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.chat_template import prompt_ids
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone, load_backbone, load_folder
from tbr_lightning.models.export import export
from tbr_lightning.models.generation import generate
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


def of_words(folder: Path, **tokens: str | None) -> Path:
    """Save a random model that has an embedding for each token but those that are added after."""
    reader = trained_tokenizer([row.prompt for row in ROWS], 400, 512)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(reader),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    for name, token in tokens.items():
        if token is None:
            setattr(reader, name, None)
        else:
            reader.add_special_tokens({name: token})
    LlamaForCausalLM(config).save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder


def test_a_pad_token_beyond_the_embeddings_only_fills_places(tmp_path: Path) -> None:
    """Answers are those of one prompt at a time, whatever stands before the shorter ones."""
    loaded = load_folder(of_words(tmp_path, pad_token="[PAD]"), origin="x", thinks=False)
    size = loaded.model.get_input_embeddings().weight.shape[0]
    assert loaded.tokenizer.pad_token_id < size
    ids = [prompt_ids(loaded.tokenizer, text) for text in ("Name a colour.", "How? " * 9)]
    both = dict(generate(loaded, ids, max_new_tokens=8))
    for number, prompt in enumerate(ids):
        alone = dict(generate(loaded, [prompt], max_new_tokens=8))
        assert both[number] == alone[0]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ({"eos_token": None, "pad_token": None}, "has no end token.*set eos_token"),
        ({"eos_token": "[END]"}, "the end token .END. of .* is number .* embeddings: use the"),
    ],
    ids=["none", "beyond"],
)
def test_a_model_without_an_end_token_is_refused(
    tmp_path: Path, tokens: dict[str, str | None], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        load_folder(of_words(tmp_path, **tokens), origin="x", thinks=False)
