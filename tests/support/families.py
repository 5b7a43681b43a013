"""A shipped model of every architecture: what holds for one of a family is tried on one."""

from __future__ import annotations

from functools import cache

from tbr_lightning.config.groups import options, shipped
from tbr_lightning.config.yaml_reading import read_yaml


@cache
def families() -> dict[str, str]:
    """Return the name of a shipped model by the ``model_type`` that its file states."""
    found: dict[str, str] = {}
    for name in options("model"):
        if not name.startswith("tiny"):
            stated = read_yaml((shipped("conf") / "model" / f"{name}.yaml").read_text())
            if stated.architecture:
                found[stated.architecture.model_type] = name
    return found
