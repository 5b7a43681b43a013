"""A tokenizer as the metadata of a GGUF file, in the two kinds that are read back unchanged."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType

from tbr_lightning.data.chat_template import begin_token
from tbr_lightning.errors import UserError

_WORDS = "t5"
"""llama.cpp's name of the unigram tokenizer, which cuts words of a vocabulary as they stand."""

_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


@dataclass(frozen=True)
class Vocabulary:
    """The description of a tokenizer in a GGUF file.

    Attributes:
        model: llama.cpp's name of the algorithm: ``gpt2`` or ``t5``.
        pre: llama.cpp's name of the rule that splits text before tokenisation.
        merges: Merge pairs of a byte-level BPE, best first.
    """

    model: str
    pre: str
    merges: list[str]


def vocabulary(tokenizer: Any) -> Vocabulary:
    """Return how a tokenizer is described in a GGUF file.

    Raises:
        UserError: It is of a kind that would be read back differently.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    kind, before = core["model"]["type"], core["pre_tokenizer"]
    parts = (before or {}).get("pretokenizers", [before] if before else [])
    if kind == "BPE" and any(part["type"] == "ByteLevel" for part in parts):
        merges = [m if isinstance(m, str) else " ".join(m) for m in core["model"]["merges"]]
        if merges:  # llama.cpp takes no byte-level vocabulary without
            return Vocabulary("gpt2", _split_rule(parts), merges)
    blanks = [part for part in parts if part["type"] == "Metaspace"]
    if kind == "WordLevel" and blanks and blanks[0]["prepend_scheme"] == "never":
        return Vocabulary(_WORDS, "default", [])
    raise UserError(
        f"to=gguf knows tokenizers of bytes (GPT-2, SmolLM2, Llama 3, Qwen) and of whole words, "
        f"and this one is {kind} of another kind: use llama.cpp's convert_hf_to_gguf.py on the "
        "folder that to=folder writes"
    )


def _split_rule(parts: list[dict[str, Any]]) -> str:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    last = parts[-1]
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        first = parts[0]
        if len(parts) == 1 and last["use_regex"]:
            return "gpt-2"
        if len(parts) == 2 and first["type"] == "Digits" and first["individual_digits"]:
            return "smollm"
        if len(parts) == 2 and first["type"] == "Split" and not last["use_regex"]:
            rule = first["pattern"].get("Regex")
            named = [name for name, known in GGUF_PRE_TOKENIZER_SPLITS.items() if known == rule]
            if named:
                return named[0]
    raise UserError(
        "to=gguf does not know the rule by which this tokenizer splits text: use llama.cpp's "
        "convert_hf_to_gguf.py on the folder that to=folder writes"
    )


def add_tokenizer(writer: GGUFWriter, tokenizer: Any, size: int) -> None:
    """Write a tokenizer with its chat template.

    Args:
        writer: Writer of the file.
        tokenizer: Tokenizer with a chat template.
        size: Number of embedding rows, which may be more than there are tokens.

    Raises:
        UserError: See :func:`vocabulary`.
    """
    described = vocabulary(tokenizer)
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [TokenType.UNUSED] * size
    for token, number in tokenizer.get_vocab().items():
        if number < size:  # the rest has no embedding
            tokens[number], types[number] = token, TokenType.NORMAL
    for number, added in tokenizer.added_tokens_decoder.items():
        if number < size:
            types[number] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    unknown = tokenizer.unk_token_id
    if described.model == _WORDS and unknown is not None:
        types[unknown] = TokenType.UNKNOWN
    writer.add_tokenizer_model(described.model)
    writer.add_tokenizer_pre(described.pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if described.model == _WORDS:
        # Pieces of equal weight: the fewest win, and no piece holds the end of a word within it.
        writer.add_token_scores([-1.0] * size)
        writer.add_add_space_prefix(False)
        writer.add_remove_extra_whitespaces(False)
    else:
        writer.add_token_merges(described.merges)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number < size:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(begin_token(tokenizer) is not None)
    writer.add_add_eos_token(False)
    # The tags mark what is trained on; runtimes other than transformers do not know them.
    writer.add_chat_template(_GENERATION.sub("", tokenizer.chat_template))
