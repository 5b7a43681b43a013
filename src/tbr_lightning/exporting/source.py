"""The whole model behind a name, in the type in which its weights are stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbr_lightning.config.export import ExportConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.logged import LoggedModel


@dataclass(frozen=True)
class Source:
    """The model to export.

    Attributes:
        backbone: Model without an adapter, computing in ``dtype`` or in float32.
        logged: Its logged model in MLflow, or ``None`` for any other.
        dtype: Type of the weights that are written.
    """

    backbone: Backbone
    logged: LoggedModel | None
    dtype: str


def load_source(config: ExportConfig) -> Source:
    """Load what ``model=`` names; an adapter is merged into its base.

    Raises:
        UserError: There is no such model, or its weights are behind an endpoint.
    """
    from tbr_lightning.evaluation.respond import load_model

    subject = load_model(config.model_uri, config.paths)
    if not isinstance(subject.model, Backbone):
        raise UserError(
            f"model='{config.model_uri}' is behind an endpoint, and export needs the weights: give "
            "models:/NAME@alias, a run id, a folder or a hub id"
        )
    stored = _stored(config.model_uri, subject.model)
    return Source(subject.model, subject.logged, stored if config.dtype == "auto" else config.dtype)


def _stored(name: str, backbone: Backbone) -> str:
    """Return the type of the stored weights, which may not be the one computed in here."""
    from transformers import AutoConfig

    from tbr_lightning.models.gguf import gguf_config, is_gguf
    from tbr_lightning.models.precision import name_of

    found: Any = None
    if backbone.folder is not None:
        found = AutoConfig.from_pretrained(backbone.folder, trust_remote_code=False).dtype
    elif is_gguf(name):
        found = gguf_config(Path(name).expanduser()).dtype
    return name_of(found or backbone.model.dtype)
