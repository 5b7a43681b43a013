"""What each room may import: one road down, and wings that nobody in the core imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tbr_lightning

ROOT = Path(tbr_lightning.__file__).parent
PACKAGE = "tbr_lightning"

ROAD = [
    "credentials",
    "errors",
    "outages",
    "kinds",
    "progress_columns",
    "progress",
    "processes",
    "config",
    "data",
    "tracking",
    "locate",
    "reports",
    "preflight",
    "models",
    "evaluation",
    "reflection",
    "mitigations",
    "objectives",
    "training",
    "registry",
    "exporting",
    "serving",
    "tuning",
]
"""Rooms of the core, lowest first: each may import itself and those above it in this list."""

PLUGINS = ["microworld"]
"""Reached through ``_target_`` in a config alone."""

WINGS = ["attribution", "ablation", "demonstration"]
"""May import the core, and nobody in the core imports them."""

VERBS = ["reflect", "train", "evaluate", "promote", "serve", "export", "sweep", "demo", "doctor"]
"""Compose, call and print; nobody imports them."""

COMMAND = ["cli", "__main__", "completion", "diagnosis", "api"]
"""How people get in: the command line, its completion, what `doctor` looks at, Python calls."""


def _modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> Iterator[str]:
    """Give the modules of the package that a file imports, at the top or anywhere within."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names if item.name.startswith(PACKAGE))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for item in node.names:
                full = f"{node.module}.{item.name}"
                yield full if full in MODULES else str(node.module)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else PACKAGE


EDGES = sorted(
    (module, imported)
    for module, path in MODULES.items()
    for imported in set(_imports(path))
    if imported != module
)


def test_every_room_has_a_place() -> None:
    known = {*ROAD, *PLUGINS, *WINGS, *VERBS, *COMMAND, PACKAGE}
    assert {_room(module) for module in MODULES} == known


def test_no_arrow_points_back_up() -> None:
    height = {room: place for place, room in enumerate(ROAD)}
    wrong = [
        f"{module} imports {imported}"
        for module, imported in EDGES
        if _room(module) in height
        and _room(imported) != PACKAGE
        and height.get(_room(imported), len(ROAD)) > height[_room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_themselves_import_plugins() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, imported in EDGES
        if _room(imported) in PLUGINS and _room(module) not in (*PLUGINS, *WINGS)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_verb_is_imported_by_nobody_and_composes_only() -> None:
    wrong = [
        f"{module} imports {imported}" for module, imported in EDGES if _room(imported) in VERBS
    ]
    assert not wrong, "\n".join(wrong)
    long = {verb: len((ROOT / f"{verb}.py").read_text().splitlines()) for verb in VERBS}
    assert {verb: lines for verb, lines in long.items() if lines > 60} == {}


def test_no_circle_of_modules() -> None:
    graph: dict[str, set[str]] = {}
    for module, imported in EDGES:
        if _room(imported) != PACKAGE:
            graph.setdefault(module, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))
