"""A causal language model with its tokenizer, from wherever the config says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import yaml
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from hydra.utils import get_method
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from transformers.utils.logging import disable_progress_bar

from tbr_lightning.config.compose import shipped
from tbr_lightning.config.schema import AdapterConfig, ModelConfig
from tbr_lightning.data.example import Example
from tbr_lightning.data.think_format import (
    FALLBACK_TEMPLATE,
    ThinkFormat,
    begin_token,
    end_token,
    prompt_ids,
)
from tbr_lightning.errors import UserError
from tbr_lightning.models.adapters import quantization
from tbr_lightning.models.architecture import build_config
from tbr_lightning.models.decoding import Guidance
from tbr_lightning.models.gguf import folder_of, gguf_config, gguf_tokenizer, is_gguf
from tbr_lightning.models.tokenizers import byte_tokenizer, trained_tokenizer
from tbr_lightning.preflight import (
    base_of,
    located,
    missing_attention,
    missing_weights,
    weights_problem,
)

disable_progress_bar()  # of every load and save: ours has its own


@dataclass(frozen=True)
class Backbone:
    """A model ready to be tuned or asked.

    Attributes:
        model: A causal language model of transformers, maybe with a PEFT adapter.
        tokenizer: Its tokenizer, with a chat template.
        think_format: The markers of its think block.
        origin: What the weights are: hub id and revision, folder, base hash or random seed.
        thinks: The weights know think blocks already (the micro-world's base, or a tuned model).
        has_own_template: The chat template came with the tokenizer.
        folder: Where the same weights can be loaded from again; ``None`` if they were made here.
        guide: What takes part in decoding, beside the weights.
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
    """What changes how a model decodes, for as long as its context is open."""

    @property
    def name(self) -> str:
        """What it is called by."""

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
        config: Of the model.
        data: Name of the data, which decides what ``init=auto`` means.
        rows: Training rows, for a tokenizer that is trained on them.
        cache: Folder of base models made here.
        seed: Of random weights.
        tokenizer: Folder of the tokenizer, if the rows were tokenised before.
        dtype: Of the weights; ``None`` for the model's own.
        adapter: That will be put on it, which may want the base quantised.

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
        return _random(config, ready or _tokenizer(config, rows, world=world), seed)
    if config.path is not None:
        place = located(config.path)
        if is_gguf(place):
            made = replace(config, path=str(folder_of(place, cache)))
            loaded = _pretrained(made, tokenizer, _quantization(adapter))
            # As above. The file, not the folder made of it, is what the weights are.
            return replace(loaded, folder=None, origin=config.path)
        config = replace(config, path=str(place))
    return _pretrained(config, tokenizer, _quantization(adapter))


def _quantization(adapter: AdapterConfig | None) -> Any:
    return None if adapter is None else quantization(adapter)


def weights_dtype(config: ModelConfig) -> str:
    """Return the type of the weights: the configured one, or for ``auto`` that of the files.

    Weights that are stored in float16 are taken as bfloat16, which training does not overflow.
    """
    if config.dtype != "auto":
        return config.dtype
    found = published_config(config)
    stored = None if found is None else getattr(found, "dtype", None)
    return "float32" if stored in (None, torch.float32) else "bfloat16"


def planned_config(
    config: ModelConfig, *, data: str, vocab_size: int | None = None
) -> PretrainedConfig:
    """Return the transformers config of what :func:`load_backbone` would give; load no weights.

    Args:
        config: Of the model.
        data: Name of the data.
        vocab_size: Of the tokenizer in use; ``None`` for the published one.
    """
    if config.made_for(data) and config.init != "random":
        return source_of(config).config()
    return published_config(config) or build_config(config, vocab_size=vocab_size)


def published_config(config: ModelConfig) -> PretrainedConfig | None:
    """Return the config that stands with the weights: in the folder, the cache, or on the hub.

    The hub is asked only for a model whose architecture is not that of its config group.

    Returns:
        ``None`` where it cannot be read, or where the weights are random.
    """
    source = config.path or config.hub_id
    if config.init == "random" or source is None:
        return None
    try:
        if config.path is not None:
            source = str(place := located(config.path))
            if is_gguf(place):
                return gguf_config(place)
        elif not is_own(config):
            if missing_weights(config):
                return None
            hf_hub_download(source, "config.json", revision=config.revision, etag_timeout=10)
        found = AutoConfig.from_pretrained(
            source,
            revision=None if config.path else config.revision,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, UserError):
        return None
    return cast("PretrainedConfig", found)


def is_own(config: ModelConfig) -> bool:
    """Return whether the weights are those that the config group of the model's name describes."""
    file = shipped("conf") / "model" / f"{config.name}.yaml"
    if not file.is_file():
        return False
    stated = yaml.safe_load(file.read_text("utf-8"))
    return (stated.get("hub_id"), stated.get("path")) == (config.hub_id, config.path)


@dataclass(frozen=True)
class Source:
    """A base model that is made here rather than downloaded.

    Attributes:
        folder: Returns the Hugging Face folder of the weights, made once in the given cache.
        tokenizer: Returns the tokenizer.
        config: Returns the transformers config; makes no weights.
    """

    folder: Callable[[Path], Path]
    tokenizer: Callable[[], Any]
    config: Callable[[], PretrainedConfig]


def source_of(config: ModelConfig) -> Source:
    """Return the base model that ``model.pretraining`` describes, by its ``_target_``."""
    settings = {k: v for k, v in config.pretraining.items() if k not in ("_target_", "data")}
    found: Source = get_method(config.pretraining["_target_"])(settings)
    return found


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
    quantized: Any = None,
) -> Backbone:
    """Load a Hugging Face folder or hub id; only safetensors, never remote code."""
    safe: dict[str, Any] = {"trust_remote_code": False, "revision": revision}
    how = _attention(attention)
    if quantized is not None:
        how["quantization_config"] = quantized
    # The tokenizer of an adapter that came without one is its base's.
    base = base_of(Path(folder)) if not (Path(folder) / "tokenizer_config.json").is_file() else None
    reader = AutoTokenizer.from_pretrained(tokenizer or base or folder, **safe)
    model = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, dtype=dtype, **safe, **how
    )
    model.eval()
    own = _complete(reader, template)
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
            quantized=quantized,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(weights_problem(source, error, config.revision)) from error


def _attention(name: str) -> dict[str, Any]:
    """Return the argument of transformers for ``model.attention``; none lets it choose."""
    for problem in missing_attention(name):
        raise UserError(problem)
    return {} if name == "auto" else {"attn_implementation": name}


def _random(config: ModelConfig, tokenizer: Any, seed: int) -> Backbone:
    own = _complete(tokenizer, config.chat_template)
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
            model = AutoModelForCausalLM.from_config(
                architecture,
                dtype=getattr(torch, weights_dtype(config)),
                trust_remote_code=False,
                **how,
            )
        except (ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"model={config.name} cannot be built: {reason}") from error
    model.eval()
    think_format = ThinkFormat.of(config).of_template(tokenizer)
    return Backbone(model, tokenizer, think_format, f"random/{seed}", False, own)


def load_tokenizer(config: ModelConfig, *, data: str, rows: Iterable[Example]) -> tuple[Any, bool]:
    """Return a model's tokenizer, and whether the chat template is its own; load no weights."""
    world = config.made_for(data)
    tokenizer = _tokenizer(config, rows, world=world)
    return tokenizer, _complete(tokenizer, config.chat_template)


def _tokenizer(config: ModelConfig, rows: Iterable[Example], *, world: bool) -> Any:
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
    source = config.path or config.hub_id
    if source is None:
        raise UserError(
            f"model.tokenizer=own: {config.name} has none for this data: use bytes or train"
        )
    if config.path is not None:
        source = str(place := located(config.path))
        if is_gguf(place):
            return gguf_tokenizer(place)
    try:
        return AutoTokenizer.from_pretrained(
            source, revision=None if config.path else config.revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokenizer of {source} cannot be loaded: go online once, or use "
            "model.tokenizer=bytes"
        ) from error


def _complete(tokenizer: Any, template: str | None = None) -> bool:
    """Give a tokenizer what it lacks: a pad token, a chat template (or the configured one).

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
        return True
    if tokenizer.chat_template:
        return True
    # Servers render the template by themselves, so the begin token has to be in it.
    start = "{{ bos_token }}" if begin_token(tokenizer) is not None else ""
    tokenizer.chat_template = start + FALLBACK_TEMPLATE
    return False


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


def template_notice(config: ModelConfig, *, has_own_template: bool) -> str | None:
    """Return what to say where the fallback chat template is used."""
    if has_own_template:
        return None
    return (
        f"the tokenizer of {config.name} has no chat template: '### User:' and '### Assistant:' "
        "before each turn are used; model.chat_template=FILE gives another"
    )
