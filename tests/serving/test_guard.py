"""An engine does not outlive its server, however that ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

# A shell that ignores SIGTERM, with a child of its own.
ENGINE = ["sh", "-c", "trap '' TERM; sleep 300 & wait; sleep 300"]


def gone(pid: int, seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_engine_ends_with_a_server_that_is_killed(end: signal.Signals) -> None:
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "guard = subprocess.Popen([sys.executable, '-m', 'tbr_lightning.serving.guard', "
            "*sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
            "print(guard.stdout.readline().decode(), flush=True)\n"
            "time.sleep(300)",
            *ENGINE,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(server.stdout.readline().split()[1])
    time.sleep(0.3)
    everyone = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    assert len(everyone) > 1
    server.send_signal(end)
    server.wait(10)
    assert all(gone(one) for one in everyone)


def test_the_guard_reports_how_the_engine_ended() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tbr_lightning.serving.guard", "sh", "-c", "echo out; kill -9 $$"],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 137
    assert re.search(r"^pid \d+$", done.stdout, re.MULTILINE)
    assert "out\n" in done.stdout
