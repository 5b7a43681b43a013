"""Tokenizers for models that have none: trained on the rows, or plain bytes."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_SPECIAL = ["<pad>", "<s>", "</s>"]
_MARKERS = ["<think>", "</think>"]
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]\n"
    "{{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def byte_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token per byte, which can write any text."""
    return trained_tokenizer((), 0, max_length)


def trained_tokenizer(
    texts: Iterable[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on texts; it can write any text.

    The think markers are part of its vocabulary from the start.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, len(alphabet) + len(_SPECIAL)),
        special_tokens=_SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    # Not special: the markers have to survive decoding, since what is between them is split off.
    core.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in _MARKERS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer
