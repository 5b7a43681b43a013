"""What a run will lack, reported before anything heavy is imported or any long work starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tbr_lightning.config.schema import (
    TINY_CONTEXT,
    AdapterConfig,
    ModelConfig,
    ReflectionConfig,
    TrainerConfig,
)
from tbr_lightning.config.serve import is_loopback
from tbr_lightning.errors import UserError
from tbr_lightning.locate import missing_weights, repository_problem

UNPACKABLE = ("falcon",)
"""Architectures whose attention takes no notice of where a packed row begins."""


def check(
    model: ModelConfig,
    data: Any,
    reflection: ReflectionConfig,
    trainer: TrainerConfig | None = None,
    adapter: AdapterConfig | None = None,
) -> None:
    """Raise :class:`UserError` with one sentence for each thing that is missing."""
    if missing := missing_for(model, data, reflection, trainer, adapter):
        raise UserError("\n".join(missing))


def missing_for(
    model: ModelConfig,
    data: Any,
    reflection: ReflectionConfig,
    trainer: TrainerConfig | None = None,
    adapter: AdapterConfig | None = None,
) -> list[str]:
    """Return one sentence for each thing that is missing."""
    return [
        *_combination(model, data, reflection),
        *_too_long(model),
        *_packed(model, trainer),
        *missing_attention(model.attention),
        *missing_weights(model),
        *_data(data),
        *_teacher(data, reflection),
        *_device(trainer),
        *_packages(trainer, adapter),
    ]


def _combination(model: ModelConfig, data: Any, reflection: ReflectionConfig) -> list[str]:
    made = []
    if model.name == "hub" and not (model.hub_id or model.path):
        return ["model=hub names no model: add model.hub_id=OWNER/NAME or model.path=FOLDER"]
    if reflection.teacher == "filler" and data.teacher("filler", 0) is None:
        made.append("reflection=filler is made of the micro-world's words: use data=microworld")
    if model.init == "pretrained" and not (model.hub_id or model.path or model.made_for(data.name)):
        made.append(
            f"model.init=pretrained: {model.name} has pretrained weights for data=microworld only: "
            "use model.init=random, or a model with model.path or model.hub_id"
        )
    if model.tokenizer == "bytes" and model.init != "random" and (model.hub_id or model.path):
        made.append(
            "model.tokenizer=bytes cannot feed pretrained weights, whose vocabulary is another: "
            "use model.tokenizer=own, or model.init=random, or look only, with dry_run=true"
        )
    if model.init == "random" and not model.architecture:
        made.append(f"model.init=random: model={model.name} names no architecture to build")
    return made


def _too_long(model: ModelConfig) -> list[str]:
    text = model.architecture.get("text_config", model.architecture)
    context = text.get("max_position_embeddings")
    if context is None or model.path is not None:  # a folder's own config shows it, once it is read
        return []
    if model.scale == "tiny":
        context = min(context, TINY_CONTEXT)
    if model.max_length <= context:
        return []
    return [
        f"model.max_length={model.max_length} is longer than the context of {model.name} "
        f"({context} tokens): lower it"
    ]


def _packed(model: ModelConfig, trainer: TrainerConfig | None) -> list[str]:
    if trainer is None or trainer.batching != "packed" or model.path is not None:
        return []
    known = model.architecture.get("model_type") in UNPACKABLE
    return [unpackable(model.name)] if known else []


def unpackable(name: str) -> str:
    """Return the message for a model whose attention does not keep packed rows apart."""
    return (
        f"trainer.batching=packed: {name} would attend across the packed rows: use "
        "trainer.batching=bucketed"
    )


def missing_attention(attention: str) -> list[str]:
    """Return a sentence for an implementation of attention whose package is not installed."""
    if attention != "flash_attention_2" or importlib.util.find_spec("flash_attn") is not None:
        return []
    return [
        "model.attention=flash_attention_2 needs the package flash_attn, which is not installed: "
        "install it, or use model.attention=sdpa"
    ]


def _data(data: Any) -> list[str]:
    from tbr_lightning.data.sources import FilesData, SafetyMixData, missing_safety_rows

    files = {name: getattr(data, name, None) for name in ("exclude", "labelled")}
    if isinstance(data, FilesData):
        sources = {name: getattr(data, name) for name in ("general", "harmful", "look_alike")}
        return _sources(sources, files)
    if not isinstance(data, SafetyMixData):
        return _sources({}, {"labelled": files["labelled"]})
    made = [] if data.harmful_source or not data.harmful else [missing_safety_rows()]
    used = {
        "general_source": data.general_source if data.general else None,
        "harmful_source": data.harmful_source if data.harmful else None,
        "look_alike_source": data.look_alike_source,
    }
    return made + _sources(used, files)


def _sources(named: Mapping[str, str | None], files: Mapping[str, str | None]) -> list[str]:
    """Return sentences on sources, each a file or a hub id, and on what must be files."""
    from tbr_lightning.data.files import FORMS, is_file_name

    made = []
    for name, source in {**named, **files}.items():
        if source is None:
            continue
        if name in files or is_file_name(source):
            if not Path(source).is_file():
                made.append(
                    f"data.{name}='{source}' is not a file: give the path of a {FORMS} file"
                )
            continue
        hub_id = source.partition(":")[0]
        problem = missing_dataset(hub_id)
        if problem:
            made.append(
                f"the rows of {hub_id} {problem}: go online once, or give data.{name}=FILE.json, "
                "or use data=microworld"
            )
    return made


def missing_dataset(name: str) -> str | None:
    """Return why the rows of a data set of the hub are not available, or ``None`` if they are."""
    return None if _dataset_cached(name) else repository_problem("dataset", name, None)


def _dataset_cached(name: str) -> bool:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folder = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets"))
    return (folder / name.replace("/", "___")).is_dir()


def _teacher(data: Any, reflection: ReflectionConfig) -> list[str]:
    if reflection.teacher != "external":
        return []
    endpoint = reflection.endpoint
    if endpoint.base_url is None and data.teacher("external", 0) is not None:
        return []
    made = []
    if not os.environ.get(endpoint.api_key_env) and not is_local(endpoint.base_url):
        made.append(
            f"the environment has no {endpoint.api_key_env} for reflection=external: export it, "
            "or give a local endpoint with reflection.endpoint.base_url=URL, or use "
            "reflection=internal"
        )
    if endpoint.model is None and endpoint.base_url is None:
        made.append(
            "reflection.endpoint.model is not set: name the external teacher, e.g. "
            "reflection.endpoint.model=gpt-4"
        )
    return made


def is_local(url: str | None) -> bool:
    """Return whether a URL is on this machine, where endpoints commonly ask for no key."""
    return is_loopback(urlsplit(url or "").hostname or "")


def _device(trainer: TrainerConfig | None) -> list[str]:
    if trainer is None or trainer.accelerator != "gpu" or shutil.which("nvidia-smi"):
        return []
    other = "trainer=ddp or deepspeed_zero2" if trainer.devices > 1 else "trainer=cpu"
    return [f"trainer={trainer.name}: this machine has no NVIDIA driver: use {other}"]


def _packages(trainer: TrainerConfig | None, adapter: AdapterConfig | None) -> list[str]:
    made = []
    gpu = shutil.which("nvidia-smi") is not None
    wanted = {
        "adapter=qlora": ("bitsandbytes", adapter is not None and adapter.quantize),
        "trainer.liger=true": ("liger_kernel", trainer is not None and trainer.liger),
    }
    for setting, (package, chosen) in wanted.items():
        if not chosen:
            continue
        if not gpu:
            made.append(f"{setting} needs an NVIDIA GPU, which is not here: leave it out")
        elif importlib.util.find_spec(package) is None:
            made.append(f"{setting} needs the package {package}: pip install {package}")
    return made
