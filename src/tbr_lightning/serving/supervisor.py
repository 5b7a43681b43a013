"""A process between server and engine that ends the engine when the server is gone.

The server holds the other end of this process's standard input. However the server ends, killed
included, the system closes that end, and the engine's process group is ended. A server that ends
in order sends a message first; if it was killed, the engine's folder is removed, too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

_GRACE = 2.0  # seconds between SIGTERM and SIGKILL


def main(folder: str, command: Sequence[str]) -> int:
    """Run a command until it ends or standard input does; the first line names its process."""
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    os.write(1, f"pid {engine.pid}\n".encode())  # whole, for the engine writes there too
    said = bytearray()
    watching = threading.Thread(target=_end_with_stdin, args=(engine, said), daemon=True)
    watching.start()
    code = engine.wait()
    _signal(engine.pid, signal.SIGKILL)  # what it started itself
    watching.join(_GRACE / 4)  # is the server gone as well?
    if not watching.is_alive() and not said:
        shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _end_with_stdin(engine: subprocess.Popen[bytes], said: bytearray) -> None:
    while word := os.read(0, 1024):
        said += word
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
    sys.exit(main(sys.argv[1], sys.argv[2:]))
