"""The reflections on disk: one SQLite file, each record there as soon as it exists."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tbr_lightning.data.cache import private
from tbr_lightning.errors import UserError, disk_full
from tbr_lightning.reflection.record import Reflection

_SCHEMA = "CREATE TABLE IF NOT EXISTS reflections (key TEXT PRIMARY KEY, record TEXT NOT NULL)"
_LOOKUP = 500  # keys in one query; SQLite bounds the variables of a statement


class ReflectionStore:
    """Reflections by request key; several processes may share the file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._told():
            file.parent.mkdir(parents=True, exist_ok=True)
            private(file)
            with self._open() as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute(_SCHEMA)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, ValueError, KeyError, TypeError) as error:
            if isinstance(error, OSError) and error.filename is None:
                raise  # not about a file: it comes from whoever makes the reflections
            raise UserError(
                disk_full(error)
                or f"the reflection store {self.file} cannot be used ({error}): restore it, give "
                "another folder with TBR_HOME, or delete it, and every reflection is asked of the "
                "teacher, and paid for, again"
            ) from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.file, timeout=60)) as db, db:
            # Safe against a kill of the process; a power cut may take the last few.
            db.execute("PRAGMA synchronous=NORMAL")
            yield db

    @contextmanager
    def writing(self) -> Iterator[Callable[[Reflection], None]]:
        """Hand over a function that puts a record on disk, replacing one of the same request."""
        with self._open() as db:

            def put(reflection: Reflection) -> None:
                record = (reflection.key, reflection.to_json())
                with self._told():
                    db.execute("INSERT OR REPLACE INTO reflections VALUES (?, ?)", record)
                    db.commit()

            yield put

    def about(self, ids: Container[str]) -> Iterator[tuple[str, str]]:
        """Give (instruction's id, text) of every record of some instructions, whoever wrote it."""
        with self._told(), self._open() as db:
            records = db.execute("SELECT record FROM reflections").fetchall()
        for (record,) in records:
            found = Reflection.from_json(record)
            if found.instruction_id in ids:
                yield found.instruction_id, found.draft.text

    def get(self, keys: Iterable[str]) -> dict[str, Reflection]:
        """Return the records that exist, by key."""
        wanted, found = list(keys), {}
        with self._told(), self._open() as db:
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ", ".join("?" * len(part))
                query = f"SELECT key, record FROM reflections WHERE key IN ({marks})"
                for key, record in db.execute(query, part):
                    found[key] = Reflection.from_json(record)
        return found
