"""What only one of several runners of a study may do, told through the study's attributes."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna

from tbr_lightning.sweeping.owner import Owner, owner_of, read_owner

_SETTLED = 0.5  # seconds after which two that wrote at once see the same word
_BEAT = 20.0  # seconds between two signs of life
_SILENT = 90.0  # seconds of silence after which a process on another machine counts as dead


def claim(storage_study: optuna.Study, key: str, value: Any = None) -> bool:
    """Return whether this process, of all that claim a key at once, has it.

    Optuna's storages write attributes without comparing: of several writers the last one's word
    stays, so each reads it again once all have written.
    """
    mine = {"token": uuid.uuid4().hex, "value": value, "time": time.time()}
    storage_study.set_user_attr(key, mine)
    time.sleep(_SETTLED)
    there = storage_study.user_attrs.get(key)
    return isinstance(there, dict) and there.get("token") == mine["token"]


@contextmanager
def turn(storage_study: optuna.Study, key: str) -> Iterator[Owner | None]:
    """Take a turn at something that takes long, and keep it until the block ends.

    Yields:
        ``None`` if it is this process's turn, else whose it is. A process that died has none.
    """
    other = _holder(storage_study, key)
    mine = owner_of()
    if other is None and not claim(storage_study, key, mine.as_dict()):
        other = _holder(storage_study, key)
    if other is not None and other != mine:
        yield other
        return
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT):
            sign = {"value": mine.as_dict(), "time": time.time()}
            storage_study.set_user_attr(key, sign)

    thread = threading.Thread(target=beat, name=f"beat of {key}", daemon=True)
    thread.start()
    try:
        yield None
    finally:
        done.set()
        thread.join()
        storage_study.set_user_attr(key, None)


def _holder(storage_study: optuna.Study, key: str) -> Owner | None:
    there = storage_study.user_attrs.get(key)
    owner = read_owner(there.get("value")) if isinstance(there, dict) else None
    if owner is None or owner.known_dead() or time.time() - there["time"] > _SILENT:
        return None
    return owner
