"""Training and validation rows, separated by the hash of the instruction."""

from __future__ import annotations

from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError


def split(examples: Examples, share: float) -> tuple[Examples, Examples]:
    """Return training rows and validation rows.

    A row's side depends on its own id and the share only: it stays when rows are added or left
    out, and a larger share only moves rows from training to validation.

    Args:
        examples: All rows.
        share: Fraction of the rows that go to validation, 0 <= share < 1.

    Raises:
        UserError: One side would be empty (an empty validation side is right for a share of 0).
    """
    if share == 0:
        return examples, examples.select([])
    parts = [_part(key) for key in examples.ids()]
    training = examples.select([i for i, part in enumerate(parts) if part >= share])
    validation = examples.select([i for i, part in enumerate(parts) if part < share])
    for side, rows, fix in (("training", training, "lower"), ("validation", validation, "raise")):
        if not rows:
            raise UserError(
                f"data.validation={share} leaves no {side} row of {len(examples)}: {fix} it, "
                "or take more rows"
            )
    return training, validation


def _part(key: str) -> float:
    # The second half: the first decides which look-alike rows carry a reflection, and a split
    # that followed the same digits would put them all on one side.
    return int(key[8:], 16) / 16**8
