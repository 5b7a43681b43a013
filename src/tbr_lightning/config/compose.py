"""Composition of ``conf/`` and the command line into one typed config."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tbr_lightning.config.endpoint import NAMES, nested_override
from tbr_lightning.config.error_messages import explain
from tbr_lightning.config.groups import group_names, options, shipped
from tbr_lightning.config.hydra_loading import composed, override, searching
from tbr_lightning.config.quoting import as_text, as_typed, expand_home
from tbr_lightning.config.verbs import VERBS, TrainConfig
from tbr_lightning.errors import UserError, near

_PLACES = ("MLFLOW_TRACKING_URI", "TBR_HOME", "TBR_CACHE", "TBR_LEDGER")
"""Environment variables that ``conf/`` reads."""


@dataclass(frozen=True)
class Composed:
    """A composed config: ``node`` as OmegaConf holds it, ``config`` as the command's dataclass."""

    node: DictConfig
    config: Any
    choices: dict[str, str | None] = field(default_factory=dict)


def compose_verb(
    verb: str, overrides: Sequence[str] = (), config_dir: str | None = None, *, check: bool = True
) -> Composed:
    """Compose ``conf/VERB.yaml`` with ``overrides``.

    Args:
        verb: Command, a key of :data:`tbr_lightning.config.verbs.VERBS`.
        overrides: Overrides in Hydra's grammar, e.g. ``model=mistral`` or ``optimizer.lr=1e-5``.
        config_dir: A user's own folder of configs, searched before the shipped one.
        check: Convert to the dataclass, and so require every mandatory value. Without it (for
            ``--help`` and ``--cfg``) a value that is still missing is shown as ``???``.

    Raises:
        UserError: Unknown key or group member, wrong type, or a combination that cannot work.
    """
    for name in [name for name in _PLACES if os.environ.get(name) == ""]:
        del os.environ[name]  # an empty variable says nothing, as in a shell's ${NAME:-…}
    overrides = [_quoted_id(item) for item in _as_values(verb, overrides)]
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir} is not a folder: give one that exists")
    try:
        with searching(verb, shipped("conf"), config_dir):
            _refuse_unknown_presets(overrides, config_dir)
            full, choices, overrides = _composed(verb, overrides, config_dir)
            expand_home(full)
            config = OmegaConf.to_object(full) if check else None
            if config is not None:
                _refuse_added_keys(config, verb)
                if isinstance(config, TrainConfig):
                    config.given = list(overrides)
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException) as error:

        def keys(rest: Sequence[str]) -> list[str]:
            return keys_of(compose_verb(verb, rest, config_dir, check=False).node)

        raise UserError(explain(error, verb, overrides, config_dir, keys)) from error
    return Composed(full, config, choices)


def _composed(
    verb: str, overrides: Sequence[str], config_dir: str | None
) -> tuple[DictConfig, dict[str, str | None], list[str]]:
    """Compose the groups, and write the other overrides into what they give.

    Returns:
        The config, the chosen members, and the overrides with the values of texts as they were
        typed.
    """
    known = group_names(config_dir)
    groups = [item for item in overrides if _chooses(item, known)]
    for item in groups:
        _refuse_no_member(item, config_dir)
    members = [_member(item) for item in groups]
    node, choices = composed(verb, members, shipped("conf"), config_dir)
    typed = [_member(item) if item in groups else as_typed(item, node) for item in overrides]
    rest = [word for word, item in zip(typed, overrides, strict=True) if item not in groups]
    override(node, [_opened(word) for word in rest])
    return node, choices, typed


def _chooses(override: str, known: Sequence[str]) -> bool:
    """Return whether an override chooses a member of a group, rather than a value."""
    key, _, value = override.partition("=")
    key = key.partition("@")[0].lstrip("+~")
    return (key in known or "/" in key) and not value.startswith("{")


def _refuse_unknown_presets(overrides: Sequence[str], config_dir: str | None) -> None:
    """Refuse a member that an optional group lacks: Hydra would leave it out silently."""
    for item in overrides:
        group, _, member = item.partition("=")
        known = options(group, config_dir) if group in ("experiment", "debug") else []
        if known and member.strip("'\"") not in known:
            raise UserError(f"{group}={member} does not exist{near(member, known)}")


def _refuse_no_member(override: str, config_dir: str | None) -> None:
    """Refuse ``GROUP=null``, of which Hydra says nothing readable."""
    key, _, value = override.partition("=")
    group = key.partition("@")[0].lstrip("+~")
    if value.lower() == "null":
        known = ", ".join(options(group, config_dir))
        raise UserError(
            f"{override} names no member of {group}: give one of {known}, or leave it out"
        )


def _member(override: str) -> str:
    """Quote the member of a group whose name Hydra would read as a number or a truth value."""
    return re.sub(r"=([\d.][\w.+-]*|true|false)$", r"='\1'", override)


def _opened(override: str) -> str:
    """Let an override with a mapping add keys to an empty one.

    Hydra refuses that where the mapping is in a typed group; keys that a type does not have are
    refused all the same.
    """
    return f"++{override}" if re.match(r"[\w.]+=\{", override) else override


def _as_values(verb: str, overrides: Sequence[str]) -> list[str]:
    """Write ``model=`` as ``model_uri=`` for the commands that take a finished model.

    And ``base_url=`` as ``endpoint.base_url=`` for those that ask an endpoint.

    To Hydra every ``model=`` chooses a member of the group ``conf/model/``; these commands have no
    such group, and their users think of a model too.
    """
    known = {item.name for item in fields(VERBS[verb])}
    overrides = [nested_override(item) for item in overrides]
    if "gate" in known:  # its name in earlier versions
        old, new = r"^gate\.require_merit=", "gate.require_superiority="
        overrides = [re.sub(old, new, item) for item in overrides]
    if "model_uri" in known:
        overrides = [re.sub(r"^model=", "model_uri=", item) for item in overrides]
    if "endpoint" in known:
        short = "|".join(sorted(NAMES - known - {"model"}))
        overrides = [re.sub(rf"^({short})=", r"endpoint.\1=", item) for item in overrides]
    return list(overrides)


def _quoted_id(override: str) -> str:
    """Quote what Hydra's grammar may take for something else.

    That is a run's id, which may look like the beginning of a number, alone or in a list; and in a
    list of models a name with ``=`` or other signs of the grammar.
    """
    if match := re.fullmatch(r"model_uri=\[([^\[\]'\"]*)\]", override):
        names = [as_text(name.strip()) for name in match[1].split(",") if name.strip()]
        return f"model_uri=[{','.join(names)}]"
    if match := re.fullmatch(r"model_uri=([^\['\"].*)", override):
        return override if match[1] in ("null", "???") else f"model_uri={as_text(match[1])}"
    return re.sub(r"=([0-9a-f]{32})$", r"='\1'", override)


def _refuse_added_keys(config: Any, verb: str, prefix: str = "") -> None:
    """Refuse what ``+key=value`` added beside the fields of the schema: nothing would read it."""
    known = {item.name for item in fields(config)}
    for name, value in vars(config).items():
        if name not in known and name != "_target_":
            raise UserError(f"'{prefix}{name}' is not a key of {verb}{near(name, known)}")
        if is_dataclass(value):
            _refuse_added_keys(value, verb, f"{prefix}{name}.")


def keys_of(node: DictConfig, prefix: str = "") -> list[str]:
    """Return the keys of a config, dotted, each before those below it."""
    names: list[str] = []
    for key in node:
        name = f"{prefix}{key!s}"
        names.append(name)
        child = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            names += keys_of(child, f"{name}.")
    return names
