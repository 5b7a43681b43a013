"""Values on the command line for settings of type text: they keep the characters that were typed.

Hydra's grammar reads ``2024_05_01`` as a number, and takes ``=``, blanks and letters beyond ASCII
for mistakes. The type of the setting shows which was meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf, StringNode
from omegaconf.base import Container, Node
from omegaconf.errors import OmegaConfBaseException

_KEY = re.compile(r"(\+{0,2}[\w.@/-]+)=(.*)", re.DOTALL)
_LIST = re.compile(r"\[([^\[\]{}'\"]*)\]", re.DOTALL)
_DICT = re.compile(r"\{([^\[\]{}'\"]*)\}", re.DOTALL)
_QUOTED = re.compile(r"\s*(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\s*", re.DOTALL)


def as_typed(override: str, node: DictConfig) -> str:
    """Quote the value of an override whose setting is a text, or a list or mapping of texts.

    ``~/`` at its beginning is the home folder. What is quoted already stays, and so do ``null``
    where the setting may be empty, and the overrides of other settings.

    Args:
        override: Override as it was typed, ``key=value``.
        node: The composed config without it.
    """
    found = _KEY.fullmatch(override)
    if found is None:
        return override
    key, value = found.groups()
    setting, known = _setting(node, key.lstrip("+"))
    if setting is None and key == key.lstrip("+") and _takes_any_key(node, key):
        return f"++{override}"
    if isinstance(setting, StringNode):
        if value == "null" and setting._is_optional():
            return override
        return f"{key if known else '++' + key.lstrip('+')}={as_text(value)}"
    if isinstance(setting, Container) and setting._metadata.element_type is str:
        if isinstance(setting, ListConfig) and (inside := _LIST.fullmatch(value.strip())):
            return f"{key}=[{_each(inside[1], as_text)}]"
        if isinstance(setting, DictConfig) and (inside := _DICT.fullmatch(value.strip())):
            return f"++{key.lstrip('+')}={{{_each(inside[1], _pair)}}}"
    return override


def _setting(node: DictConfig, key: str) -> tuple[Node | None, bool]:
    """Return a setting's node, and whether it is there: a mapping of texts may have more keys."""
    parent, _, name = key.rpartition(".")
    try:
        there = OmegaConf.select(node, parent) if parent else node
        if not isinstance(there, DictConfig) or there._is_none() or there._is_missing():
            return None, False
        found = there._get_node(name, validate_access=False)
    except OmegaConfBaseException:
        return None, False
    if found is None and there._metadata.element_type is str:
        return StringNode(""), False
    return (found, True) if isinstance(found, Node) else (None, False)


def _takes_any_key(node: DictConfig, key: str) -> bool:
    """Return whether a key is in a mapping of settings that only another program knows."""
    parent = key.rpartition(".")[0]
    try:
        there = OmegaConf.select(node, parent) if parent else None
    except OmegaConfBaseException:
        return False
    return isinstance(there, DictConfig) and there._metadata.object_type is dict


def _each(items: str, write: Callable[[str], str]) -> str:
    return ",".join(write(item.strip()) for item in items.split(",") if item.strip())


def _pair(item: str) -> str:
    key, colon, value = item.partition(":")
    return f"{key.strip()}{colon}{as_text(value.strip())}" if colon else item


def as_text(value: str) -> str:
    """Return a typed value quoted, if it is not, with ``~`` for the home folder."""
    if _QUOTED.fullmatch(value) or value == "???":
        return value
    if value == "~" or value.startswith("~/"):
        with suppress(RuntimeError):  # no home folder
            value = str(Path(value).expanduser())
    return quoted(value)


def quoted(value: str) -> str:
    """Return a text as Hydra's grammar reads it back."""
    # A quote within is escaped, and so are the backslashes before it and those at the end.
    inside = re.sub(r"(\\*)'", r"\1\1\\'", value)
    inside = re.sub(r"(\\+)$", r"\1\1", inside)
    return f"'{inside}'"
