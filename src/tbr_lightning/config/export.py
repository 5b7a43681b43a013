"""Typed schema of ``conf/export.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from omegaconf import MISSING

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError, one_of

FORMS = ("folder", "gguf", "hub")


@dataclass
class ExportConfig:
    """``python -m tbr_lightning.export``."""

    model_uri: str = MISSING  # models:/…, a run id, a folder or a hub id
    to: str = "folder"  # folder | gguf | hub
    folder: str | None = None  # target folder, new or empty; null: exports/NAME-TO
    dtype: str = "auto"  # float32 | float16 | bfloat16 | auto (the weights' own)
    repo: str | None = None  # repository OWNER/NAME of to=hub
    private: bool = True  # a new repository of to=hub is private
    licence: str | None = None  # for the model card; null: what the training run's config says
    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING

    def __post_init__(self) -> None:
        one_of("to", self.to, FORMS)
        one_of("dtype", self.dtype, ("auto", "float32", "float16", "bfloat16"))
        if self.to == "hub" and self.repo is None:
            raise UserError("to=hub needs the repository: give repo=OWNER/NAME")
        if self.repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise UserError(f"repo='{self.repo}' is not a repository's name: write OWNER/NAME")
        if self.repo is not None and self.to != "hub":
            raise UserError(f"to={self.to} uploads nothing: leave repo out, or give to=hub")
