"""Two promotions that are decided at the same moment, each the verb itself in its own process.

``python -m tests.registry.race_driver FOLDER FIRST_URI SECOND_URI`` holds both between verdict and
decision until both have a verdict; the second then goes on once the first has decided. It prints
exit codes and outputs as JSON. The processes are forked, since importing takes most of the time.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tbr_lightning.registry import record

from ..support import made

# By name: the package's attribute promote is the function of the Python API.
promote = importlib.import_module("tbr_lightning.promote")
_LONG = 240  # seconds


def _wait(file: Path) -> None:
    deadline = time.monotonic() + _LONG
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(file)
        time.sleep(0.02)


def race(folder: Path, uri: str, me: str, other: str) -> int:
    """Promote as one of the two."""
    log = record.log_verdict

    def held(*args: Any, **named: Any) -> None:
        log(*args, **named)
        if named["attempt"] == 1:  # a second attempt is held by nobody
            (folder / f"{me}.judged").touch()
            _wait(folder / f"{other}.judged")
            if me == "second":
                _wait(folder / "first.done")

    record.log_verdict = held
    code = promote.command(made.config(folder, uri))
    (folder / f"{me}.done").touch()
    return code


def forked(work: Callable[[], int], output: Path) -> int:
    """Run work in a process of its own, with what it says in a file; return the process' id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        to = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(to, 1)
        os.dup2(to, 2)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main(folder: Path, first: str, second: str) -> None:
    """Run both, and print what came of each."""
    racers = []
    for me, other, uri in (("first", "second", first), ("second", "first", second)):
        said = folder / f"{me}.said"
        child = forked(lambda m=me, o=other, u=uri: race(folder, u, m, o), said)  # type: ignore[misc]
        racers.append((child, said))
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in racers]
    print(json.dumps({"codes": codes, "said": [said.read_text() for _, said in racers]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
