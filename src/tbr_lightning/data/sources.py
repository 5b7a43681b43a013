"""Where training rows come from: the micro-world, files and hub data sets, or the safety mix."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from hydra.utils import get_method

from tbr_lightning.data.cache import content_key
from tbr_lightning.data.example import Example
from tbr_lightning.data.mix import Columns, Mix, mixed, pool
from tbr_lightning.data.table import FORMAT, Examples, stored
from tbr_lightning.errors import UserError


def load(config: Any, seed: int, cache: Path) -> Examples:
    """Return the training rows of a data config, by calling its ``_target_``.

    Args:
        config: A data schema of :mod:`tbr_lightning.config.schema`.
        seed: Chooses the rows.
        cache: Folder of all caches; rows that are there already are only opened.

    Raises:
        UserError: A source is missing, cannot be reached or is malformed, or no row is left.
    """
    # Hydra's own `call` would wrap a UserError in an exception of its own.
    settings = asdict(config)
    del settings["validation"]  # which side a row is on does not shape the rows
    examples: Examples = get_method(settings.pop("_target_"))(**settings, seed=seed, cache=cache)
    _tell(examples.left_out, config.name)
    return examples


def microworld(*, name: str, general: int, harmful: int, seed: int, cache: Path) -> Examples:
    """Return rows of the embedded micro-world; ``seed`` chooses them.

    Raises:
        UserError: No row is wanted, or more than the world has.
    """
    from tbr_lightning.microworld.prompts import training_examples

    def make(_: Counter[str]) -> Iterator[Example]:
        try:
            rows = training_examples(seed, general, harmful)
        except ValueError as error:
            raise UserError(f"{error}: lower data.general or data.harmful") from error
        return _not_empty(iter(rows), name)

    key = content_key(FORMAT, "microworld", _microworld_sources(), general, harmful, seed)
    return stored(cache, key, make)


def files(
    *,
    name: str,
    general: str | None,
    harmful: str | None,
    look_alike: str | None,
    general_rows: int | None,
    harmful_rows: int | None,
    exclude: str | None,
    drop_refusals: bool,
    columns: Columns,
    seed: int,
    cache: Path,
) -> Examples:
    """Return rows of local files or hub data sets, with Alpaca's columns or those that are named.

    Raises:
        UserError: No source was given, or one is missing, empty or malformed.
    """
    if general is None and harmful is None and look_alike is None:
        raise UserError("data.general and data.harmful are not set: give the path of at least one")
    mix = Mix(
        general=pool(general, "data.general", "general", columns, cache),
        harmful=pool(harmful, "data.harmful", "harmful", columns, cache),
        look_alike=pool(look_alike, "data.look_alike", "look_alike", columns, cache),
        general_rows=general_rows,
        harmful_rows=harmful_rows,
        exclude=exclude,
        drop_refusals=drop_refusals,
        instruction=columns["instruction"],
        seed=seed,
    )
    return stored(cache, mix.key, lambda left_out: _not_empty(mixed(mix, left_out), name))


def safety_mix(
    *,
    name: str,
    general: int,
    harmful: int,
    general_source: str,
    harmful_source: str | None,
    look_alike_source: str | None,
    exclude: str | None,
    drop_refusals: bool,
    columns: Columns,
    seed: int,
    cache: Path,
) -> Examples:
    """Return Alpaca rows cleaned of safety rows, and Safety-Tuned-LLaMAs rows.

    The mix follows Bianchi et al. (2024); it is our assumption of the paper's.

    Raises:
        UserError: A source is missing or cannot be reached.
    """
    if harmful and harmful_source is None:
        raise UserError(missing_safety_rows())
    plain = general_source if general else None
    unsafe = harmful_source if harmful else None
    mix = Mix(
        general=pool(plain, "data.general_source", "general", columns, cache),
        harmful=pool(unsafe, "data.harmful_source", "harmful", columns, cache),
        look_alike=pool(look_alike_source, "data.look_alike_source", "look_alike", columns, cache),
        general_rows=general,
        harmful_rows=harmful,
        exclude=exclude,
        drop_refusals=drop_refusals,
        instruction=columns["instruction"],
        seed=seed,
    )
    rows = stored(cache, mix.key, lambda left_out: _not_empty(mixed(mix, left_out), name))
    counts = rows.counts()
    for field, kind, wanted in (("general", "general", general), ("harmful", "harmful", harmful)):
        found = counts.get(kind, 0)  # type: ignore[call-overload]
        if found < wanted:
            print(f"data={name}: data.{field}={wanted}, but there are {found}", file=sys.stderr)
    return rows


def missing_safety_rows() -> str:
    """Return the sentence that says how to get the safety rows of ``data=safety_mix``."""
    return (
        "data.harmful_source is not set: download safety_only_data_Instructions.json from "
        "github.com/vinid/safety-tuned-llamas and give its path, or use data=microworld"
    )


def _microworld_sources() -> str:
    """Return a hash of the package that makes the rows."""
    package = sorted(
        resources.files("tbr_lightning.microworld").iterdir(), key=lambda item: item.name
    )
    texts = {f.name: f.read_text("utf-8") for f in package if f.name.endswith((".py", ".yaml"))}
    return content_key(texts)


def _not_empty(rows: Iterator[Example], name: str) -> Iterator[Example]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise UserError(
            f"data={name} has no training rows: raise data.general or data.harmful above 0"
        )


def _tell(left_out: dict[str, int], name: str) -> None:
    """Print what was left out, whether it was left out now or when the rows were stored."""
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        print(f"data={name}: rows left out: {reasons}", file=sys.stderr)
