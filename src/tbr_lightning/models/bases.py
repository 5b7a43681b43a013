"""The base of an adapter, found again where it is now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub as hub

from tbr_lightning.errors import UserError
from tbr_lightning.locate import BaseReference, base_of, folder_problems, weights_problem

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_TWICE = ["original/*", "consolidated*"]  # the same weights in another format


@dataclass(frozen=True)
class Base:
    """Location that a base model can be loaded from.

    Attributes:
        source: Local folder, or hub id.
        revision: Revision of the hub id.
    """

    source: str
    revision: str | None = None


def find_base(adapter: Path, cache: Path | None = None) -> Base:
    """Return where the base of an adapter is: at the path that it names, or else on the hub.

    Args:
        adapter: Folder of the adapter.
        cache: Cache folder for the conversion of a GGUF file; ``None`` if none can be made.

    Raises:
        UserError: The adapter or its base cannot be used, or the base is not available.
    """
    if sentences := folder_problems(f"'{adapter}'", adapter):
        raise UserError("\n".join(sentences))
    base = base_of(adapter)
    if base is None:
        raise UserError(f"'{adapter}' is not an adapter: give a folder with adapter_config.json")
    # It imports transformers: who asks the registry for its state needs no base.
    from tbr_lightning.models.gguf import folder_of, is_gguf

    source, revision = base.files
    if is_gguf(source) and cache is not None:
        return Base(str(folder_of(Path(source), cache)))
    return Base(source, revision)


def folder_of_base(path: Path, adapter: Path) -> Path:
    """Return the folder of a logged adapter's base, fetching it from the hub if it has moved.

    Args:
        path: Folder of the base when the adapter was logged.
        adapter: Folder of the adapter, which may name its hub id and revision.

    Raises:
        UserError: The base is not available.
    """
    if (path / "config.json").is_file():
        return path
    settings = base_of(adapter)
    named = [] if settings is None else [settings]
    for reference in (BaseReference(str(path)), *named):
        if reference.place is not None and reference.place.is_dir():
            return reference.place
        if reference.hub is not None:
            name, revision = reference.hub
            try:
                return Path(
                    hub.snapshot_download(
                        name, revision=revision, allow_patterns=_FILES, ignore_patterns=_TWICE
                    )
                )
            except Exception as error:  # a proxy's page, a time-out: the same as no network
                raise UserError(
                    f"the adapter's base is not at {path}: put it there; "
                    f"{weights_problem(name, error, revision)}"
                ) from error
    raise UserError(
        f"the adapter's base is not at {path}, and no hub id is known of it: put it there"
    )


def tokenizer_place(adapter: Path) -> Path | None:
    """Return an adapter's folder if it has a tokenizer; otherwise its base's is used."""
    names = ("tokenizer.json", "tokenizer.model")
    whole = any((adapter / name).is_file() for name in names)
    return adapter if whole and (adapter / "tokenizer_config.json").is_file() else None
