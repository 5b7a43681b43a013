"""An engine does not outlive its server, however that ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

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
def test_the_engine_ends_with_a_server_that_is_killed(end: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "guard = subprocess.Popen([sys.executable, '-m', 'tbr_lightning.serving.supervisor', "
            "*sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
            "print(guard.stdout.readline().decode(), flush=True)\n"
            "time.sleep(300)",
            str(tmp_path / "home"),
            *ENGINE,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(server.stdout.readline().split()[1])
    end_of_starting = time.monotonic() + 30
    while not psutil.Process(pid).children(recursive=True):  # the engine's own
        assert time.monotonic() < end_of_starting
        time.sleep(0.05)
    everyone = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    assert len(everyone) > 1
    server.send_signal(end)
    server.wait(10)
    assert all(gone(one) for one in everyone)
    end_of_waiting = time.monotonic() + 10
    while (tmp_path / "home").exists():
        assert time.monotonic() < end_of_waiting
        time.sleep(0.05)


def test_the_guard_reports_how_the_engine_ended(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    words = [str(tmp_path / "home"), "sh", "-c", "echo out; kill -9 $$"]
    done = subprocess.run(
        [sys.executable, "-m", "tbr_lightning.serving.supervisor", *words],
        input="stop",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode in (137, 143)  # killed by itself, or ended as the server went first
    assert re.search(r"^pid \d+$", done.stdout, re.MULTILINE)
    assert "out\n" in done.stdout
    assert (tmp_path / "home").exists()  # the server said that it goes on, or cleans up itself
