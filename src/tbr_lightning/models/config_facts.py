"""What a config determines about its model before any weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from huggingface_hub import hf_hub_download
from hydra.utils import get_method
from transformers import AutoConfig, PretrainedConfig

from tbr_lightning.config.groups import shipped
from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.errors import UserError
from tbr_lightning.locate import (
    BaseReference,
    adapter_on_hub,
    base_of,
    located,
    missing_weights,
    out_of_reach,
)
from tbr_lightning.models.architecture import build_config
from tbr_lightning.models.gguf import gguf_config, is_gguf


def weights_dtype(config: ModelConfig) -> str:
    """Return the type of the weights: the configured one, or for ``auto`` that of the files.

    Weights that are stored in float16 are taken as bfloat16, which training does not overflow.
    """
    if config.dtype != "auto":
        return config.dtype
    found = published_config(config)
    text = None if found is None else found.get_text_config(decoder=True)
    stored = getattr(found, "dtype", None) or getattr(text, "dtype", None)
    return "float32" if stored in (None, torch.float32) else "bfloat16"


def planned_config(
    config: ModelConfig, *, data: str, vocab_size: int | None = None
) -> PretrainedConfig:
    """Return the transformers config of what :func:`load_backbone` would load; load no weights.

    Args:
        config: Config of the model.
        data: Name of the data.
        vocab_size: Vocabulary size of the tokenizer in use; ``None`` for the published one.
    """
    if config.made_for(data) and config.init != "random":
        return source_of(config).config()
    return published_config(config) or build_config(config, vocab_size=vocab_size)


def published_config(config: ModelConfig) -> PretrainedConfig | None:
    """Return the config stored with the weights: in the folder, the cache, or on the hub.

    The hub is asked only for a model whose architecture is not that of its config group.

    Returns:
        ``None`` where it cannot be read, or where the weights are random.
    """
    source = config.path or config.hub_id
    if config.init == "random" or source is None:
        return None
    try:
        if config.path is not None:
            return _config_in(located(config.path))
        if (adapter := adapter_folder(config)) is not None:
            return _config_in(adapter)
        if not is_own(config):
            if missing_weights(config):
                return None
            hf_hub_download(
                source,
                "config.json",
                revision=config.revision,
                etag_timeout=10,
                local_files_only=out_of_reach(source, config.revision),
            )
        return _read(source, config.revision)
    except (OSError, ValueError, KeyError, UserError):
        return None


def adapter_folder(config: ModelConfig) -> Path | None:
    """Return the folder of the adapter that a config names; ``None`` for a whole model.

    Raises:
        UserError: It is an adapter, and cannot be read or fetched.
    """
    if config.init == "random":
        return None
    if config.path is not None:
        place = located(config.path)
        return place if base_of(place) is not None else None
    if config.hub_id is None or is_own(config):
        return None
    return adapter_on_hub(config.hub_id, config.revision)


def _config_in(place: Path) -> PretrainedConfig:
    """Return the config in a folder or GGUF file, or of the base of the adapter in it."""
    if is_gguf(place):
        return gguf_config(place)
    base = base_of(place)
    return _read(str(place), None) if base is None else _config_of_base(base)


def _config_of_base(base: BaseReference) -> PretrainedConfig:
    if base.place is not None:
        return _config_in(base.place)
    if base.hub is None:
        raise OSError(base.name)
    name, revision = base.hub
    offline = out_of_reach(name, revision)
    hf_hub_download(
        name, "config.json", revision=revision, etag_timeout=10, local_files_only=offline
    )
    return _read(name, revision)


def _read(source: str, revision: str | None) -> PretrainedConfig:
    found = AutoConfig.from_pretrained(
        source, revision=revision, local_files_only=True, trust_remote_code=False
    )
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
