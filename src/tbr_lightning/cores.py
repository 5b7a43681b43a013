"""How many cores this process may use."""

from __future__ import annotations

import os

import psutil


def cores() -> int:
    """Return the physical cores that this process may use, where the system tells them."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    # A container or a scheduler may have left it fewer than the machine has.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return min(physical, allowed)
