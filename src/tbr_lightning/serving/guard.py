"""A process between server and engine that ends the engine when the server is gone.

The server holds the other end of this process's standard input. However the server ends, killed
included, the system closes that end, and the engine's process group is ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

_GRACE = 2.0  # seconds between SIGTERM and SIGKILL


def main(command: Sequence[str]) -> int:
    """Run a command until it ends or standard input does; the first line names its process."""
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    print(f"pid {engine.pid}", flush=True)
    threading.Thread(target=_end_with_stdin, args=(engine,), daemon=True).start()
    code = engine.wait()
    _signal(engine.pid, signal.SIGKILL)  # what it started itself
    return code if code >= 0 else 128 - code


def _end_with_stdin(engine: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    _signal(engine.pid, signal.SIGTERM)
    try:
        engine.wait(_GRACE)
    except subprocess.TimeoutExpired:
        _signal(engine.pid, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
