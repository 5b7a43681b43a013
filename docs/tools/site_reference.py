"""Pages of the reference that are made of the schemas and of ``conf/``."""

from __future__ import annotations

import dataclasses
import html
import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from tbr_lightning.config.groups import shipped
from tbr_lightning.config.targets import schema_of
from tbr_lightning.config.verbs import VERBS

ABSTRACT = {
    "data": "tbr_lightning.data.sources.DataConfig",
    "objective": "tbr_lightning.objectives.objective.Objective",
    "mitigation": "tbr_lightning.mitigations.mitigation.Mitigation",
}
"""Groups whose schema is the class that a member's ``_target_`` names, and what those share."""

_HEAD = "<!-- made by docs/tools/site_reference.py: change the source, not this page -->\n\n"


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a schema.

    Attributes:
        name: As it is typed, without what stands before its last dot.
        annotation: Its type as it is written.
        default: As YAML would have it; ``None`` where it must be given or a file in conf/ gives it.
        sentence: What it means; empty where the source does not say.
        schema: The dataclass below it, if it is one.
    """

    name: str
    annotation: str
    default: str | None
    sentence: str
    schema: type[Any] | None


def keys(schema: type[Any]) -> list[Key]:
    """Return the keys of a dataclass in their order, inherited ones first."""
    hints = typing.get_type_hints(schema)
    found = []
    for field in dataclasses.fields(schema):
        below = _schema_in(hints[field.name])
        sentence = _comment(schema, field.name) or (_summary(below) if below else "")
        if field.name == "_target_":
            sentence = sentence or "The class or function that this file is read by."
        annotation = field.type if isinstance(field.type, str) else str(field.type)
        found.append(
            Key(field.name, annotation, _default(field, below), _sentence(sentence), below)
        )
    return found


def schemas() -> dict[str, type[Any]]:
    """Return every schema by the heading under which the reference shows it."""
    names: dict[type[Any], list[str]] = {}
    for schema in VERBS.values():
        for name, below in _below(schema, ""):
            names.setdefault(below, []).append(name)
    groups = {path.name for path in shipped("conf").iterdir() if path.is_dir()}
    # Several keys may have one schema: the group's name is what people look for.
    found = {next((n for n in keys if n in groups), keys[0]): s for s, keys in names.items()}
    for group in ABSTRACT:
        for member in sorted((shipped("conf") / group).glob("*.yaml")):
            target = yaml.safe_load(member.read_text("utf-8")) or {}
            own = schema_of(target.get("_target_"))
            if own is not None and own not in found.values():
                found[f"{group}={member.stem}"] = own
                for name, below in _below(own, f"{group}."):
                    if below not in found.values():
                        found[name] = below
    return found


def verbs_page() -> str:
    """Return the page of the verbs: usage and the keys of each."""
    parts = [
        f"{_HEAD}# Verbs\n\nEach verb is `tbr VERB key=value …`, the same as "
        "`python -m tbr_lightning.VERB key=value …`. A key with keys of its own is described in "
        "[Settings](settings.md), the members of a group in [Groups](groups.md). What a key is "
        "without being given stands in `conf/VERB.yaml`; `tbr VERB --cfg job` prints it.\n"
    ]
    for verb, schema in VERBS.items():
        parts.append(f"## {verb}\n\n{_table(keys(schema))}\n")
    return "\n".join(parts)


def settings_page() -> str:
    """Return the page of every schema below the verbs."""
    parts = [
        f"{_HEAD}# Settings\n\nThe schema of each part of a config: its keys, their types, "
        "what they are where no file in `conf/` says otherwise, and what they mean. An unknown "
        "key or a wrong type is reported while the config is composed.\n"
    ]
    for name, schema in schemas().items():
        parts.append(f"## {name} {{: #{anchor(name)} }}\n\n{_markdown(_summary(schema))}\n")
        parts.append(f"{_table(keys(schema))}\n")
    return "\n".join(parts)


def groups_page() -> str:
    """Return the page of the groups: each file of ``conf/``, and what its head says."""
    parts = [
        f"{_HEAD}# Groups\n\n`GROUP=MEMBER` takes a file of `conf/GROUP/`, or of a folder of your "
        "own with `--config-dir DIR`. `tbr VERB --help` lists those that a verb takes.\n"
    ]
    for folder in sorted(path for path in shipped("conf").iterdir() if path.is_dir()):
        rows = [(f"`{m.stem}`", _about(m)) for m in sorted(folder.glob("*.yaml"))]
        parts.append(f"## {folder.name}\n\n{_rows(('member', 'is'), rows)}\n")
    rows = [
        (f"`{study.stem}`", _text(str(yaml.safe_load(study.read_text("utf-8"))["about"])))
        for study in sorted(shipped("sweeps").glob("*.yaml"))
    ]
    parts.append(f"## Studies\n\nOf `sweep study=NAME`.\n\n{_rows(('study', 'is'), rows)}\n")
    return "\n".join(parts)


def anchor(name: str) -> str:
    """Return the anchor of a schema's heading on the page of settings."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _below(schema: type[Any], prefix: str) -> Iterator[tuple[str, type[Any]]]:
    for field, hint in typing.get_type_hints(schema).items():
        found = _schema_in(hint)
        if found is not None:
            yield f"{prefix}{field}", found
            yield from _below(found, f"{prefix}{field}.")


def _schema_in(hint: Any) -> type[Any] | None:
    for option in (hint, *typing.get_args(hint)):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _default(field: dataclasses.Field[Any], below: type[Any] | None) -> str | None:
    value = field.default
    if field.default_factory is not dataclasses.MISSING and below is None:
        value = field.default_factory()
    if value in (dataclasses.MISSING, MISSING) or below is not None:
        return None
    if isinstance(value, str):
        return value or '""'
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("\n...")


@cache
def _comments(schema: type[Any]) -> dict[str, str]:
    """Return the comment of each field that a class itself declares: behind it, or above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    name = None
    for line in textwrap.dedent(inspect.getsource(schema)).splitlines():
        if start := re.match(r"    (\w+): ", line):
            name = start[1]
            found[name] = " ".join(above)
        if re.match(r"    (def|@)", line):
            break
        code, hash_, comment = line.partition("  # ")
        if line.startswith("    # "):
            above.append(line.removeprefix("    # "))
        else:
            above = []
        if name and hash_ and code.strip():
            found[name] = f"{found[name]} {comment}".strip()
        if line and not line.startswith("    "):
            name = None
    return found


def _comment(schema: type[Any], name: str) -> str:
    owners = (kind for kind in schema.__mro__ if dataclasses.is_dataclass(kind))
    return next((text for kind in owners if (text := _comments(kind).get(name))), "")


def _summary(schema: type[Any]) -> str:
    return (inspect.getdoc(schema) or "").partition("\n\n")[0]


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    first = re.match(r"[a-z]+(?=[ ,;])(?! \|)", text)
    if first:
        text = text[0].upper() + text[1:]
    return text + "." if text and text[-1] not in ".!?" else text


def _table(found: Iterable[Key]) -> str:
    rows = []
    for key in found:
        name = f"`{key.name}`"
        if key.schema is not None:
            where = next(n for n, schema in schemas().items() if schema is key.schema)
            name = f"[`{key.name}`](settings.md#{anchor(where)})"
        default = "" if key.default is None else f"`{key.default.replace('|', chr(0x2223))}`"
        kind = f"`{key.annotation.replace(' | ', ' or ')}`"
        rows.append((name, kind, default, _markdown(key.sentence)))
    return _rows(("key", "type", "default", "means"), rows)


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _about(file: Path) -> str:
    """Return the comment at the head of a file, without its commands and packages."""
    lines = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not re.match(r"#\s+(python -m |@package)|# @package", line):
            lines.append(line.removeprefix("#").strip())
    return _text(" ".join(lines) or "")


def _text(text: str) -> str:
    return (
        html.escape(text, quote=False).replace("|", r"\|").replace("*", r"\*").replace("_", r"\_")
    )


def _markdown(text: str) -> str:
    """Return a docstring or comment as Markdown of a table's cell."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(p.replace("|", chr(0x2223)) if p.startswith("`") else _text(p) for p in parts)
