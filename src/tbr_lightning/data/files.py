"""Rows of local JSON, JSONL, CSV and Parquet files, with errors that name file and line."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tbr_lightning.errors import UserError, first_line

Row = dict[str, Any]

FORMS = ".json, .jsonl, .csv, .tsv or .parquet"
_BATCH = 1000  # rows of a Parquet file in memory at a time


def read_rows(path: str | Path, field: str) -> Iterator[tuple[str, Row]]:
    """Read a file row by row; only a JSON list is held in memory, as text.

    Args:
        path: ``.json`` (a list of objects, or JSON lines), ``.jsonl``, ``.csv``, ``.tsv`` or
            ``.parquet``.
        field: The config key that named the file, for error messages.

    Returns:
        Pairs of a place for error messages, ``FILE:LINE``, and the row.

    Raises:
        UserError: The file is missing or in an unsupported format; while reading, it is empty or
            has a malformed row.
    """
    return _checked(checked_file(path, field), field)


def is_file_name(source: str) -> bool:
    """Return whether a source is meant as a local file rather than a hub id ``owner/name``."""
    return (
        Path(source).suffix.lower() in _READERS
        or Path(source).exists()
        or not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}", source)
    )


def checked_file(path: str | Path, field: str) -> Path:
    """Return the path of a file of rows.

    Raises:
        UserError: It is missing or its format is not known.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{field}='{path}' is not a file: give the path of a {FORMS} file")
    if file.suffix.lower() not in _READERS:
        raise UserError(f"{field}='{path}' has an unknown form: give a {FORMS} file")
    return file


def _checked(file: Path, field: str) -> Iterator[tuple[str, Row]]:
    empty = True
    try:
        for pair in _READERS[file.suffix.lower()](file):
            empty = False
            yield pair
    except (UnicodeDecodeError, PermissionError) as error:
        raise UserError(f"{field}: {file} cannot be read as UTF-8 text: {error}") from error
    if empty:
        raise UserError(f"{field}: {file} has no rows: give a file with at least one")


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
            raise UserError(f"{where}: '{column}' is {type(value).__name__}, not text: fix the row")
        if not value.isascii() and _unwritable(value):
            raise UserError(f"{where}: '{column}' holds a lone \\ud800 to \\udfff: fix it")
        if value.strip() or default is not None:
            return value.strip()
        raise UserError(f"{where}: '{column}' is empty: fill it or remove the row")
    if default is not None:
        return default
    has = ", ".join(str(key) for key in row) or "nothing"
    names = "' or '".join(columns)
    raise UserError(f"{where}: no column '{names}' (it has {has})")


def _unwritable(text: str) -> bool:
    r"""Return whether a text cannot be UTF-8, as JSON's escapes allow (``"\ud800"``)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _open(file: Path) -> TextIO:
    # utf-8-sig: files that passed through a spreadsheet begin with a byte-order mark.
    return file.open(encoding="utf-8-sig", newline="")


def _json(file: Path) -> Iterator[tuple[str, Row]]:
    """Read JSON lines, or lists and objects one after the other, each row with its line."""
    with _open(file) as stream:
        first = next((line for line in stream if line.strip()), "")
        if first.lstrip().startswith("{") and _is_json(first):
            lines = True
        else:
            lines = False
            stream.seek(0)
            text = stream.read()
    yield from _jsonl(file) if lines else _values(file, text)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _values(file: Path, text: str) -> Iterator[tuple[str, Row]]:
    """Read element by element, since only so each row's line is known."""
    decoder, at, line, counted, inside = json.JSONDecoder(), 0, 1, 0, False
    blank = re.compile(r"[\s,]*")
    while True:
        at = blank.match(text, at).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, at), at
        if at == len(text) and not inside:
            return
        where = f"{file}:{line}"
        if text.startswith("]" if inside else "[", at):
            inside, at = not inside, at + 1
            continue
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from error
        yield where, _object(row, where)


def _jsonl(file: Path) -> Iterator[tuple[str, Row]]:
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: not valid JSON: {error.msg}") from error
            yield where, _object(row, where)


def _csv(file: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(sys.maxsize)  # a long answer is no error
    with _open(file) as stream:
        tabs = file.suffix.lower() == ".tsv"
        reader = csv.DictReader(stream, strict=True, delimiter="\t" if tabs else ",")
        try:
            for name, times in Counter(reader.fieldnames or ()).items():
                if times > 1:
                    raise UserError(f"{file}:1: the column '{name}' is listed twice: rename one")
            for row in reader:
                where = f"{file}:{reader.line_num}"
                if None in row or None in row.values():
                    width = len(reader.fieldnames or ())
                    raise UserError(f"{where}: the row does not have the header's {width} columns")
                yield where, dict(row)
        except csv.Error as error:
            raise UserError(f"{file}:{reader.line_num}: not valid CSV: {error}") from error


def _parquet(file: Path) -> Iterator[tuple[str, Row]]:
    """Read row groups in batches; a row's place is its number, since the format has no lines."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}:{number}", row
    except pyarrow.ArrowException as error:
        raise UserError(f"{file}:{number + 1}: not valid Parquet: {first_line(error)}") from error


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__}, not an object with columns: fix the row")
    return row


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
