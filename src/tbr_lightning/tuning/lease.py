"""What only one of several runners of a study may do, told through the study's attributes."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import optuna

from tbr_lightning.tuning.process_identity import Owner, identity_of, read_owner

Alone = Callable[[], AbstractContextManager[None]]
"""Holds a study alone among all its runners, for a moment."""

_SETTLED = 0.5  # seconds after which two that wrote at once see the same word
_BEAT = 20.0  # seconds between two signs of life
_SILENT = 90.0  # seconds of silence after which a process on another machine counts as dead


def take(storage_study: optuna.Study, key: str, alone: Alone | None = None) -> Owner | None:
    """Take what an attribute of the study stands for; a process that died has nothing.

    Optuna's storages write attributes without comparing. Where nothing holds the study alone, of
    several that write at once the last one's word stays, and each reads it again a moment later.

    Returns:
        ``None`` if this process has it now, else who has it.
    """
    token = uuid.uuid4().hex
    if alone is not None:
        with alone():
            other = _holder(storage_study, key)
            if other is None:
                _sign(storage_study, key, token)
            return other
    other = _holder(storage_study, key)
    if other is not None:
        return other
    _sign(storage_study, key, token)
    time.sleep(_SETTLED)
    there = storage_study.user_attrs.get(key)
    if isinstance(there, dict) and there.get("token") == token:
        return None
    return _holder(storage_study, key)


@contextmanager
def turn(
    storage_study: optuna.Study, key: str, alone: Alone | None = None
) -> Iterator[Owner | None]:
    """Take a turn at something that takes long, and keep it until the block ends.

    Yields:
        ``None`` if it is this process's turn, else whose it is.
    """
    other = take(storage_study, key, alone)
    if other is not None:
        yield other
        return
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT):
            _sign(storage_study, key)

    thread = threading.Thread(target=beat, name=f"beat of {key}", daemon=True)
    thread.start()
    try:
        yield None
    finally:
        done.set()
        thread.join()
        storage_study.set_user_attr(key, None)


def _sign(storage_study: optuna.Study, key: str, token: str = "") -> None:
    sign = {"owner": identity_of().as_dict(), "token": token, "time": time.time()}
    storage_study.set_user_attr(key, sign)


def _holder(storage_study: optuna.Study, key: str) -> Owner | None:
    """Return which other process has it, if that one lives."""
    there = storage_study.user_attrs.get(key)
    owner = read_owner(there.get("owner")) if isinstance(there, dict) else None
    if owner is None or owner == identity_of() or owner.known_dead():
        return None
    return None if time.time() - there["time"] > _SILENT else owner
