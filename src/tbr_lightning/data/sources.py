"""Where training rows come from: the micro-world, local files, or the safety mix."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.utils import get_method

from tbr_lightning.data.example import Example, Kind, instruction_id
from tbr_lightning.data.files import Row, read_rows, text_of
from tbr_lightning.errors import UserError

_INSTRUCTION = ("instruction", "prompt")
_RESPONSE = ("output", "response")


def load(config: Any, seed: int) -> list[Example]:
    """Return the training rows of a data config, by calling its ``_target_``."""
    # Hydra's own `call` would wrap a UserError in an exception of its own.
    settings = asdict(config)
    return get_method(settings.pop("_target_"))(**settings, seed=seed)


def microworld(*, name: str, general: int, harmful: int, seed: int) -> list[Example]:
    """Return rows of the embedded micro-world; ``seed`` chooses them."""
    from tbr_lightning.microworld.prompts import training_examples

    return _not_empty(training_examples(seed, general, harmful), name)


def files(
    *,
    name: str,
    general: str | None,
    harmful: str | None,
    look_alike: str | None,
    general_rows: int | None,
    harmful_rows: int | None,
    exclude: str | None,
    seed: int,
) -> list[Example]:
    """Return rows of local files: Alpaca's columns ``instruction``, ``input`` and ``output``.

    Raises:
        UserError: No file was given, or one is missing, empty or malformed.
    """
    if general is None and harmful is None and look_alike is None:
        raise UserError("data.general and data.harmful are not set: give the path of at least one")
    unsafe = _from_file(harmful, "data.harmful", "harmful") if harmful else []
    alike = _from_file(look_alike, "data.look_alike", "look_alike") if look_alike else []
    plain = _from_file(general, "data.general", "general") if general else []
    plain = _without(plain, unsafe + alike, exclude)
    drawn = _draw(plain, general_rows, seed) + _draw(unsafe, harmful_rows, seed)
    return _not_empty(drawn + alike, name)


def safety_mix(
    *,
    name: str,
    general: int,
    harmful: int,
    general_source: str,
    harmful_source: str | None,
    exclude: str | None,
    seed: int,
) -> list[Example]:
    """Return Alpaca rows cleaned of safety rows, and Safety-Tuned-LLaMAs rows.

    The mix follows Bianchi et al. (2024); it is our assumption of the paper's.

    Raises:
        UserError: A source is missing or cannot be reached.
    """
    unsafe = []
    if harmful:
        if harmful_source is None:
            raise UserError(missing_safety_rows())
        unsafe = _from_file(harmful_source, "data.harmful_source", "harmful")
    plain = _from_file_or_hub(general_source, "data.general_source") if general else []
    plain = _without(plain, unsafe, exclude)
    return _not_empty(_draw(plain, general, seed) + _draw(unsafe, harmful, seed), name)


def missing_safety_rows() -> str:
    """Return the sentence that says how to get the safety rows of ``data=safety_mix``."""
    return (
        "data.harmful_source is not set: download safety_only_data_Instructions.json from "
        "github.com/vinid/safety-tuned-llamas and give its path, or use data=microworld"
    )


def _from_file(path: str, field: str, kind: Kind) -> list[Example]:
    source = Path(path).name
    return _examples(read_rows(path, field), kind, source)


def _examples(rows: Iterable[tuple[str, Row]], kind: Kind, source: str) -> list[Example]:
    """Make examples; rows without an answer, of which Alpaca itself has some, teach nothing."""
    examples, without = [], 0
    for where, row in rows:
        if any(
            isinstance(row.get(column), str) and not row[column].strip() for column in _RESPONSE
        ):
            without += 1
        else:
            examples.append(_example(row, where, kind, source))
    if without:
        print(f"{source}: {without} rows have an empty output and were left out", file=sys.stderr)
    return examples


def _example(row: Row, where: str, kind: Kind, source: str) -> Example:
    return Example(
        instruction=text_of(row, _INSTRUCTION, where),
        input=text_of(row, ("input",), where, default=""),
        response=text_of(row, _RESPONSE, where),
        kind=kind,
        source=source,
    )


def _from_file_or_hub(source: str, field: str) -> list[Example]:
    if Path(source).suffix.lower() in (".json", ".jsonl", ".csv"):
        return _from_file(source, field, "general")
    import datasets

    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(source, split="train")
    except Exception as error:  # the hub client raises a dozen kinds for one fact: not to be had
        raise UserError(
            f"{field}='{source}' cannot be loaded from the hub ({type(error).__name__}): go online "
            "or give the path of a local .json file"
        ) from error
    return _examples(((f"{source}: row {n}", row) for n, row in enumerate(rows)), "general", source)


def _without(rows: list[Example], unsafe: list[Example], exclude: str | None) -> list[Example]:
    """Leave out general rows that are safety rows, and rows that stand there twice."""
    seen = {example.id for example in unsafe}
    instructions = set()
    if exclude is not None:
        for where, row in read_rows(exclude, "data.exclude"):
            instruction = text_of(row, _INSTRUCTION, where)
            instructions.add(instruction_id(instruction, ""))
    kept = []
    for example in rows:
        if example.id in seen or instruction_id(example.instruction, "") in instructions:
            continue
        seen.add(example.id)
        kept.append(example)
    return kept


def _draw(rows: list[Example], count: int | None, seed: int) -> list[Example]:
    if count is None or count >= len(rows):
        return rows
    return random.Random(seed).sample(rows, count)


def _not_empty(rows: list[Example], name: str) -> list[Example]:
    if not rows:
        raise UserError(
            f"data={name} has no training rows: raise data.general or data.harmful above 0"
        )
    return rows
