"""Which process holds something, told so exactly that another one knows at once when it is dead."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from tbr_lightning.processes import is_gone


@dataclass(frozen=True)
class Owner:
    """A process."""

    host: str  # name, for people
    machine: str  # boot and process namespace, within which a process id has one meaning
    pid: int  # process id
    started: float  # when it started, since ids are used again

    def known_dead(self) -> bool:
        """Return whether it is surely gone; of a process on another machine nothing is sure."""
        return self.machine == _machine() and is_gone(self.pid, self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def identity_of(pid: int | None = None) -> Owner:
    """Return a process of this machine: this one, or another."""
    there = psutil.Process(pid)
    return Owner(platform.node(), _machine(), there.pid, there.create_time())


def read_owner(found: Any) -> Owner | None:
    """Return what :func:`dataclasses.asdict` made of one, or ``None``."""
    return Owner(**found) if isinstance(found, dict) else None


@lru_cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    try:
        return f"{boot.read_text().strip()} {namespace.readlink()}"
    except OSError:  # not Linux
        return f"{platform.node()} {psutil.boot_time():.0f}"
