"""Sources parsed once each, then cleaned, drawn from and mixed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbr_lightning.data.cache import content_key, file_key
from tbr_lightning.data.example import Example, normal_form, request_key
from tbr_lightning.data.files import Row, checked_file, is_file_name, read_rows, text_of
from tbr_lightning.data.refusals import is_refusal
from tbr_lightning.data.row_formats import (
    KNOWN,
    TURNS,
    Columns,
    Notes,
    earlier_examples,
    example_of,
)
from tbr_lightning.data.table import FORMAT, Examples, stored
from tbr_lightning.errors import UserError, first_line
from tbr_lightning.kinds import Kind

SAFETY = "safety rows"
DUPLICATES, REFUSALS = "duplicates", "refusals"

_RULES = 6  # version of the cleaning rules; part of the cache key


@dataclass(frozen=True)
class Mix:
    """Parsed sources, and how rows are drawn from them.

    Attributes:
        general: Rows of ordinary instructions, or none.
        harmful: Rows to refuse, or none.
        look_alike: Benign rows that sound harmful, or none.
        general_rows: Maximum number of general rows; ``None`` for all.
        harmful_rows: Maximum number of harmful rows; ``None`` for all.
        look_alikes: Maximum number of look-alike rows; ``None`` for all.
        exclude: File of instructions that are removed from the general rows.
        drop_refusals: Whether general rows whose response begins as a refusal are left out.
        instruction: Configured name of the instruction column, in ``exclude`` too if it is there.
        seed: Random seed of the draws.
    """

    general: Examples | None
    harmful: Examples | None
    look_alike: Examples | None
    general_rows: int | None
    harmful_rows: int | None
    exclude: str | None
    drop_refusals: bool
    instruction: str | None
    seed: int
    look_alikes: int | None = None

    @property
    def key(self) -> str:
        """Hash of all that determines the mixed rows."""
        pools = [
            None if rows is None else [rows.digest, rows.left_out, rows.notes]
            for rows in (self.general, self.harmful, self.look_alike)
        ]
        exclude = self.exclude and file_key(checked_file(self.exclude, "data.exclude"))
        return content_key(
            FORMAT,
            "mix",
            _RULES,
            pools,
            exclude,
            self.general_rows,
            self.harmful_rows,
            self.drop_refusals,
            self.instruction,
            self.seed,
            self.look_alikes,
        )


def pool(
    source: str | None,
    field: str,
    kind: Kind,
    columns: Columns,
    cache: Path,
    *,
    turns: str = "last",
) -> Examples | None:
    """Return all rows of one source that have a response, parsing it only the first time.

    Args:
        source: A local file, a hub id ``owner/name``, ``owner/name:split`` or
            ``owner/name:config:split``, or ``None``.
        field: The config key that named it, for error messages.
        kind: Kind of every row.
        columns: Names of the columns.
        cache: Folder of all caches.
        turns: ``all`` makes a row of each turn of the assistant, ``last`` of the last one only.

    Raises:
        UserError: The source is missing or cannot be reached, or a row is malformed.
    """
    if source is None:
        return None
    if is_file_name(source):
        file = checked_file(source, field)
        name, origin = file.name, [file.suffix.lower(), file_key(file)]
    else:
        dataset = _hub(source, field)
        name, origin = source, [source, dataset._fingerprint]

    notes = Notes()

    def make(left_out: Counter[str]) -> Iterator[Example]:
        rows = read_rows(source, field) if is_file_name(source) else _hub_rows(dataset, source)
        notes.left_out = left_out
        for where, row in rows:
            # Alpaca itself has rows without an answer; they teach nothing.
            example = example_of(row, where, columns, kind=kind, source=name, notes=notes)
            if turns == "all":
                for one in earlier_examples(row, where, columns, kind=kind, source=name):
                    notes.seen[TURNS] += 1
                    yield one
            if example is not None:
                yield example

    def sentences() -> list[str]:
        made = [f"{field}: {count} {what}" for what, count in notes.seen.items()]
        if notes.unused:
            made.append(f"{field}: columns not used: {', '.join(sorted(notes.unused))}")
        return made

    every = [turns] if turns != "last" else []
    key = content_key(FORMAT, "source", _RULES, name, origin, kind, dict(columns), *every)
    return stored(cache, key, make, sentences)


def mixed(mix: Mix, left_out: Counter[str]) -> Iterator[Example]:
    """Yield the rows of a mix, counting those that are left out in ``left_out``.

    Each request occurs once, whatever its case, quotes and blanks, or twice where one row has an
    answer to give and another only one to avoid. Where sources share one, the harmful row is kept,
    or else the look-alike; general rows are drawn from what remains of them after cleaning.
    """
    for rows in (mix.general, mix.harmful, mix.look_alike):
        left_out.update({} if rows is None else rows.left_out)
    taken: set[str] = set()
    unsafe = _new(mix.harmful, taken, left_out)
    alike = _new(mix.look_alike, taken, left_out)
    plain = _clean(mix, taken, left_out)
    yield from _drawn(mix.general, _draw(plain, mix.general_rows, mix.seed))
    yield from _drawn(mix.harmful, _draw(unsafe, mix.harmful_rows, mix.seed))
    yield from _drawn(mix.look_alike, _draw(alike, mix.look_alikes, mix.seed))


def _new(rows: Examples | None, taken: set[str], left_out: Counter[str]) -> list[int]:
    """Return the indices of rows whose request no source has taken, and take their requests."""
    seen: set[tuple[str, bool]] = set()
    kept = []
    for place, (request, answered) in enumerate(_requests(rows)):
        if request in taken or (request, answered) in seen:
            left_out[DUPLICATES] += 1
        else:
            seen.add((request, answered))
            kept.append(place)
    taken |= {request for request, _ in seen}
    return kept


def _requests(rows: Examples | None) -> Iterator[tuple[str, bool]]:
    """Yield the normal form of each row's request, and whether it has an answer to give."""
    if rows is not None:
        parts = (rows.column(name) for name in ("instruction", "input", "context", "response"))
        for instruction, given, context, response in zip(*parts, strict=True):
            yield request_key(instruction, given, context), bool(response)


def _clean(mix: Mix, unsafe: set[str], left_out: Counter[str]) -> list[int]:
    """Return the indices of general rows that are not safety rows, refusals or duplicates."""
    excluded = _excluded(mix)
    seen: set[tuple[str, bool]] = set()
    kept = []
    requests = _requests(mix.general)
    for place, (example, request) in enumerate(zip(mix.general or (), requests, strict=True)):
        asked = {normal_form(example.instruction), normal_form(example.instruction, example.input)}
        if request[0] in unsafe or not excluded.isdisjoint(asked):
            left_out[SAFETY] += 1
        elif request in seen:
            left_out[DUPLICATES] += 1
        elif mix.drop_refusals and is_refusal(example.response):
            left_out[REFUSALS] += 1
        else:
            seen.add(request)
            kept.append(place)
    return kept


def _excluded(mix: Mix) -> set[str]:
    if mix.exclude is None:
        return set()
    names = (*filter(None, [mix.instruction]), *KNOWN["instruction"])
    return {
        normal_form(text_of(row, names, where))
        for where, row in read_rows(mix.exclude, "data.exclude")
    }


def _draw(places: list[int], count: int | None, seed: int) -> list[int]:
    if count is None or count >= len(places):
        return places
    return random.Random(seed).sample(places, count)


def _drawn(rows: Examples | None, places: Sequence[int]) -> Iterator[Example]:
    if rows is not None:
        yield from rows.select(places)


def _hub(source: str, field: str) -> Any:
    """Return a hub data set; the library keeps it on disk and asks the hub whether it is new."""
    import datasets

    name, *parts = source.split(":")
    split = parts.pop() if parts else "train"
    try:
        return datasets.load_dataset(name, *parts, split=split)
    except Exception as error:  # the hub client raises a dozen kinds for one fact: not available
        raise UserError(
            f"{field}='{source}' cannot be loaded from the hub ({type(error).__name__}: "
            f"{first_line(error)}): "
            "go online or give the path of a local .json file"
        ) from error


def _hub_rows(dataset: Any, source: str) -> Iterator[tuple[str, Row]]:
    number = 0
    for batch in dataset.with_format("arrow").iter(1000):
        for row in batch.to_pylist():
            number += 1
            yield f"{source}:{number}", row
