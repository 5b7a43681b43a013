"""Rows of answers that people labelled, and how they join the rows of a data config.

A file of them is what ``evaluate labelled`` writes, or one written by hand: an object a row with
``instruction``, ``response`` and ``kind``, and where there is one ``rejected``, ``reflection`` and
``messages`` (what was said before). Other columns, such as the trace, say where a row comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from tbr_lightning.data.cache import content_key, file_key
from tbr_lightning.data.chats import messages_in
from tbr_lightning.data.example import Example, context_of, request_key
from tbr_lightning.data.files import Row, checked_file, read_rows, text_of
from tbr_lightning.data.table import FORMAT, Examples, stored
from tbr_lightning.errors import UserError, one_of
from tbr_lightning.kinds import KINDS, Kind

FIELD = "data.labelled"
REPLACED = "replaced by labelled rows"
CONFLICTS = "labelled before, by an earlier row"
_RULES = 1  # version of what is made of a file; part of the key


def read_labelled(path: str) -> Iterator[Example]:
    """Read a file of labelled rows.

    Raises:
        UserError: The file is missing or a row is malformed.
    """
    for where, row in read_rows(path, FIELD):
        yield _example(row, where)


def _example(row: Row, where: str) -> Example:
    kind = text_of(row, ("kind",), where)
    try:
        one_of("kind", kind, KINDS)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    instruction = text_of(row, ("instruction",), where)
    response = text_of(row, ("response", "output"), where)
    rejected = text_of(row, ("rejected",), where, default="") or None
    if rejected == response:
        raise UserError(f"{where}: 'rejected' is the response: fix or remove it")
    said = row.get("messages") or []
    if not isinstance(said, list):
        raise UserError(f"{where}: 'messages' must be a list of messages: fix the row")
    return Example(
        instruction=instruction,
        response=response,
        kind=cast(Kind, kind),
        source=text_of(row, ("source",), where, default="") or "labelled",
        input=text_of(row, ("input",), where, default=""),
        rejected=rejected,
        context=context_of(messages_in(said, "messages", where)),
        reflection=text_of(row, ("reflection",), where, default="") or None,
    )


def with_labelled(examples: Examples | None, path: str, cache: Path) -> Examples:
    """Return rows with those that people labelled, which take the place of the same requests.

    Args:
        examples: Rows of the data config; ``None`` for the labelled rows alone.
        path: File of the labelled rows; of two with one request the later one counts.
        cache: Folder of all caches.

    Raises:
        UserError: The file is missing or a row is malformed.
    """
    file = checked_file(path, FIELD)
    base: Any = None if examples is None else [examples.digest, examples.left_out, examples.notes]

    def make(left_out: Counter[str]) -> Iterator[Example]:
        newest: dict[str, Example] = {}
        for row in read_labelled(path):
            if newest.pop(_request(row), None) is not None:
                left_out[CONFLICTS] += 1
            newest[_request(row)] = row
        left_out.update({} if examples is None else examples.left_out)
        for row in examples or ():
            if _request(row) in newest:
                left_out[REPLACED] += 1
            else:
                yield row
        yield from newest.values()

    notes = () if examples is None else examples.notes
    key = content_key(FORMAT, "labelled", _RULES, base, file_key(file))
    return stored(cache, key, make, lambda: notes)


def _request(row: Example) -> str:
    return request_key(row.instruction, row.input, row.context)
