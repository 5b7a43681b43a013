"""The ledger: an append-only table of who moved which alias, when, why, on what evidence.

It is the truth, and MLflow's aliases are made of it: those have no compare-and-swap, whereas here
(model, seq) is unique, so of two who append after the same entry one succeeds. Each entry is signed
and names the hash of the one before, so write access to the table is not enough to forge one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DatabaseError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.errors import UserError, disk_full
from tbr_lightning.registry.entry import BEGIN, Entry, NewEntry, broken_link, who
from tbr_lightning.registry.rollback_protection import put_back, remember
from tbr_lightning.tracking.signing import Keys

_WAIT = 60  # seconds to wait for another's lock
_SQLITE, _POSTGRES = "sqlite", "postgresql"

TABLE = sql.Table(
    "tbr_ledger",
    sql.MetaData(),
    sql.Column("model", sql.String(255), primary_key=True),
    sql.Column("seq", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("at", sql.String(40), nullable=False),
    sql.Column("who", sql.Text, nullable=False),
    sql.Column("action", sql.String(40), nullable=False),
    sql.Column("version", sql.String(20), nullable=False),
    sql.Column("moves", sql.JSON, nullable=False),
    sql.Column("why", sql.Text, nullable=False),
    sql.Column("evidence", sql.JSON, nullable=False),
    sql.Column("weights", sql.JSON, nullable=False),
    sql.Column("prev_hash", sql.String(64), nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
    sql.Column("signature", sql.Text, nullable=False, server_default=""),
)


class ConflictError(Exception):
    """Another process has appended first."""


def now() -> str:
    """Return the current time in the format of entries."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def ledger_url(tracking: TrackingConfig) -> str:
    """Return where the ledger of a store is: ``tracking.ledger``, or else beside the store.

    That is ``ledger.db`` beside an SQLite store and for a tracking server in the working folder,
    and the store's own database where that is PostgreSQL.
    """
    if tracking.ledger:
        return tracking.ledger
    if tracking.uri.startswith("sqlite:///"):
        file = Path(tracking.uri.removeprefix("sqlite:///"))
        return f"sqlite:///{file.with_name('ledger.db')}"
    return tracking.uri if tracking.uri.startswith(_POSTGRES) else "sqlite:///ledger.db"


class Ledger:
    """A ledger that several processes and machines may share.

    Attributes:
        shown: URL of the ledger, without a password.
    """

    def __init__(self, url: str, keys: Keys, *, write: bool = True) -> None:
        """Open a ledger.

        Args:
            url: URL of the database.
            keys: Keys that sign entries, and whose signatures count.
            write: Whether to append; the table is created if it is new.

        Raises:
            UserError: The URL is not valid, or the database cannot be used.
        """
        self._url = _parsed(url, write=write)
        self._keys = keys
        self.shown = self._url.render_as_string(hide_password=True)
        # Without who asks: who writes and who only reads have roles of their own.
        self._place = sql.URL.create(
            self._url.drivername,
            host=self._url.host,
            port=self._url.port,
            database=self._url.database,
        ).render_as_string()
        try:
            # NullPool: nothing stays open between commands, and nothing is shared by a fork.
            self._engine = sql.create_engine(self._url, poolclass=NullPool, **self._options())
            if self._url.get_backend_name() == _SQLITE:
                sql.event.listen(self._engine, "connect", _plain_sqlite)
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise UserError(
                f"tracking.ledger={self.shown} needs the package psycopg: "
                "pip install 'tbr-lightning[postgres]'"
            ) from error
        if write:
            with self._told():
                self._create()

    def entries(self, model: str) -> list[Entry]:
        """Return all entries of a model, the oldest first."""
        there = self._columns()
        if not there:
            return []
        query = sql.select(*[column for column in TABLE.c if column.name in there])
        query = query.where(TABLE.c.model == model).order_by(TABLE.c.seq)
        with self._told(), self._engine.connect() as connection:
            return [_entry(dict(row)) for row in connection.execute(query).mappings()]

    def problem(self, entries: Sequence[Entry]) -> str | None:
        """Return a sentence on the first entry that no trusted author wrote like this, or ``None``.

        Entries from before the first signed one may be unsigned, see :func:`unsigned`, unless a
        file of public keys was named.
        """
        if told := broken_link(entries):
            return told
        signed = self._keys.required
        for entry in entries:
            if entry.signature:
                signed = True
                if told := self._keys.problem(entry.statement(), entry.signature):
                    return f"{entry.name} {told}"
            elif signed:
                return f"{entry.name} carries no signature: something else has written it"
        return None

    def put_back(self, model: str, entries: Sequence[Entry]) -> str | None:
        """Return a sentence if entries that were written from here are gone, or ``None``."""
        return put_back(self._keys, self._place, model, entries)

    def append(self, model: str, draft: NewEntry, after: Entry | None) -> Entry:
        """Append a decision after the entry that it is based on.

        Raises:
            ConflictError: Another entry follows that one already.
        """
        entry = Entry(
            model=model,
            seq=after.seq + 1 if after else 1,
            at=now(),
            who=who(),
            action=draft.action,
            version=draft.version,
            moves=dict(draft.moves),
            why=draft.why,
            evidence=list(draft.evidence),
            weights=dict(draft.weights),
            prev_hash=after.hash if after else BEGIN,
        )
        entry = replace(entry, hash=entry.digest())
        entry = replace(entry, signature=self._keys.sign(entry.statement()))
        with self._told():
            try:
                with self._engine.begin() as connection:
                    connection.execute(sql.insert(TABLE).values(**asdict(entry)))
            except IntegrityError as error:
                raise ConflictError from error
        remember(self._keys, self._place, entry)
        return entry

    @contextmanager
    def alone(self, model: str) -> Iterator[None]:
        """Lock other processes out while the aliases follow the ledger; ends with the process too.

        Within it entries can be read and not written.
        """
        with self._told(), self._engine.connect() as connection:
            if self._url.get_backend_name() == _SQLITE:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                number = int.from_bytes(hashlib.sha256(model.encode()).digest()[:8], signed=True)
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT}s'")
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(number)))
            yield

    def _columns(self) -> set[str]:
        """Return the table's columns: none before it is made, and no signature in an old one."""
        if self._url.get_backend_name() == _SQLITE and not Path(str(self._url.database)).exists():
            return set()
        with self._told():
            inspector = sql.inspect(self._engine)
            if not inspector.has_table(TABLE.name):
                return set()
            return {str(column["name"]) for column in inspector.get_columns(TABLE.name)}

    def _options(self) -> dict[str, Any]:
        if self._url.get_backend_name() == _SQLITE:
            return {"connect_args": {"timeout": _WAIT}}
        # With a database of encoding SQL_ASCII the driver would otherwise return bytes.
        return {"connect_args": {"connect_timeout": 10, "client_encoding": "utf8"}}

    def _create(self) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(CreateTable(TABLE, if_not_exists=True))
        except DatabaseError:
            # Of two who make it at once PostgreSQL lets one fail, with one error or another.
            if not sql.inspect(self._engine).has_table(TABLE.name):
                raise
        if "signature" in self._columns():
            return
        try:  # a ledger of an earlier version
            with self._engine.begin() as connection:
                connection.exec_driver_sql(
                    f"ALTER TABLE {TABLE.name} ADD COLUMN signature TEXT NOT NULL DEFAULT ''"
                )
        except DatabaseError:
            if "signature" not in self._columns():
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, ValueError, TypeError, KeyError) as error:
            told = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
            raise UserError(
                disk_full(error)
                or f"tracking.ledger={self.shown} cannot be used: {told}: restore it from a backup "
                "or make it reachable; without it the aliases cannot be verified, see 'begin a new "
                "ledger' in docs/registry.md"
            ) from error


def _parsed(text: str, *, write: bool) -> sql.URL:
    try:
        url = sql.make_url(text)
    except sql.exc.ArgumentError:
        url = None
    form = "give sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    if url is None or url.get_backend_name() not in (_SQLITE, _POSTGRES):
        kind = url.get_backend_name() if url else "it"
        raise UserError(f"tracking.ledger: {kind} is not a supported database: {form}")
    if url.get_backend_name() == _POSTGRES:
        return url.set(drivername="postgresql+psycopg")
    if url.database in (None, "", ":memory:"):
        raise UserError(f"tracking.ledger={text} names no file: {form}")
    file = Path(url.database).absolute()
    if not file.parent.is_dir():
        raise UserError(f"tracking.ledger: the folder {file.parent} does not exist: create it")
    if write and not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"tracking.ledger: no permission to write {file}: give another file")
    return url.set(database=str(file))


def _plain_sqlite(connection: Any, _: Any) -> None:
    """Leave transactions to us: the driver would begin none for a lock.

    The journal stays SQLite's default, which unlike WAL also works on a shared disk.
    """
    connection.isolation_level = None


def unsigned(entries: Sequence[Entry]) -> int:
    """Return how many entries, from the first on, carry no signature."""
    signed = (number for number, entry in enumerate(entries) if entry.signature)
    return next(signed, len(entries))


def _entry(row: dict[str, Any]) -> Entry:
    moves = {alias: (before, after) for alias, (before, after) in row.pop("moves").items()}
    return Entry(moves=moves, **row)
