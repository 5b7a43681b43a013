"""The page of every sentence that the product says about wrong input, taken from its source."""

from __future__ import annotations

import ast
import html
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOMS = {
    "config": "Settings and the command line",
    "preflight": "What a run lacks",
    "locate": "Models, adapters, endpoints",
    "exporting": "Export",
    "data": "Rows and files",
    "reflection": "Reflections and their teachers",
    "models": "Models, adapters, endpoints",
    "objectives": "Objectives",
    "training": "Training",
    "evaluation": "Suites, judges, evaluations",
    "mitigations": "Mitigations",
    "attribution": "Attribution",
    "registry": "Gate, aliases, ledger",
    "tracking": "MLflow and keys",
    "serving": "Serving",
    "tuning": "Sweeps",
    "ablation": "Groups and arenas of sweeps",
    "microworld": "The micro-world",
}
"""Which heading the sentences of a module stand under; others stand under settings."""

ERRORS = {"UserError", "UnfitError"}
_SENTENCES = {
    "preflight.py",
    "locate.py",
    "sample_size.py",
    "errors.py",
    "outages.py",
}  # they return sentences to be raised
PLACE = "…"


def messages(package: Path) -> dict[str, list[str]]:
    """Return the sentences by heading, with ``…`` for what is filled in, each once and sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted(package.rglob("*.py")):
        room = file.relative_to(package).parts[0].removesuffix(".py")
        heading = ROOMS.get(room, ROOMS["config"])
        for text in _sentences(ast.parse(file.read_text("utf-8")), file.name in _SENTENCES):
            found[heading].add(text)
    return {heading: sorted(found[heading]) for heading in ROOMS.values() if found[heading]}


def page(package: Path) -> str:
    """Return the page."""
    parts = [
        "<!-- made by docs/tools/site_messages.py: change the source, not this page -->\n\n"
        "# Messages\n\nEvery sentence about wrong input, as it stands in the source; `…` is "
        "what is filled in. The part behind the colon says what to do. Such a sentence comes with "
        "exit code 2. More is said of the frequent ones in "
        "[Troubleshooting](../troubleshooting.md).\n"
    ]
    for heading, texts in messages(package).items():
        parts.append(f"## {heading}\n")
        parts += [f"- {_escaped(text)}" for text in texts]
        parts.append("")
    return "\n".join(parts)


def _sentences(tree: ast.AST, returned: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if name in ERRORS or (returned and method == "append"):
                yield from _texts(node.args[0])
            elif name == "refused":  # the error that a store raised stands before the sentence
                yield from _texts(node.args[-1])
        elif returned and isinstance(node, ast.Return) and node.value is not None:
            yield from _texts(node.value)


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.ListComp):
        yield from _texts(node.elt)
    elif isinstance(node, ast.List):
        for item in node.elts:
            yield from _texts(item)
    else:
        text = _template(node)
        if len(text.replace(PLACE, "").split()) > 3 and text.strip() == text and text[-1] != ".":
            yield text


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else PLACE
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values)).replace(PLACE * 2, PLACE)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return PLACE


def _escaped(text: str) -> str:
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "*_[]|`" else letter for letter in text)
