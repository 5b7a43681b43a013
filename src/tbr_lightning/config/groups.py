"""The config groups: the folders under ``conf/``, and a file in them for each member."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> Path:
    """Return the path of ``conf`` or ``sweeps``: inside a wheel, or at the root of a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parents[1] / folder


def group_names() -> list[str]:
    """Return the names of all config groups that come with the package."""
    return [path.name for path in shipped("conf").iterdir() if path.is_dir()]


def options(group: str, config_dir: str | None = None) -> list[str]:
    """Return the members of a config group, e.g. ``options("reflection")``."""
    roots = [shipped("conf")] + ([Path(config_dir)] if config_dir else [])
    return sorted({path.stem for root in roots for path in (root / group).glob("*.yaml")})
