"""Rows of a benchmark from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tbr_lightning.errors import UserError, in_one_line


def hub_rows(
    hub_id: str, config: str | None, split: str, instead: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return a data set's rows, each with its place for messages.

    Args:
        hub_id: Id of the data set, ``OWNER/NAME``.
        config: Subset, if the data set has several.
        split: Name of the split, such as ``test``.
        instead: Advice in the message where the hub cannot be reached.

    Raises:
        UserError: The rows are not available.
    """
    import datasets

    try:
        rows = datasets.load_dataset(hub_id, config, split=split)
    except Exception as error:  # the client raises a dozen kinds for one fact: not available
        raise UserError(
            f"the rows of {hub_id} cannot be loaded ({type(error).__name__}: "
            f"{in_one_line(error, 200)}): {instead}"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{hub_id}:{number}", dict(row)
