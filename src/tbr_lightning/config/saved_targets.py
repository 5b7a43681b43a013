"""What a saved config may import: it may come from somebody else's run folder or tracker.

A config on the command line may name whatever Python can import. One that is read back is data: a
target in it must be of the type of its group, and from this package, from a file of the user, or
from a package that requires this one. Anything else that is installed is rejected, and is not even
imported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object

from tbr_lightning.errors import UserError

_OURS = "tbr_lightning"
_BASES = {
    "data": "tbr_lightning.data.sources.DataConfig",
    "objective": "tbr_lightning.objectives.objective.Objective",
    "mitigation": "tbr_lightning.mitigations.mitigation.Mitigation",
}
"""What the targets of a group derive from. Those of all other places are functions."""

_MODULES = {
    "suite": ("tbr_lightning.evaluation.suites", "tbr_lightning.microworld.plugin"),
    "probe": ("tbr_lightning.evaluation.suites", "tbr_lightning.microworld.plugin"),
    "tasks": ("tbr_lightning.microworld.plugin",),
    "judge": ("tbr_lightning.evaluation.judges",),
    "second_judge": ("tbr_lightning.evaluation.judges",),
    "pretraining": ("tbr_lightning.microworld.plugin",),
}
"""Where the functions of this package stand that a place may name."""


def check_saved(saved: Mapping[str, Any]) -> None:
    """Refuse a saved config that names what its place cannot hold.

    Args:
        saved: Saved config of a command, with today's names of targets.

    Raises:
        UserError: It names such a target, at any depth.
    """
    for where, place, target in _targets(saved):
        if not _is_allowed(place, target):
            what = f"derives from {_BASES[place]}" if place in _BASES else "is a function for that"
            raise UserError(
                f"{where}: {target} in a saved config is not what this group holds, so it is not "
                f"used: name one that {what}, in this package, in a file of your own, or in a "
                f"package that requires {_OURS.replace('_', '-')}"
            )


def _targets(part: Any, where: str = "", place: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the location of each target, the name of its place, and the target."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            name = f"{where}.{key}" if where else str(key)
            if key == "_target_" and value is not None:
                yield name, place, str(value)
            elif key == "tasks" and isinstance(value, Mapping):
                # By their names, what they are made by; a group of lm-eval's own holds settings.
                for task, target in value.items():
                    if isinstance(target, str) and "." in target:
                        yield f"{name}.{task}", "tasks", target
            yield from _targets(value, name, str(key))
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from _targets(value, f"{where}[{number}]", place)


def _is_allowed(place: str, target: str) -> bool:
    module, _, name = target.rpartition(".")
    top = target.partition(".")[0]
    if top == _OURS:
        if place not in _BASES and not module.startswith(_MODULES.get(place, ())):
            return False
    elif top in {*sys.stdlib_module_names, ""} or not _is_for_us(top):
        return False
    try:
        found: Any = get_object(target)
        base = get_object(_BASES[place]) if place in _BASES else None
    except (HydraException, ValueError, ImportError, AttributeError):
        return True  # what cannot be imported is reported, by name, where it is looked for
    if base is not None:
        return isinstance(found, type) and issubclass(found, base)
    return callable(found) and getattr(found, "__module__", None) == module and bool(name)


def _is_for_us(top: str) -> bool:
    """Return whether a module is a user's own file, or from a package made for this one."""
    names = _distributions().get(top, ())
    return not names or any(_requires_us(name) for name in names)


@lru_cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _requires_us(distribution: str) -> bool:
    try:
        needed = requires(distribution) or []
    except PackageNotFoundError:
        return False
    return any(re.match(r"tbr[-_.]lightning\b", line, re.IGNORECASE) for line in needed)
