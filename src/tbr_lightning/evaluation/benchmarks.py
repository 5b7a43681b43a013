"""The table of benchmarks: what each is, where it comes from, and its published rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tbr_lightning.data.files import Row, read_rows
from tbr_lightning.errors import UserError, in_one_line, near
from tbr_lightning.evaluation.hub import hub_rows
from tbr_lightning.kinds import KINDS, Kind

PLAIN = "prompt"
"""Column of files that are a list of strings."""

_UNSTATED: dict[str, Any] = {
    "hub": None,
    "rows": None,
    "repeats": None,
    "verified": False,
    "licence": "unknown",
    "citation": "",
    "url": "",
}
"""What an entry of one's own may leave out; a shipped one states it."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as ``benchmarks.yaml`` describes it.

    Attributes:
        name: Key of the benchmark.
        kind: Kind of every row, or ``None`` where a column decides.
        kind_column: Column that decides the kind, or ``None``.
        kinds: Kind for each of the column's values; ``None`` leaves the row out.
        otherwise: For files without that column: another ``column``, how its values of ``kind``
            begin (``begins``), and the kind of all others (``else``).
        hub: ``id``, ``configs`` and ``split`` of the hub's copy, or ``None``.
        files: Paths under ``suite.root``, of which the first that exists is read.
        prompt: Names of the request's column.
        context: Names of the column whose text comes before the request.
        category: Names of the category's column.
        only: Columns, each with the value that a row must have to be read.
        rows: Number of rows counted in the published file, or ``None``.
        repeats: Number of prompts that the published file repeats, or ``None`` if not counted.
        verified: Whether this project has read the published file.
        licence: SPDX name, or ``unknown``.
        citation: Citation of the paper.
        url: Address where the file is published.
        caveat: Caveat for readers of its numbers, or empty.
        title: What captions call it; its key where the entry has none.
    """

    name: str
    kind: Kind | None
    kind_column: str | None
    kinds: Mapping[str, Kind | None]
    otherwise: Mapping[str, str]
    hub: Mapping[str, Any] | None
    files: tuple[str, ...]
    prompt: tuple[str, ...]
    context: tuple[str, ...]
    category: tuple[str, ...]
    rows: int | None
    repeats: int | None
    verified: bool
    licence: str
    citation: str
    url: str
    only: Mapping[str, str] = field(default_factory=dict)
    caveat: str = ""
    title: str = ""


def benchmarks(own: str | None = None) -> dict[str, Benchmark]:
    """Return the shipped benchmarks, and those of a user's own file.

    Raises:
        UserError: The file cannot be read, or an entry lacks a fact.
    """
    return _shipped() if own is None else _shipped() | own_benchmarks(own)


def own_benchmarks(own: str) -> dict[str, Benchmark]:
    """Return the benchmarks of a user's own file.

    Raises:
        UserError: The file cannot be read, or an entry lacks a fact.
    """
    try:
        return _parsed(Path(own).read_text("utf-8"), _UNSTATED)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError) as error:
        reason = in_one_line(error)
        raise UserError(f"suite.table='{own}' is not a table of benchmarks: {reason}") from error


@cache
def _shipped() -> dict[str, Benchmark]:
    return _parsed(resources.files(__package__).joinpath("benchmarks.yaml").read_text("utf-8"))


def chosen(names: list[str], own: str | None) -> list[Benchmark]:
    """Return the named benchmarks; if none is named, all of the user's own file.

    Raises:
        UserError: One is not known, or none is named.
    """
    table = benchmarks(own)
    if not names and own is not None:
        return list(own_benchmarks(own).values())
    for name in names:
        if name not in table:
            raise UserError(f"suite.benchmarks: '{name}' is not known{near(name, table)}")
    if not names:
        raise UserError(f"suite.benchmarks is empty: name some of {', '.join(table)}")
    return [table[name] for name in dict.fromkeys(names)]


def _parsed(text: str, unstated: Mapping[str, Any] | None = None) -> dict[str, Benchmark]:
    entries = yaml.safe_load(text).items()
    return {name: _benchmark(name, {**(unstated or {}), **entry}) for name, entry in entries}


def _benchmark(name: str, entry: Mapping[str, Any]) -> Benchmark:
    known = {item.name for item in fields(Benchmark)} - {
        "name",
        "kind_column",
        "kinds",
        "otherwise",
    }
    missing = sorted(known - set(entry) - {"context", "category", "only", "caveat", "title"})
    extra = sorted(set(entry) - known)
    if missing or extra:
        what = f"lacks {', '.join(missing)}" if missing else f"has no field '{extra[0]}'"
        raise UserError(f"the benchmark '{name}' {what}{near(extra[0], known) if extra else ''}")
    facts = {"title": name, **entry}
    kind = facts.pop("kind")
    kinds = kind["values"] if isinstance(kind, Mapping) else {}
    for value in [*kinds.values()] or [kind]:
        if value is not None and value not in KINDS:
            raise UserError(f"the benchmark '{name}': kind='{value}' is none of {', '.join(KINDS)}")
    for column in ("files", "prompt", "context", "category"):
        facts[column] = tuple(facts.get(column) or ())
    return Benchmark(
        name=name,
        kind=None if kinds else kind,
        kind_column=kind["column"] if kinds else None,
        kinds=kinds,
        otherwise=kind.get("otherwise", {}) if kinds else {},
        **facts,
    )


def local_file(benchmark: Benchmark, root: Path) -> Path | None:
    """Return the benchmark's file under a folder, or ``None``."""
    return next((root / name for name in benchmark.files if (root / name).is_file()), None)


def missing(wanted: list[Benchmark], root: str | None) -> list[str]:
    """Return one sentence for each benchmark that is not available, before any is read."""
    if root is not None and not Path(root).is_dir():
        return [f"suite.root='{root}' is not a folder: give the one that holds the files"]
    return [sentence for b in wanted if (sentence := _missing(b, root)) is not None]


def _missing(benchmark: Benchmark, root: str | None) -> str | None:
    name, file = benchmark.name, benchmark.files[0]
    if root is not None:
        if local_file(benchmark, Path(root)):
            return None
        got = f"get it from {benchmark.url}" if benchmark.url else "put it there"
        return (
            f"suite.root='{root}' has no {' or '.join(benchmark.files)}: {got}, or leave {name} "
            "out of suite.benchmarks"
        )
    if benchmark.hub is None:
        got = f"get it from {benchmark.url}, " if benchmark.url else ""
        return (
            f"{name} is a file and on no hub: {got}put it at DIR/{file} and give "
            f"suite.root=DIR, or leave {name} out of suite.benchmarks"
        )
    from tbr_lightning.preflight import missing_dataset

    problem = missing_dataset(benchmark.hub["id"])
    if problem is None:
        return None
    return (
        f"the rows of {benchmark.hub['id']} {problem}: go online once, or get the file from "
        f"{benchmark.url}, put it at DIR/{file} and give suite.root=DIR"
    )


def published_rows(benchmark: Benchmark, root: str | None) -> Iterator[tuple[str, Row]]:
    """Return the rows of a benchmark, each with its place for error messages.

    Raises:
        UserError: The file or the hub's copy cannot be read.
    """
    if root is not None:
        file = local_file(benchmark, Path(root))
        return file_rows(file or Path(root) / benchmark.files[0])
    return _hub_rows(benchmark)


def file_rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Read rows; a JSON list of strings, or an object with a list for each column, is read too.

    Raises:
        UserError: The file is missing, empty or malformed.
    """
    columns = _columns(file)
    if columns is None:
        return read_rows(file, "suite.root")
    lengths = {len(values) for values in columns.values()}
    if not columns:
        raise UserError(f"suite.root: {file} has no rows: give a file with at least one")
    if len(lengths) > 1:
        told = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise UserError(f"suite.root: the columns of {file} differ in length ({told}): fix it")
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return ((f"{file}: item {n}", row) for n, row in enumerate(rows, start=1))


def _columns(file: Path) -> dict[str, list[Any]] | None:
    """Return the columns of a JSON file that is written by columns, or ``None`` for any other."""
    if file.suffix.lower() != ".json" or not file.is_file():
        return None
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except ValueError:  # JSON lines, or an error that the reader of rows places better
        return None
    if isinstance(content, list) and all(isinstance(item, str) for item in content):
        content = {PLAIN: content}
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        return None
    return {name: values for name, values in content.items() if values}


def _hub_rows(benchmark: Benchmark) -> Iterator[tuple[str, Row]]:
    hub = benchmark.hub or {}
    instead = f"get the file from {benchmark.url} and give suite.root=DIR"
    for config in hub["configs"]:
        yield from hub_rows(hub["id"], config, hub["split"], instead)
