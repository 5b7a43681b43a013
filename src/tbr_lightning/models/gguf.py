"""Models in one GGUF file: what the file states of them, and the folder converted from it."""

from __future__ import annotations

import copy
import json
import struct
import sys
from collections.abc import Iterator, Sequence
from functools import cache as remembered
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    modeling_gguf_pytorch_utils,
)

from tbr_lightning.data.cache import built, content_key, file_key
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.progress import track

THINK_FORMAT = "tbr.think_format"
"""Metadata key of the think format, as JSON; files that others write have none."""

_FORMAT = 3  # version of the folders that are made here
_PLAIN_SPLITS = ("default", "gpt-2", "gpt2", "olmo", "jais")  # split as GPT-2's tokenizer does


def _tensors_shown(tensors: Sequence[Any], **_: object) -> Iterator[Any]:
    return track(tensors, "weights", len(tensors))


# transformers has no switch for this bar; of a run in the background it fills the log.
modeling_gguf_pytorch_utils.tqdm = _tensors_shown


def is_gguf(source: str | Path) -> bool:
    """Return whether a name is that of a GGUF file."""
    return Path(source).suffix == ".gguf"


@remembered  # the reader takes seconds
def gguf_config(file: Path) -> PretrainedConfig:
    """Return the transformers config that a GGUF file describes; read no weights.

    Raises:
        UserError: It is not a GGUF file, or transformers does not know its architecture.
    """
    config = _read(file, AutoConfig.from_pretrained)
    config.dtype = getattr(torch, _dtype(file))
    # It would say that the weights are still quantised, and such a model is never saved.
    config.__dict__.pop("quantization_config", None)
    return cast("PretrainedConfig", config)


def gguf_tokenizer(file: Path) -> Any:
    """Return the tokenizer of a GGUF file, with its chat template if the file has one.

    Raises:
        UserError: The file holds none that transformers knows.
    """
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    facts = _facts(file)
    if facts.get("tokenizer.ggml.model") == "t5" and facts["general.architecture"] != "t5":
        return _word_tokenizer(file)
    tokenizer = _read(file, AutoTokenizer.from_pretrained)
    tokenizer.model_max_length = facts.get(f"{facts['general.architecture']}.context_length", 1024)
    rule = facts.get("tokenizer.ggml.pre")
    if rule == "smollm":  # each digit by itself, which transformers leaves out
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
    elif (
        facts.get("tokenizer.ggml.model") == "gpt2"
        and rule not in (None, *_PLAIN_SPLITS)
        and rule not in GGUF_PRE_TOKENIZER_SPLITS
    ):
        print(
            f"{file.name} splits text by the rule '{rule}', which transformers does not know: some "
            "texts get other tokens than in its training; its Hugging Face folder has no such gap",
            file=sys.stderr,
        )
    return tokenizer


def _word_tokenizer(file: Path) -> Any:
    """Return a unigram tokenizer as the file has it; transformers would make it T5's."""
    keys = ("tokens", "scores", "token_type")
    facts = _facts(file, tuple(f"tokenizer.ggml.{key}" for key in keys))
    tokens, scores, types = (facts[f"tokenizer.ggml.{key}"] for key in keys)
    unknown = facts.get("tokenizer.ggml.unknown_token_id")
    blank = "always" if facts.get("tokenizer.ggml.add_space_prefix", True) else "never"
    core = Tokenizer(models.Unigram(list(zip(tokens, scores, strict=True)), unknown))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=blank)
    core.decoder = decoders.Metaspace(prepend_scheme=blank)
    added = {
        kind: [
            AddedToken(token, special=kind is not TokenType.USER_DEFINED, normalized=False)
            for token, found in zip(tokens, types, strict=True)
            if found == kind
        ]
        for kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    }
    core.add_special_tokens(added[TokenType.CONTROL])
    core.add_tokens(added[TokenType.USER_DEFINED])
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {name: facts.get(f"tokenizer.ggml.{key}_token_id") for name, key in named.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        padding_side="left",
        model_max_length=facts.get(f"{facts['general.architecture']}.context_length", 1024),
        clean_up_tokenization_spaces=False,
        chat_template=facts.get("tokenizer.chat_template"),
        **{f"{name}_token": tokens[n] for name, n in numbers.items() if n is not None},
    )


def folder_of(file: Path, cache: Path) -> Path:
    """Return a Hugging Face folder of a GGUF file's weights, tokenizer and chat template.

    It is made once, in ``cache``, for each file's contents. Weights that the file quantises are
    multiplied out and kept in bfloat16.

    Raises:
        UserError: The file cannot be read as a causal language model.
    """
    made_by = [version(name) for name in ("transformers", "gguf")]
    folder = cache / f"gguf-{content_key(_FORMAT, made_by, file_key(file))}"
    return built(folder, lambda partial: _write(file, partial))


def _write(file: Path, folder: Path) -> None:
    dtype = _dtype(file)
    megabytes = file.stat().st_size >> 20
    print(
        f"{file.name}: its {megabytes} MB are written as {dtype} safetensors, once, to the cache",
        file=sys.stderr,
    )
    tokenizer = gguf_tokenizer(file)
    loaded = _read(file, AutoModelForCausalLM.from_pretrained, dtype=getattr(torch, dtype))
    config = copy.deepcopy(loaded.config)
    # transformers refuses to save a model that is marked as quantised, so it is built anew.
    config.__dict__.pop("quantization_config", None)
    config.__dict__.pop("_name_or_path", None)
    if (found := _facts(file).get(THINK_FORMAT)) is not None:
        config.tbr = json.loads(found)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read(file: Path, read: Any, **how: Any) -> Any:
    try:
        return read(str(file.parent), gguf_file=file.name, trust_remote_code=False, **how)
    except (OSError, ValueError, KeyError, TypeError, ImportError, NotImplementedError) as error:
        raise UserError(
            f"{file} cannot be read as a model: {in_one_line(error, 200)}: give its Hugging "
            "Face folder"
        ) from error


def _facts(file: Path, lists: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the short entries of a file's header, and those of the long ones that are named."""
    from transformers.integrations.gguf.reader import read_gguf_metadata

    try:
        facts: dict[str, Any] = read_gguf_metadata(str(file), lists)[0]
    except (OSError, ValueError, IndexError, KeyError, struct.error) as error:
        reason = in_one_line(error)
        raise UserError(f"{file} is not a whole GGUF file ({reason}): fetch it again") from error
    return facts


def _dtype(file: Path) -> str:
    """Return the type to keep a file's weights in: that of the file, where it quantises none."""
    from gguf import LlamaFileType

    stored = _facts(file).get("general.file_type")
    whole: dict[Any, str] = {LlamaFileType.ALL_F32: "float32", LlamaFileType.MOSTLY_F16: "float16"}
    return whole.get(stored, "bfloat16")
