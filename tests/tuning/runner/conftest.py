from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).resolve().parents[2] / "support"

STUDY = """
space: {{how: {{choices: [{how}]}}, x: {{low: 0.0, high: 1.0}}}}
objectives: {{x: minimize}}
sampler: {sampler}
trials: {trials}
{more}
"""


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that runs cheap trials."""
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    import cheap_sweep

    return cheap_sweep


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a study of cheap trials."""

    def written(
        how: str = "good", trials: int = 3, sampler: str = "random", more: str = ""
    ) -> Path:
        file = tmp_path / "cheap.yaml"
        file.write_text(STUDY.format(how=how, trials=trials, sampler=sampler, more=more))
        return file

    return written


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(cheap: Any, tmp_path: Path) -> Iterator[Start]:
    """Start a runner as a program in a process group of its own."""
    begun: list[subprocess.Popen[str]] = []

    def started(
        file: Path, storage: str, workers: int = 1, grace: int = 60, seconds: float = 0.05
    ) -> subprocess.Popen[str]:
        words = [str(file), storage, str(tmp_path / "runs"), str(workers), str(grace)]
        begun.append(
            subprocess.Popen(
                [sys.executable, str(SUPPORT / "cheap_main.py"), *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "CHEAP_SECONDS": str(seconds)},
            )
        )
        return begun[-1]

    yield started
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a runner found, once it has ended."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what becomes true."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)
    return found


def times(runs: Path) -> dict[int, list[int]]:
    """Return the processes of each trial that was run, by its number."""
    return {
        int(file.parent.name): [int(line) for line in file.read_text().split()]
        for file in runs.glob("sweeps/*/*/times")
    }


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
    except OSError:
        return False
