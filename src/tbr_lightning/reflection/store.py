"""Records on disk: one SQLite file, each there as soon as it exists."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import Field, asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from tbr_lightning.data.cache import private
from tbr_lightning.errors import UserError, disk_full
from tbr_lightning.reflection.record import Reflection

_LOOKUP = 500  # keys in one query; SQLite bounds the variables of a statement


class Record(Protocol):
    """A record that can be stored: a dataclass with a key."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def key(self) -> str:
        """Hash of all that determines the request that it answers."""


R = TypeVar("R", bound=Record)


class RecordStore(Generic[R]):
    """Stores records of one type by their keys; several processes may share the file.

    Args:
        file: SQLite file of the store; created if it is missing.
        table: Name of the records, also in messages.
        made: Returns a record from its fields, as JSON has them.
        lost: Cost of deleting the file, for the message about a damaged one.
    """

    def __init__(self, file: Path, table: str, made: Callable[..., R], lost: str) -> None:
        self.file, self._table, self._made, self._lost = file, table, made, lost
        with self._told():
            file.parent.mkdir(parents=True, exist_ok=True)
            private(file)
            with self._open() as db:
                db.execute("PRAGMA journal_mode=WAL")
                columns = "(key TEXT PRIMARY KEY, record TEXT NOT NULL)"
                db.execute(f"CREATE TABLE IF NOT EXISTS {table} {columns}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, ValueError, KeyError, TypeError) as error:
            if isinstance(error, OSError) and error.filename is None:
                raise  # not about a file: it comes from whoever makes the records
            raise UserError(
                disk_full(error)
                or f"the store of {self._table} {self.file} cannot be used ({error}): restore it, "
                f"give another folder with TBR_HOME, or delete it, and {self._lost}"
            ) from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.file, timeout=60)) as db, db:
            # Safe against a kill of the process; a power cut may take the last few.
            db.execute("PRAGMA synchronous=NORMAL")
            yield db

    @contextmanager
    def writing(self) -> Iterator[Callable[[R], None]]:
        """Yield a function that writes a record to disk, replacing one of the same request."""
        with self._open() as db:

            def put(record: R) -> None:
                with self._told():
                    values = (record.key, json.dumps(asdict(record), sort_keys=True))
                    db.execute(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?)", values)
                    db.commit()

            yield put

    def records(self) -> Iterator[R]:
        """Yield every record, whoever wrote it."""
        with self._told(), self._open() as db:
            for (record,) in db.execute(f"SELECT record FROM {self._table}").fetchall():
                yield self._made(**json.loads(record))

    def get(self, keys: Iterable[str]) -> dict[str, R]:
        """Return the records that exist, by key."""
        wanted, found = list(keys), {}
        with self._told(), self._open() as db:
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ", ".join("?" * len(part))
                query = f"SELECT key, record FROM {self._table} WHERE key IN ({marks})"
                for key, record in db.execute(query, part):
                    found[key] = self._made(**json.loads(record))
        return found


def reflection_store(file: Path) -> RecordStore[Reflection]:
    """Return the store of reflections that a file holds."""
    return RecordStore(
        file,
        "reflections",
        Reflection.of_fields,
        "every reflection is asked of the teacher, and paid for, again",
    )
