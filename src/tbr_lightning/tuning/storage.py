"""Optuna's storage of a study: opened, locked, and compared with the file as it is now."""

from __future__ import annotations

import fcntl
import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from tbr_lightning.credentials import without_credentials
from tbr_lightning.errors import UserError, first_line
from tbr_lightning.tuning.sampling import make_pruner
from tbr_lightning.tuning.study import IDENTITY, Study

_BUSY = 120  # seconds that SQLite waits for another process's write
_CONNECT = 10  # seconds that PostgreSQL has to answer


@dataclass(frozen=True)
class Opened:
    """A study in its storage."""

    study: optuna.Study
    backend: RDBStorage  # its storage, without Optuna's cache
    key: str  # name in the storage
    url: str  # URL of the storage

    @property
    def id(self) -> int:
        """Id of the study in the storage."""
        found: int = self.backend.get_study_id_from_name(self.key)
        return found

    def locked(self, what: str = "", *, wait: bool = True) -> AbstractContextManager[bool]:
        """Lock the study, or something of it, against all runners on all hosts.

        Args:
            what: Name of the lock; different names do not wait for each other.
            wait: Whether to wait until the lock is free; otherwise it is only tried.

        Returns:
            A context that yields whether the lock is held. If its holder dies, it is free at once.
        """
        return _alone(self.url, self.key, what, wait=wait)

    def silence(self, trial_id: int) -> float:
        """Return the seconds since a trial's last heartbeat, by the storage's clock; 0 if none."""
        with Session(self.backend.engine) as session:
            beat = TrialHeartbeatModel.where_trial_id(trial_id, session)
            now = session.execute(sqlalchemy.func.now()).scalar_one()
            if beat is None:
                return 0.0
            return float((now.replace(tzinfo=None) - beat.heartbeat).total_seconds())

    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        return dict(Counter(trial.state.name for trial in self.study.get_trials(deepcopy=False)))


@contextmanager
def _alone(url: str, key: str, what: str, *, wait: bool) -> Iterator[bool]:
    if url.startswith("sqlite"):
        with Path(f"{_sqlite_file(url)}{what and '.'}{what}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        return
    number = int.from_bytes(hashlib.sha256(f"{key}{what}".encode()).digest()[:8], signed=True)
    engine = sqlalchemy.create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": _CONNECT},
    )
    # Held by the connection, and so let go when it closes, however this process ends.
    with engine.connect() as connection:
        if wait:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({number})"))
            yield True
        else:
            yield bool(connection.scalar(sqlalchemy.text(f"SELECT pg_try_advisory_lock({number})")))


def _connect(url: str, kind: str, grace: float) -> RDBStorage:
    """Connect to a storage, making its tables if there are none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    # The runner beats by itself: Optuna does only within Study.optimize.
    warnings.filterwarnings("ignore", ".*Heartbeat of storage is supposed.*")
    arguments: dict[str, Any] = {"connect_timeout": _CONNECT}
    if kind == "sqlite":
        arguments = {"timeout": _BUSY}
        Path(_sqlite_file(url)).absolute().parent.mkdir(parents=True, exist_ok=True)
    with _alone(url, "", "", wait=True):  # two runners at once would both make the tables
        storage = RDBStorage(
            url,
            engine_kwargs={"connect_args": arguments, "pool_pre_ping": True},
            heartbeat_interval=max(1, round(grace / 6)),
            grace_period=max(2, round(grace)),
        )
    if kind == "sqlite":
        _share(storage.engine)
    return storage


def _share(engine: Any) -> None:
    """Let several processes use one SQLite file: writers queue, and do not wait for readers."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        # The driver's own BEGIN comes with the first write, which fails where another one was
        # faster since the first read.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @sqlalchemy.event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()


def _sqlite_file(url: str) -> str:
    found = make_url(url).database
    return "" if found in (None, ":memory:") else str(found)


def _reason(error: BaseException) -> str:
    """Return the driver's first words, without SQLAlchemy's frame and without a password."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    first = first_line(error, None)
    if isinstance(error, ModuleNotFoundError):
        first = f"{first}: pip install 'tbr-lightning[postgres]'"
    return str(without_credentials({"reason": first.strip()})["reason"])


def open_study(study: Study, url: str, *, grace: float = 60, new: bool = False) -> Opened:
    """Create a study in the storage, or load the existing one.

    Args:
        study: Study as its file describes it now.
        url: URL of the storage.
        grace: Seconds without a heartbeat after which a trial's runner counts as dead.
        new: Whether to begin beside an unfinished study of the same name and other content.

    Raises:
        UserError: The storage cannot be used, or the file was changed under an unfinished study.
    """
    shown = without_credentials({"storage": url})["storage"]
    forms = "give sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    try:
        kind = make_url(url).get_backend_name()
    except ArgumentError as error:
        raise UserError(f"storage='{shown}' is not a URL: {forms}") from error
    if kind not in ("sqlite", "postgresql") or (kind == "sqlite" and not _sqlite_file(url)):
        raise UserError(f"storage='{shown}' is not supported: {forms}")
    try:
        storage = _connect(url, kind, grace)
        names = optuna.get_all_study_names(storage)
        if study.key not in names and not new:
            _refuse_changed(study, storage, names)
        opened = optuna.create_study(
            storage=storage,
            study_name=study.key,
            directions=list(study.objectives.values()),
            pruner=make_pruner(study.pruner),
            load_if_exists=True,
        )
        there = opened.user_attrs
        for key, value in {
            "name": study.name,
            "about": study.about,
            "settings": json.loads(json.dumps(dict(study.settings), default=str)),
            "objectives": list(study.objectives),
        }.items():
            if there.get(key) != value:
                opened.set_user_attr(key, value)
        if there.get("metric_names") is None:
            opened.set_metric_names(list(study.objectives))
    except UserError:
        raise
    except Exception as error:  # SQLAlchemy's and the drivers' many kinds
        raise UserError(
            f"storage='{shown}' cannot be used: {_reason(error)}: make it reachable or restore it, "
            "or give another; without it the study's trials are run again"
        ) from error
    return Opened(opened, storage, study.key, url)


def _refuse_changed(study: Study, storage: RDBStorage, names: list[str]) -> None:
    """Refuse to begin while a study that the file described before it was changed is unfinished."""
    for name in names:
        if name.rpartition("-")[0] != study.name:
            continue
        there = optuna.load_study(study_name=name, storage=storage)
        attributes, states = there.user_attrs, [t.state for t in there.get_trials(deepcopy=False)]
        before = attributes.get("settings")
        if attributes.get("name") != study.name or not isinstance(before, dict):
            continue
        if not states or attributes.get("finished"):
            continue
        done = sum(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states)
        raise UserError(
            f"study='{study.name}': its file was changed after an unfinished study with {done} "
            f"finished trials began: {_changes(before, study)}: restore the file to resume, save "
            "it under another name, or give sweep.new=true to begin another study"
        )


def _changes(before: Mapping[str, Any], study: Study) -> str:
    was = _flat({key: value for key, value in before.items() if key in IDENTITY})
    now = _flat(json.loads(json.dumps(study.identity, default=str)))
    told = [
        f"{key} was {was.get(key, 'absent')} and is {now.get(key, 'absent')}"
        for key in sorted({*was, *now})
        if was.get(key) != now.get(key)
    ]
    more = f" (and {len(told) - 2} more)" if len(told) > 2 else ""
    return "; ".join(told[:2]) + more


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings; a key may hold dots of its own."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}: ") if isinstance(value, Mapping) else {name: value}
    return found
