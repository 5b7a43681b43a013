"""Rows of local JSON, JSONL and CSV files, with errors that name file and line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tbr_lightning.errors import UserError

Row = dict[str, Any]


def read_rows(path: str | Path, field: str) -> list[tuple[str, Row]]:
    """Read a file of rows.

    Args:
        path: ``.json`` (a list of objects, or JSON lines), ``.jsonl`` or ``.csv``.
        field: The config key that named the file, for error messages.

    Returns:
        Pairs of a place for error messages, ``FILE:LINE``, and the row.

    Raises:
        UserError: The file is missing, empty, of another form, or has a malformed row.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{field}='{path}' is not a file: give the path of a .json, .jsonl or .csv")
    try:
        # utf-8-sig: files that passed through a spreadsheet begin with a byte-order mark.
        text = file.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, PermissionError) as error:
        raise UserError(f"{field}: {file} cannot be read as UTF-8 text: {error}") from error
    suffix = file.suffix.lower()
    if suffix == ".csv":
        rows = list(_csv(file, text))
    elif suffix in (".json", ".jsonl"):
        rows = list(_json(file, text) if text.lstrip().startswith("[") else _jsonl(file, text))
    else:
        raise UserError(f"{field}='{path}' has an unknown form: give .json, .jsonl or .csv")
    if not rows:
        raise UserError(f"{field}: {file} has no rows: give a file with at least one")
    return rows


def text_of(row: Row, columns: Sequence[str], where: str, *, default: str | None = None) -> str:
    """Return the first of ``columns`` that the row has, as stripped text.

    Raises:
        UserError: The row has none of them (and there is no default), or it is not text or empty.
    """
    for column in columns:
        value = row.get(column)
        if value is None:
            continue
        if not isinstance(value, str):
            raise UserError(
                f"{where}: '{column}' is {type(value).__name__}, not text: mend the row"
            )
        if value.strip() or default is not None:
            return value.strip()
        raise UserError(f"{where}: '{column}' is empty: fill it or remove the row")
    if default is not None:
        return default
    has = ", ".join(str(key) for key in row) or "nothing"
    names = "' or '".join(columns)
    raise UserError(f"{where}: no column '{names}' (it has {has})")


def _json(file: Path, text: str) -> Iterator[tuple[str, Row]]:
    """Read a list element by element, since only so each row's line is known."""
    decoder, at, line, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    blank = re.compile(r"[\s,]*")
    while True:
        at = blank.match(text, at).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, at), at
        if text.startswith("]", at):
            return
        where = f"{file}:{line}"
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from error
        yield where, _object(row, where)


def _jsonl(file: Path, text: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON: {error.msg}") from error
        yield where, _object(row, where)


def _csv(file: Path, text: str) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        for row in reader:
            where = f"{file}:{reader.line_num}"
            if None in row or None in row.values():
                width = len(reader.fieldnames or ())
                raise UserError(f"{where}: the row does not have the header's {width} columns")
            yield where, dict(row)
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num}: not valid CSV: {error}") from error


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__}, not an object with columns: mend the row")
    return row
