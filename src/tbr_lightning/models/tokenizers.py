"""Tokenizers: a model's own, completed with what it lacks, trained on the rows, or plain bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, meta
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.data.chat_template import FALLBACK_TEMPLATE, begin_token, prompt_ids
from tbr_lightning.data.example import Example
from tbr_lightning.errors import UserError, near
from tbr_lightning.locate import base_of, located, out_of_reach, path_problems
from tbr_lightning.models.bases import tokenizer_place
from tbr_lightning.models.config_facts import adapter_folder, source_of
from tbr_lightning.models.gguf import gguf_tokenizer, is_gguf

_SPECIAL = ["<pad>", "<s>", "</s>"]
_MARKERS = ["<think>", "</think>"]
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]\n"
    "{{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
_JINJA = Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
_SET = re.compile(r"\b(\w+) is (?:not )?defined")  # a variable with a default of its own


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


def load_tokenizer(config: ModelConfig, *, data: str, rows: Iterable[Example]) -> tuple[Any, bool]:
    """Return a model's tokenizer, and whether the chat template is its own; load no weights."""
    world = config.made_for(data)
    tokenizer = read_tokenizer(config, rows, world=world)
    return tokenizer, complete(tokenizer, config.chat_template, config.template_args)


def read_tokenizer(config: ModelConfig, rows: Iterable[Example], *, world: bool) -> Any:
    """Return the tokenizer that a config names; ``world``: that of a base that is made here."""
    kind = config.tokenizer
    if kind == "auto":
        kind = "own" if world or config.hub_id or config.path else "train"
    texts: Iterable[str] = (text for row in rows for text in (row.prompt, row.response))
    if kind == "bytes":
        return byte_tokenizer(config.max_length)
    if kind == "train":
        return trained_tokenizer(texts, config.vocab_size, config.max_length)
    if world:
        return source_of(config).tokenizer()
    source, revision = config.path or config.hub_id, None if config.path else config.revision
    if source is None:
        raise UserError(
            f"model.tokenizer=own: {config.name} has none for this data: use bytes or train"
        )
    if config.path is not None:
        place = located(config.path)
        if not place.exists():
            raise UserError(*path_problems(config.path, f"model.path='{config.path}'"))
        source = str(place)
    if (adapter := adapter_folder(config)) is not None:
        source, revision = str(tokenizer_place(adapter) or ""), None
        if not source:
            base = base_of(adapter)
            assert base is not None
            source, revision = base.files
    if is_gguf(source):
        return gguf_tokenizer(Path(source))
    try:
        return AutoTokenizer.from_pretrained(
            source,
            revision=revision,
            trust_remote_code=False,
            local_files_only=out_of_reach(source, revision),
        )
    except (OSError, ValueError) as error:
        fix = "put its files there" if Path(source).is_dir() else "go online once"
        raise UserError(
            f"the tokenizer of {source} cannot be loaded: {fix}, or use model.tokenizer=bytes"
        ) from error


def complete(
    tokenizer: Any, template: str | None = None, args: Mapping[str, Any] | None = None
) -> bool:
    """Add what a tokenizer lacks: a pad token, a chat template (or the configured one).

    Values of the template's variables are written into it, so that whoever renders the template
    later, as a server does, renders it in the same way.

    Returns:
        Whether the chat template is not the fallback.

    Raises:
        UserError: The configured template cannot be used.
    """
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if template is not None:
        try:
            tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
            prompt_ids(tokenizer, "x")
        except (OSError, UnicodeDecodeError, TemplateError) as error:
            raise UserError(
                f"model.chat_template='{template}' cannot be used: {error}: give a file with a "
                "Jinja template over messages"
            ) from error
    if tokenizer.chat_template:
        if args:
            tokenizer.chat_template = with_arguments(tokenizer.chat_template, args)
        return True
    # Servers render the template by themselves, so the begin token has to be in it.
    start = "{{ bos_token }}" if begin_token(tokenizer) is not None else ""
    tokenizer.chat_template = start + FALLBACK_TEMPLATE
    return False


def with_arguments(template: str, args: Mapping[str, Any]) -> str:
    """Return a chat template in which variables have values.

    Raises:
        UserError: The template reads no variable of such a name, or a value is not plain.
    """
    free = meta.find_undeclared_variables(_JINJA.parse(template)) | set(_SET.findall(template))
    head = ""
    for name, value in args.items():
        if name not in free:
            known = sorted(free - {"messages", "add_generation_prompt", "raise_exception"})
            raise UserError(
                f"model.template_args.{name} is no variable of the model's chat template"
                f"{near(name, known)}"
            )
        if not isinstance(value, str | bool | int | float | None):
            raise UserError(f"model.template_args.{name}={value} must be a text, number or boolean")
        head += f"{{%- set {name} = {_literal(value)} -%}}"
    return f"{head}{template}"


def _literal(value: str | bool | float | None) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def template_notice(config: ModelConfig, *, has_own_template: bool) -> str | None:
    """Return the notice that the fallback chat template is used, if it is."""
    if has_own_template:
        return None
    return (
        f"the tokenizer of {config.name} has no chat template: '### User:' and '### Assistant:' "
        "before each turn are used; model.chat_template=FILE gives another"
    )
