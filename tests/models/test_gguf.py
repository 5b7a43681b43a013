"""A model in one GGUF file: a small one is written by the format's own package and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError
from tbr_lightning.locate import missing_weights
from tbr_lightning.models import gguf as files
from tbr_lightning.models import gguf_writer
from tbr_lightning.models.backbone import Backbone, load_backbone
from tbr_lightning.models.config_facts import published_config

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
HEADS, KV_HEADS, WIDTH, CONTEXT = 4, 2, 32, 96


@pytest.fixture(scope="module")
def original() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(original: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(260)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens = [*bytes_to_unicode().values(), "hi", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["h i"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_pad_token_id(259)
    writer.add_chat_template(TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    state = original.state_dict()
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for layer in range(2):
        for ours, theirs in names.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"].numpy()
            if theirs in ("attn_q", "attn_k"):
                weight = _interleaved(weight, HEADS if theirs == "attn_q" else KV_HEADS)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _interleaved(weight: Any, heads: int) -> Any:
    """Lay the rows of a head out as llama.cpp rotates them: pairs side by side."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def test_the_folder_made_of_it_computes_as_the_original(
    file: Path, original: LlamaForCausalLM, tmp_path: Path
) -> None:
    folder = files.folder_of(file, tmp_path)
    made = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(made(ids).logits, original(ids).logits, rtol=1e-5, atol=1e-5)
    assert not hasattr(made.config, "quantization_config")
    made.save_pretrained(tmp_path / "again")
    assert not [*folder.glob("*.bin")]
    assert files.folder_of(file, tmp_path) == folder


def test_reading_it_fills_no_log(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files.folder_of(file, tmp_path)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "once, to the cache" in said[0]


def test_tokenizer_template_and_context_come_from_the_file(file: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(files.folder_of(file, tmp_path))
    assert tokenizer.decode(tokenizer.encode("hi 24", add_special_tokens=False)) == "hi 24"
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer.eos_token == "<|im_end|>"
    config = files.gguf_config(file)
    assert (config.max_position_embeddings, config.dtype) == (CONTEXT, torch.float32)


def test_a_model_of_a_run_is_named_by_the_file(file: Path, tmp_path: Path) -> None:
    config = compose_verb("train", ["model=hub", f"model.path={file}", "data=files"]).config.model
    planned = published_config(config)
    assert planned is not None
    assert planned.num_hidden_layers == 2
    backbone = load_backbone(config, data="files", rows=(), cache=tmp_path, seed=0)
    assert backbone.has_own_template
    assert backbone.model.config.vocab_size == 260


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_file_that_is_none_is_told(file: Path, tmp_path: Path, damage: str) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no model" if damage == "text" else file.read_bytes()[:400])
    config = compose_verb("train", ["model=hub", f"model.path={bad}", "data=files"]).config.model
    told = missing_weights(config)
    if damage == "text":
        assert "is not a GGUF file" in told[0]
    else:
        with pytest.raises(UserError, match=r"bad\.gguf"):
            files.folder_of(bad, tmp_path)


def test_a_package_that_is_not_installed_names_the_extra() -> None:
    words = ["model=smollm2_135m_instruct", "model.path=package:no_such_weights", "data=files"]
    config = compose_verb("train", words).config.model
    (told,) = missing_weights(config)
    assert "tbr-lightning[weights]" in told
    assert "no-such-weights" in told


def test_numbers_of_sixteen_bits_keep_all_their_bits(
    file: Path, original: LlamaForCausalLM, tmp_path: Path
) -> None:
    made = Backbone(original, files.gguf_tokenizer(file), ThinkFormat(), "o", False, True)
    path = tmp_path / "half.gguf"
    gguf_writer._write(made, path, "half", "float16")
    config = compose_verb("train", ["model=hub", f"model.path={path}"]).config.model
    read = load_backbone(config, data="files", rows=(), cache=tmp_path, seed=0, dtype="float32")
    for name, weight in original.named_parameters():
        assert torch.equal(read.model.get_parameter(name), weight.half().float()), name
