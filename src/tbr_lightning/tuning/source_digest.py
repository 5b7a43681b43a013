"""Digests of what determines a run's numbers beside its config: code, and weights of the hub."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.data.cache import content_key, file_key
from tbr_lightning.locate import ADAPTER, located
from tbr_lightning.locate import PACKAGE as WEIGHTS_PACKAGE

PACKAGE = Path(__file__).parents[1]
_ROOMS = (
    "data",
    "evaluation",
    "microworld",
    "mitigations",
    "models",
    "objectives",
    "reflection",
    "training",
)


def code_digest(config: Any) -> list[str]:
    """Return hashes of the code that decides: the package's, and that of a user's own targets."""
    own = {inspect.getfile(type(part)) for part in vars(config).values() if is_dataclass(part)}
    others = sorted(file for file in own if not Path(file).is_relative_to(PACKAGE))
    return [package_digest(), *(file_key(Path(file)) for file in others)]


@cache
def package_digest() -> str:
    """Return the hash of the code that decides, and of the libraries that it computes with."""
    files = [file for room in _ROOMS for file in (PACKAGE / room).rglob("*") if _is_source(file)]
    named = {str(file.relative_to(PACKAGE)): file_key(file) for file in files}
    return content_key(named, [version(name) for name in ("torch", "transformers", "peft")])


def _is_source(file: Path) -> bool:
    return file.suffix in (".py", ".yaml", ".txt", ".jinja") and file.is_file()


def hub_commit(model: ModelConfig) -> str | None:
    """Return the identity of a model's files beside its name, as far as they are here.

    That is the commit of a hub model's files in the cache, since a revision such as main moves, and
    the hash of a package's file.
    """
    if model.init != "random" and (model.path or "").startswith(WEIGHTS_PACKAGE):
        return file_key(located(model.path or ""))
    if model.hub_id is None or model.path is not None or model.init == "random":
        return None
    for name in ("config.json", ADAPTER):
        found = try_to_load_from_cache(model.hub_id, name, revision=model.revision)
        if isinstance(found, str):
            return Path(found).parent.name
    return None
