"""Processes that end with another one."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from tbr_lightning.processes import identity_of, is_gone, start_of
from tbr_lightning.tracking import abandoned

DIES = """
import os, sys, time
from tbr_lightning.processes import die_with
die_with(int(sys.argv[1]), float(sys.argv[2]), lambda: os._exit(7))
print("watching", flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_another_that_nobody_has_waited_for() -> None:
    other = subprocess.Popen(["sleep", "60"])
    started = start_of(other.pid)
    watching = subprocess.Popen(
        [sys.executable, "-c", DIES, str(other.pid), repr(started)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "watching\n"
        assert not is_gone(other.pid, started)
        assert is_gone(other.pid, started + 1)  # the id of an earlier process
        other.kill()
        assert watching.wait(20) == 7
        assert is_gone(other.pid, started)
    finally:
        other.kill()
        watching.kill()
        other.wait()
        watching.communicate()
    assert is_gone(other.pid, started)


@pytest.mark.parametrize("step", [-3600.0, 1.0, 86_400.0])
def test_a_clock_that_is_set_ends_no_living_process(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    me, marked, boot = identity_of(), abandoned.mark(), psutil.boot_time()
    # Linux counts starts from the boot, whose date moves with the clock.
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + step)
    assert not me.known_dead()
    assert not is_gone(os.getpid(), me.started)
    assert (identity_of(), abandoned.mark()) == (me, marked)
