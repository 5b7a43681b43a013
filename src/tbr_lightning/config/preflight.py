"""What a run will miss, told before anything heavy is imported or any long work starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tbr_lightning.config.schema import (
    FilesData,
    MicroworldData,
    ModelConfig,
    ReflectionConfig,
    SafetyMixData,
    TrainerConfig,
)
from tbr_lightning.errors import UserError

_HUB_TIMEOUT = 5.0  # seconds


def check(
    model: ModelConfig, data: Any, reflection: ReflectionConfig, trainer: TrainerConfig | None
) -> None:
    """Raise :class:`UserError` with one sentence for each thing that is missing."""
    missing = [
        *_combination(model, data, reflection),
        *missing_weights(model),
        *_data(data),
        *_teacher(data, reflection),
        *_device(trainer),
    ]
    if missing:
        raise UserError("\n".join(missing))


def _combination(model: ModelConfig, data: Any, reflection: ReflectionConfig) -> list[str]:
    made = []
    microworld = isinstance(data, MicroworldData)
    if reflection.teacher == "filler" and not microworld:
        made.append("reflection=filler is made of the micro-world's words: use data=microworld")
    if model.init == "pretrained" and not (model.hub_id or model.path) and not microworld:
        made.append(
            f"model.init=pretrained: {model.name} has pretrained weights for data=microworld only: "
            "use model.init=random, or a model with model.path or model.hub_id"
        )
    if model.init == "random" and not model.architecture:
        made.append(f"model.init=random: model={model.name} names no architecture to build")
    return made


def missing_weights(model: ModelConfig) -> list[str]:
    """Return a sentence for pretrained weights that cannot be had, or nothing."""
    if model.init == "random":
        return []
    if model.path is not None:
        if (Path(model.path) / "config.json").is_file():
            return []
        return [f"model.path='{model.path}' has no config.json: give a Hugging Face model folder"]
    if model.hub_id is None:
        return []
    import huggingface_hub as hub

    cached = hub.try_to_load_from_cache(model.hub_id, "config.json", revision=model.revision)
    if isinstance(cached, str):
        return []
    fix = "log in and go online once, or give model.path=FOLDER, or use model=tiny"
    problem = _hub_problem("model", model.hub_id, model.revision)
    return [f"the weights of {model.hub_id} {problem}: {fix}"] if problem else []


def _hub_problem(kind: str, name: str, revision: str | None) -> str | None:
    """Return why the hub does not give something, or ``None`` if it does."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    api = hub.HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        ask(name, revision=revision, timeout=_HUB_TIMEOUT)
    except errors.GatedRepoError:
        return "are gated and your account has no access"
    except errors.RepositoryNotFoundError:
        return "do not exist on the hub"
    except errors.RevisionNotFoundError:
        return f"have no revision {revision}"
    except Exception:  # no network, a proxy's page, a time-out: to a person one and the same
        return "are not on this machine and the hub cannot be reached"
    return None


def _data(data: Any) -> list[str]:
    if isinstance(data, FilesData):
        sources = {name: getattr(data, name) for name in ("general", "harmful", "look_alike")}
        return _sources(sources, data.exclude)
    if not isinstance(data, SafetyMixData):
        return []
    from tbr_lightning.data.sources import missing_safety_rows

    made = [] if data.harmful_source or not data.harmful else [missing_safety_rows()]
    used = {
        "general_source": data.general_source if data.general else None,
        "harmful_source": data.harmful_source if data.harmful else None,
        "look_alike_source": data.look_alike_source,
    }
    return made + _sources(used, data.exclude)


def _sources(named: Mapping[str, str | None], exclude: str | None) -> list[str]:
    from tbr_lightning.data.files import FORMS, is_file_name

    made = []
    for name, source in {**named, "exclude": exclude}.items():
        if source is None:
            continue
        if name == "exclude" or is_file_name(source):
            if not Path(source).is_file():
                made.append(
                    f"data.{name}='{source}' is not a file: give the path of a {FORMS} file"
                )
            continue
        hub_id = source.partition(":")[0]
        problem = None if _dataset_cached(hub_id) else _hub_problem("dataset", hub_id, None)
        if problem:
            made.append(
                f"the rows of {hub_id} {problem}: go online once, or give data.{name}=FILE.json, "
                "or use data=microworld"
            )
    return made


def _dataset_cached(name: str) -> bool:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folder = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets"))
    return (folder / name.replace("/", "___")).is_dir()


def _teacher(data: Any, reflection: ReflectionConfig) -> list[str]:
    if reflection.teacher != "external":
        return []
    if isinstance(data, MicroworldData) and reflection.base_url is None:
        return []
    made = []
    if not os.environ.get(reflection.api_key_env) and not is_loopback(reflection.base_url):
        made.append(
            f"the environment has no {reflection.api_key_env} for reflection=external: export it, "
            "or give a local endpoint with reflection.base_url=URL, or use reflection=internal"
        )
    if reflection.model is None and reflection.base_url is None:
        made.append(
            "reflection.model is not set: name the external teacher, e.g. reflection.model=gpt-4"
        )
    return made


def is_loopback(url: str | None) -> bool:
    """Return whether a URL is on this machine, where endpoints commonly ask for no key."""
    return urlsplit(url or "").hostname in ("127.0.0.1", "localhost", "::1")


def _device(trainer: TrainerConfig | None) -> list[str]:
    if trainer is None:
        return []
    made = []
    if trainer.accelerator == "gpu" and shutil.which("nvidia-smi") is None:
        made.append("trainer=gpu: this machine has no NVIDIA driver: use trainer=cpu")
    if trainer.devices > 1:
        made.append(
            f"trainer.devices={trainer.devices} is not supported yet: use trainer.devices=1"
        )
    return made
