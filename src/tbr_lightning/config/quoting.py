"""Values on the command line for settings of type text: they keep the characters that were typed.

Hydra's grammar reads ``2024_05_01`` as a number, and takes ``=``, blanks and letters beyond ASCII
for mistakes. The type of the setting shows which was meant.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf, StringNode
from omegaconf.base import Container, Node
from omegaconf.errors import OmegaConfBaseException

from tbr_lightning.credentials import hidden

_KEY = re.compile(r"(\+{0,2}[\w.@/-]+)=(.*)", re.DOTALL)
_LIST = re.compile(r"\[(.*)\]", re.DOTALL)
_DICT = re.compile(r"\{(.*)\}", re.DOTALL)
_HOME = re.compile(r"(sqlite:///)?(~/.*)", re.DOTALL)
_ITEM = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|.", re.DOTALL)
_QUOTED = re.compile(r"\s*(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\s*", re.DOTALL)

TEXTS = "texts"
"""Metadata of a field of any type whose values are texts, alone or in a list."""


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
    if value != "null" and _names_modules(node, key.lstrip("+")):
        inside = _LIST.fullmatch(value.strip())
        return f"{key}=[{_each(inside[1], as_text)}]" if inside else f"{key}={as_text(value)}"
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


def _names_modules(node: DictConfig, key: str) -> bool:
    """Return whether a key is a text or a list of texts, which no type of OmegaConf can say."""
    parent, _, name = key.rpartition(".")
    try:
        there = OmegaConf.select(node, parent) if parent else node
    except OmegaConfBaseException:
        return False
    schema = there._metadata.object_type if isinstance(there, DictConfig) else None
    if not is_dataclass(schema):
        return False
    return any(one.name == name and one.metadata.get(TEXTS) for one in fields(schema))


def is_text(schema: type, key: str) -> bool:
    """Return whether a dotted key of a schema is a setting of type text.

    Args:
        schema: Dataclass of a command.
        key: Key as overrides have it.
    """
    for name in key.lstrip("+").split("."):
        if not is_dataclass(schema) or name not in (hints := get_type_hints(schema)):
            return False
        schema = hints[name]
    return schema is str or set(get_args(schema)) == {str, type(None)}


def expand_home(node: DictConfig | ListConfig) -> None:
    """Write the home folder for ``~/`` in the texts of a config: paths of files and of SQLite.

    A shell expands it at the beginning of a word alone, and what config files and
    environment variables hold never passes through one.
    """
    keys: Iterator[Any] | range
    keys = iter(list(node)) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        child = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            if not (child._is_none() or child._is_missing() or child._is_interpolation()):
                expand_home(child)
            continue
        with suppress(OmegaConfBaseException, RuntimeError):
            value = node[key]
            found = _HOME.fullmatch(value) if isinstance(value, str) else None
            if found is not None:
                node[key] = f"{found[1] or ''}{Path(found[2]).expanduser()}"


def _takes_any_key(node: DictConfig, key: str) -> bool:
    """Return whether a key is in a mapping of settings that only another program knows."""
    parent = key.rpartition(".")[0]
    try:
        there = OmegaConf.select(node, parent) if parent else None
    except OmegaConfBaseException:
        return False
    return isinstance(there, DictConfig) and there._metadata.object_type is dict


def _each(items: str, write: Callable[[str], str]) -> str:
    return ",".join(write(item.strip()) for item in _items(items) if item.strip())


def _items(text: str) -> Iterator[str]:
    """Split at the commas that are in no quotes and no brackets."""
    item, depth = "", 0
    for part in _ITEM.findall(text):
        depth += (part in "[{(") - (part in "]})")
        if part == "," and depth <= 0:
            yield item
            item = ""
        else:
            item += part
    yield item


def _pair(item: str) -> str:
    key, colon, value = item.partition(":")
    return f"{key.strip()}{colon}{as_text(value.strip())}" if colon else item


def store_words(given: Sequence[str]) -> str:
    """Return the overrides that say where runs are kept, for a command line that is shown.

    Args:
        given: Overrides as a config keeps them.

    Returns:
        The overrides as a shell takes them, each after a blank; without one that holds a password.
    """
    words = [item for item in given if re.match(r"\+*(?:tracking|paths)[.=@]", item)]
    plain = [re.sub(r"='([^'\\]*)'$", r"=\1", item) for item in words if hidden(item) == item]
    return "".join(f" {shlex.quote(item)}" for item in plain)


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
