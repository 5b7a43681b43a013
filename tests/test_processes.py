"""Processes that end with another one."""

from __future__ import annotations

import subprocess
import sys

import psutil

from tbr_lightning.processes import is_gone

DIES = """
import os, sys, time
from tbr_lightning.processes import die_with
die_with(int(sys.argv[1]), float(sys.argv[2]), lambda: os._exit(7))
print("watching", flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_another_that_nobody_has_waited_for() -> None:
    other = subprocess.Popen(["sleep", "60"])
    started = psutil.Process(other.pid).create_time()
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
