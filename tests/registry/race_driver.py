"""One of two promotions that are decided at the same moment.

``python -m tests.registry.race_driver FOLDER MODEL_URI ME OTHER`` is the verb itself, held between its
verdict and its decision until the other has a verdict too; who is called ``second`` goes on only
once the first has decided.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tbr_lightning import promote
from tbr_lightning.registry import record

from ..support import made

_LONG = 120  # seconds


def _wait(folder: Path, name: str) -> None:
    deadline = time.monotonic() + _LONG
    while not (folder / name).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        time.sleep(0.05)


def main(folder: Path, uri: str, me: str, ledger: str | None) -> int:
    other = {"first": "second", "second": "first"}[me]
    log = record.log_verdict

    def held(*args: Any) -> None:
        log(*args)
        if args[-1] > 1:  # the second attempt is held by nobody
            return
        (folder / f"{me}.judged").touch()
        _wait(folder, f"{other}.judged")
        if me == "second":
            _wait(folder, "first.done")

    record.log_verdict = held
    code = promote.command(made.config(folder, uri, ledger=ledger))
    (folder / f"{me}.done").touch()
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], (sys.argv + [None])[4]))
