"""What Hydra and OmegaConf refuse, told in one sentence that names the key and the fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tbr_lightning.config.groups import group_names, options
from tbr_lightning.errors import UserError, first_line, near


def explain(
    error: Exception,
    verb: str,
    overrides: Sequence[str],
    config_dir: str | None,
    keys: Callable[[Sequence[str]], list[str]],
) -> str:
    """Return Hydra's or OmegaConf's error in one sentence, with the near match.

    Args:
        error: Error that the composition raised.
        verb: Verb that was composed.
        overrides: Overrides of the command line.
        config_dir: Folder of more configs, if one was given.
        keys: Returns the keys of the config that other overrides lead to.
    """
    text = str(error)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, UserError):
        return str(cause)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        if "No match in the defaults list" in text:
            others = [group for group in group_names(config_dir) if group != key]
            return f"'{key}' is not a config group of {verb}{near(key, others)}"
        return _unknown_key(key, verb, overrides, keys)
    if match := re.search(r"Could not find '([^']+)'\s*\n\s*\n?Available options", text):
        group, _, member = match[1].rpartition("/")
        group = group or "config"
        return f"{group}={member} does not exist{near(member, options(group, config_dir))}"
    if match := re.search(r"Key '([^']+)' (?:is )?not in", text):
        full_key = getattr(error, "full_key", None) or match[1]
        return _unknown_key(str(full_key), verb, overrides, keys)
    if match := re.search(r"(?i)missing mandatory value:\s*(\S+)", text):
        key = getattr(error, "full_key", None) or match[1]
        key = key.replace("model_uri", "model")
        return f"{key} is not set: give {key}=VALUE"
    if begun := [item for item in overrides if re.search(r"\$\{[^}]*$", item)]:
        key, _, value = begun[0].partition("=")
        return (
            f"{key}={value} begins a reference with ${{ that has no end: end it with }}, or write "
            "\\${ where the two characters are meant"
        )
    if re.search(
        r"LexerNoViable|no viable alternative|mismatched input|extraneous|token rec", text
    ):
        return (
            f"the override {_culprit(overrides)} cannot be read: write key=value, and quote a "
            "value that itself holds = or blanks, once for the shell and once for the config, as "
            "in \"key='a=b'\""
        )
    key = getattr(error, "full_key", None) or (getattr(cause, "full_key", None) or "")
    first = text.strip().split("\n")[0].rstrip(".")
    first = re.sub(r"^Error merging override (\S+)$", r"\1", first)
    detail = str(cause).strip().split("\n")[0] if cause is not None and key not in first else ""
    if "Error merging override" in text and cause is not None:
        return f"{first}: {first_line(cause, None)}"
    return (
        f"{key}: {first}"
        if key and key not in first
        else first + (f": {detail}" if detail and detail not in first else "")
    )


def _culprit(overrides: Sequence[str]) -> str:
    """Return the first override that Hydra's grammar refuses."""
    for item in overrides:
        try:
            OverridesParser.create().parse_override(item)
        except HydraException:
            return item
    return "given"


def _unknown_key(
    key: str, verb: str, overrides: Sequence[str], keys: Callable[[Sequence[str]], list[str]]
) -> str:
    """Name the nearest key that the same command line has without the unknown one."""
    rest = [item for item in overrides if not item.lstrip("+~").startswith(key)]
    try:
        known = keys(rest)
    except UserError:
        known = []
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent] or known
    return f"'{key}' is not a key of {verb}{near(key, siblings)}"
