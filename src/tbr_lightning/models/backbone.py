"""A causal language model with its tokenizer, from the source that the config names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from tbr_lightning.config.schema import AdapterConfig, ModelConfig
from tbr_lightning.data.chat_template import end_token
from tbr_lightning.data.example import Example
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.locate import PACKAGE, base_of, located, weights_problem
from tbr_lightning.models.adapters import merged_with, quantization
from tbr_lightning.models.architecture import auto_class, build_config
from tbr_lightning.models.bases import find_base, tokenizer_place
from tbr_lightning.models.config_facts import adapter_folder, source_of, weights_dtype
from tbr_lightning.models.decoding import Guidance
from tbr_lightning.models.gguf import folder_of, is_gguf
from tbr_lightning.models.tokenizers import complete, read_tokenizer
from tbr_lightning.preflight import missing_attention

disable_progress_bar()  # of every load and save: ours has its own


@dataclass(frozen=True)
class Backbone:
    """A model with its tokenizer, ready for training or generation.

    Attributes:
        model: A causal language model of transformers, maybe with a PEFT adapter.
        tokenizer: Tokenizer of the model, with a chat template.
        think_format: The markers of its think block.
        origin: Identity of the weights: hub id and revision, folder, base hash or random seed.
        thinks: Whether the weights know think blocks (the micro-world's base, or a tuned model).
        has_own_template: Whether the chat template came with the tokenizer.
        folder: Folder that the same weights can be loaded from; ``None`` if they were made here.
        guide: Object that takes part in decoding, beside the weights.
    """

    model: Any
    tokenizer: Any
    think_format: ThinkFormat
    origin: str
    thinks: bool
    has_own_template: bool
    folder: Path | None = None
    guide: Guide | None = None


class Guide(Protocol):
    """An object that changes how a model decodes, for as long as its context is open."""

    @property
    def name(self) -> str:
        """Name of the guide."""

    @property
    def identity(self) -> str:
        """Hash of all that its effect depends on, beside weights and prompts."""

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]]
    ) -> AbstractContextManager[Guidance]:
        """Take part in decoding these prompts, given as token ids."""


def load_backbone(
    config: ModelConfig,
    *,
    data: str,
    rows: Iterable[Example],
    cache: Path,
    seed: int,
    tokenizer: Path | None = None,
    dtype: str | None = None,
    adapter: AdapterConfig | None = None,
) -> Backbone:
    """Load or build the model of a config.

    Args:
        config: Config of the model.
        data: Name of the data, which decides what ``init=auto`` means.
        rows: Training rows, for a tokenizer that is trained on them.
        cache: Cache folder of base models made here.
        seed: Seed of random weights.
        tokenizer: Folder of the tokenizer, if the rows were tokenised before.
        dtype: Type of the weights; ``None`` for the model's own.
        adapter: Config of the adapter to be added, which may need a quantised base.

    Raises:
        UserError: The weights or the tokenizer is not available.
    """
    config = config if dtype is None else replace(config, dtype=dtype)
    world = config.made_for(data)
    if world and config.init in ("auto", "pretrained"):
        folder = source_of(config).folder(cache)
        loaded = load_folder(folder, ThinkFormat.of(config), origin=folder.name, thinks=True)
        # A cache may be emptied: nothing that lasts may point into it.
        return replace(loaded, folder=None)
    if config.init == "random" or (config.hub_id is None and config.path is None):
        ready = None if tokenizer is None else AutoTokenizer.from_pretrained(tokenizer)
        return _random(config, ready or read_tokenizer(config, rows, world=world), seed)
    if (found := adapter_folder(config)) is not None:
        return _adapted(config, found, cache, tokenizer, adapter)
    quantized = None if adapter is None else quantization(adapter)
    if config.path is not None:
        place = located(config.path)
        if is_gguf(place):
            made = replace(config, path=str(folder_of(place, cache)))
            loaded = _pretrained(made, tokenizer, quantized)
            # As above. The file, not the folder made of it, identifies the weights; a package has
            # one file, and its model is known by its own name.
            packed = config.path.startswith(PACKAGE)
            return replace(loaded, folder=None, origin=config.name if packed else config.path)
        config = replace(config, path=str(place))
    return _pretrained(config, tokenizer, quantized)


def _adapted(
    config: ModelConfig,
    folder: Path,
    cache: Path,
    tokenizer: Path | None,
    adapter: AdapterConfig | None,
) -> Backbone:
    """Load the base of an adapter with the adapter merged into it."""
    if adapter is not None and adapter.quantize:
        raise UserError(
            f"adapter={adapter.name} puts a new adapter on a quantised base, and {folder} is an "
            "adapter itself, which is merged in full precision first: merge it and save the whole "
            "model, or use adapter=lora"
        )
    name = config.path or f"{config.hub_id}@{config.revision or 'main'}"
    try:
        return load_adapted(
            folder,
            ThinkFormat.of(config),
            cache=cache,
            origin=name,
            dtype=weights_dtype(config),
            attention=config.attention,
            tokenizer=tokenizer,
            template=config.chat_template,
            template_args=config.template_args,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(weights_problem(name, error, config.revision)) from error


def load_adapted(
    folder: Path,
    think_format: ThinkFormat | None = None,
    *,
    cache: Path,
    origin: str,
    tokenizer: Path | None = None,
    thinks: bool = False,
    **how: Any,
) -> Backbone:
    """Load the base of an adapter, whoever made it, and merge the adapter into it.

    Args:
        folder: Folder with ``adapter_config.json``.
        think_format: Think format, as in :func:`load_folder`.
        cache: Cache folder for conversions of GGUF files.
        origin: Identity of the weights.
        tokenizer: Folder of the tokenizer; ``None`` for the adapter's own, or else its base's.
        thinks: Whether the adapter was tuned on think blocks.
        how: Other arguments of :func:`load_folder`.

    Raises:
        UserError: The base is not available, or the adapter does not fit it.
    """
    base = find_base(folder, cache)
    loaded = load_folder(
        base.source,
        think_format,
        origin=origin,
        thinks=thinks,
        revision=base.revision,
        tokenizer=tokenizer or tokenizer_place(folder),
        adapter=folder,
        **how,
    )
    # No folder holds both together, so there is none to load them from again.
    return replace(loaded, folder=None)


def load_folder(
    folder: Path | str,
    think_format: ThinkFormat | None = None,
    *,
    origin: str,
    thinks: bool,
    dtype: str = "auto",
    revision: str | None = None,
    attention: str = "auto",
    tokenizer: Path | None = None,
    template: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    quantized: Any = None,
    adapter: Path | None = None,
) -> Backbone:
    """Load a Hugging Face folder or hub id; only safetensors, never remote code.

    ``adapter`` is a PEFT folder that is merged into the model.
    """
    safe: dict[str, Any] = {"trust_remote_code": False, "revision": revision}
    how = _attention(attention)
    if quantized is not None:
        how["quantization_config"] = quantized
    reader = AutoTokenizer.from_pretrained(tokenizer or folder, **safe)
    found = auto_class(AutoConfig.from_pretrained(folder, **safe))
    model = found.from_pretrained(folder, use_safetensors=True, dtype=dtype, **safe, **how)
    if adapter is not None:
        model = merged_with(model, adapter)
    model.eval()
    own = complete(reader, template, template_args)
    _within(reader, model)
    think_format = (think_format or ThinkFormat.saved(model.config)).of_template(reader)
    return Backbone(model, reader, think_format, origin, thinks, own, _local(folder, revision))


def _local(source: Path | str, revision: str | None) -> Path | None:
    """Return the folder on this machine that weights were loaded from."""
    if Path(source).is_dir():
        return Path(source)
    found = try_to_load_from_cache(str(source), "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _pretrained(config: ModelConfig, tokenizer: Path | None, quantized: Any) -> Backbone:
    source = config.path or config.hub_id or ""
    origin = source if config.path else f"{source}@{config.revision or 'main'}"
    try:
        return load_folder(
            source,
            ThinkFormat.of(config),
            origin=origin,
            thinks=False,
            dtype=weights_dtype(config),
            revision=None if config.path else config.revision,
            attention=config.attention,
            tokenizer=tokenizer,
            template=config.chat_template,
            template_args=config.template_args,
            quantized=quantized,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(weights_problem(source, error, config.revision)) from error


def _attention(name: str) -> dict[str, Any]:
    """Return the transformers argument for ``model.attention``; empty lets it choose."""
    for problem in missing_attention(name):
        raise UserError(problem)
    return {} if name == "auto" else {"attn_implementation": name}


def _random(config: ModelConfig, tokenizer: Any, seed: int) -> Backbone:
    own = complete(tokenizer, config.chat_template, config.template_args)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    architecture = build_config(
        config,
        vocab_size=len(tokenizer),
        special={name: getattr(tokenizer, name) for name in names},
    )
    how = _attention(config.attention)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = auto_class(architecture).from_config(
                architecture,
                dtype=getattr(torch, weights_dtype(config)),
                trust_remote_code=False,
                **how,
            )
        except (ValueError, ImportError) as error:
            reason = in_one_line(error)
            raise UserError(f"model={config.name} cannot be built: {reason}") from error
    model.eval()
    think_format = ThinkFormat.of(config).of_template(tokenizer)
    return Backbone(model, tokenizer, think_format, f"random/{seed}", False, own)


def _within(tokenizer: Any, model: Any) -> None:
    """Give a tokenizer a pad token within the model's embeddings.

    It only fills a place under a mask, so any token will do.

    Raises:
        UserError: There is no end token, or it is beyond the embeddings too.
    """
    size = model.get_input_embeddings().weight.shape[0]
    if (end := end_token(tokenizer)) >= size:
        raise UserError(
            f"the end token {tokenizer.eos_token} of {tokenizer.name_or_path} is number {end}, and "
            f"the model has {size} embeddings: use the tokenizer that it was trained with"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= size:
        tokenizer.pad_token = tokenizer.eos_token


def adapter_notice(config: ModelConfig) -> str | None:
    """Return the notice that the model of a config is an adapter on a base, if it is."""
    folder = adapter_folder(config)
    base = None if folder is None else base_of(folder)
    if base is None:
        return None
    return (
        f"{config.path or config.hub_id} is an adapter of {base.name}: it is merged into that "
        "base, and training goes on from there"
    )
