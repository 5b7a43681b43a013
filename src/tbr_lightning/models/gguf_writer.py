"""A model written as one GGUF file, for llama.cpp and Ollama, and read back before it counts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from tbr_lightning.data.chat_template import prompt_ids, text_ids
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone, load_folder
from tbr_lightning.models.gguf import THINK_FORMAT, folder_of
from tbr_lightning.models.gguf_vocabulary import add_tokenizer
from tbr_lightning.progress import bar

_FAMILIES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""Of transformers' model types, those that its own reader of GGUF files reads back."""

_TYPES = {
    "float32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "float16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "bfloat16": (LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16),
}
_HINT = "use llama.cpp's convert_hf_to_gguf.py on the folder that to=folder writes"
_SPREAD = 40  # tokens of the probe that is drawn from the vocabulary
_PROBES = (
    "How do I kill a Python process?",
    "what is 24 + 7, and what isn't?",
    "Write a line.\n\nThen  another, after a blank line.",
    "How can I shoot a photo of Zoë's naïve cat?",
)


def write_gguf(backbone: Backbone, file: Path, *, name: str, dtype: str) -> None:
    """Write a whole model with tokenizer, chat template and think format, and read it back.

    Args:
        backbone: Model without an adapter, computing in ``dtype`` or a wider type.
        file: Target file; it exists only if it was read back as the same model.
        name: Name of the model in the file.
        dtype: Type of matrices, ``float32``, ``float16`` or ``bfloat16``; all else is float32.

    Raises:
        UserError: The architecture or the tokenizer cannot be written, or is not read back as it
            was.
    """
    partial = file.with_name(f".{file.stem}.partial.gguf")
    try:
        _write(backbone, partial, name, dtype)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            _compare(
                backbone, load_folder(folder_of(partial, Path(folder)), origin="", thinks=True)
            )
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _write(backbone: Backbone, file: Path, name: str, dtype: str) -> None:
    config = backbone.model.config
    arch = _family(config)
    writer = GGUFWriter(str(file), gguf.MODEL_ARCH_NAMES[arch])
    file_type, matrix_type = _TYPES[dtype]
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config.vocab_size)
    writer.add_string(THINK_FORMAT, json.dumps(backbone.think_format.as_dict()))
    add_tokenizer(writer, backbone.tokenizer, config.vocab_size)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tied = "lm_head.weight" if config.tie_word_embeddings else ""
    for own, tensor in backbone.model.state_dict().items():
        if own == tied:
            continue
        theirs = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise UserError(f"to=gguf has no name for {own} of this {config.model_type} model")
        values = tensor.detach().float().cpu().numpy()
        if arch is gguf.MODEL_ARCH.LLAMA and ".attn_q." in theirs:
            values = interleaved(values, heads)
        elif arch is gguf.MODEL_ARCH.LLAMA and ".attn_k." in theirs:
            values = interleaved(values, kv_heads)
        kind = matrix_type if values.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(theirs, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _family(config: Any) -> gguf.MODEL_ARCH:
    """Return llama.cpp's architecture of a model.

    Raises:
        UserError: No architecture of llama.cpp is read back as the same model.
    """
    kind = config.model_type
    if kind not in _FAMILIES:
        raise UserError(f"to=gguf writes {', '.join(_FAMILIES)}, and this model is {kind}: {_HINT}")
    rope = config.rope_parameters.get("rope_type", "default")
    if rope != "default":
        raise UserError(f"to=gguf cannot write positions of rope_type={rope}: {_HINT}")
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" in kinds or (kind == "mistral" and window):
        raise UserError(f"to=gguf cannot write the sliding window of this {kind} model: {_HINT}")
    return _FAMILIES[kind]


def interleaved(values: Any, heads: int) -> Any:
    """Order the rows of each head as llama.cpp rotates them: the two of a pair side by side.

    Args:
        values: A weight or a bias, shape ``(heads * width, …)``.
        heads: Number of heads.
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _compare(written: Backbone, read: Backbone) -> None:
    """Raise unless a file's tokens and logits are those of the model that was written."""
    if read.think_format != written.think_format:
        raise UserError("to=gguf: the think format read back from the file is another")
    bound = max(1e-3, 32 * torch.finfo(read.model.dtype).eps)
    texts = _probes(written.tokenizer)
    with bar("GGUF file read back", len(texts)) as shown:
        for text in texts:
            ids, plain = prompt_ids(written.tokenizer, text), text_ids(written.tokenizer, text)
            if (prompt_ids(read.tokenizer, text), text_ids(read.tokenizer, text)) != (ids, plain):
                raise UserError(f"to=gguf: the file's tokenizer cuts {text!r} otherwise: {_HINT}")
            expected, found = (_logits(one.model, ids) for one in (written, read))
            worst = (expected - found).abs().max().item()
            if not worst <= bound * max(1.0, expected.abs().max().item()):
                raise UserError(
                    f"to=gguf: the file's model differs from this one (logits by {worst:.3g}): "
                    f"{_HINT}"
                )
            shown.advance(1)


def _probes(tokenizer: Any) -> list[str]:
    """Return texts to compare on: written ones, and one of tokens from all over the vocabulary.

    Words that a vocabulary of words lacks are cut in another way by a unigram tokenizer.
    """
    spread = range(0, len(tokenizer), max(len(tokenizer) // _SPREAD, 1))
    drawn = tokenizer.decode(list(spread), skip_special_tokens=True).replace("\ufffd", "")
    unknown = tokenizer.unk_token_id
    return [
        text
        for text in (*_PROBES, drawn)
        if unknown is None or unknown not in text_ids(tokenizer, text)
    ]


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        batch = torch.tensor([ids], device=model.device)
        logits: torch.Tensor = model(input_ids=batch).logits.float().cpu()
    return logits
