"""Training and validation rows, separated by the hash of the instruction."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tbr_lightning.data.example import context_of, instruction_id
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError


def split(examples: Examples, share: float) -> tuple[Examples, Examples]:
    """Return training rows and validation rows.

    A row's side depends on its own id and the share only: it stays when rows are added or left
    out, and a larger share only moves rows from training to validation. Rows of one conversation,
    as ``data.turns=all`` makes them, are on the side of its first request.

    Args:
        examples: All rows.
        share: Fraction of the rows that go to validation, 0 <= share < 1.

    Raises:
        UserError: One side would be empty (an empty validation side is right for a share of 0).
    """
    if share == 0:
        return examples, examples.select([])
    parts = [_part(key) for key in _conversations(examples)]
    training = examples.select([i for i, part in enumerate(parts) if part >= share])
    validation = examples.select([i for i, part in enumerate(parts) if part < share])
    for side, rows, fix in (("training", training, "lower"), ("validation", validation, "raise")):
        if not rows:
            raise UserError(
                f"data.validation={share} leaves no {side} row of {len(examples)}: {fix} it, "
                "or take more rows"
            )
    return training, validation


def _conversations(examples: Examples) -> Iterator[str]:
    """Yield the id of the request that each row's conversation begins with."""
    for key, context in zip(examples.ids(), examples.column("context"), strict=True):
        turns = json.loads(context) if context else []
        first = next((n for n, turn in enumerate(turns) if turn["role"] == "user"), None)
        if first is None:
            yield key
        else:
            before = context_of(turns[:first])
            yield instruction_id(turns[first]["content"], f"\x1f{before}" if before else "")


def _part(key: str) -> float:
    # The second half: the first decides which look-alike rows carry a reflection, and a split
    # that followed the same digits would put them all on one side.
    return int(key[8:], 16) / 16**8
