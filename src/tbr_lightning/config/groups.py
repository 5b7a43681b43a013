"""The config groups: the folders under ``conf/``, and a file in them for each member."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> Path:
    """Return the path of ``conf`` or ``sweeps``: inside a wheel, or at the root of a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parents[1] / folder


def group_names(config_dir: str | None = None) -> list[str]:
    """Return the names of all config groups, with those of a user's own folder."""
    return sorted(
        {path.name for root in _roots(config_dir) for path in root.iterdir() if path.is_dir()}
    )


def options(group: str, config_dir: str | None = None) -> list[str]:
    """Return the members of a config group, e.g. ``options("reflection")``."""
    roots = _roots(config_dir)
    return sorted({path.stem for root in roots for path in (root / group).glob("*.yaml")})


def _roots(config_dir: str | None) -> list[Path]:
    return [shipped("conf"), *([Path(config_dir)] if config_dir else [])]
