"""Whatever ends a command, and when: the command that is given again loses and doubles nothing.

What a signal does between two writes of the registry is in ``tests/registry/test_crashes.py``, what
the death of a trial or of both does in ``tests/tuning/runner``; here it is verb by phase by signal.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ROOT, environment

# up to 24 commands one after the other, on cores that other tests use too
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]

# What each leaves when nobody disturbs it.
WHOLE = {
    "train": {"runs": 1, "points": 8, "models": 1},
    "reflect": {"runs": 1, "rows": 24},
    "evaluate": {"runs": 1, "rows": 24},
    "promote": {"entries": 1},
    "sweep": {"trials": 5},
}


def cells(folder: Path, verb: str) -> list[dict[str, Any]]:
    """Return what the driver found of a verb."""
    driver = subprocess.run(
        [sys.executable, "-m", "tests.e2e.kill_matrix", folder, verb],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert driver.returncode == 0, driver.stderr
    return [json.loads(line) for line in driver.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("verb", WHOLE)
def test_nothing_is_lost_or_doubled(tmp_path: Path, base_folder: Path, verb: str) -> None:
    found = cells(tmp_path / "matrix", verb)
    phases = {cell["phase"] for cell in found}
    assert {"start", "middle", "end"} <= phases
    assert len(found) == 3 * len(phases)
    for cell in found:
        assert (cell["lost"], cell["doubled"]) == (0, 0), cell
        assert not cell["traceback"], cell
        assert {key: cell[key] for key in WHOLE[verb]} == WHOLE[verb], cell
        assert cell["ended"] == (-signal.SIGKILL if cell["signal"] == "SIGKILL" else 130), cell
        # A decision that is in the ledger is carried out, and not made a second time.
        decided = verb == "promote" and cell["phase"] in ("decided", "end")
        assert cell["then"] == (2 if decided else 0), cell
        assert ("is the champion already" in cell.get("said", "")) == decided, cell
        # A request that was under way has no answer yet; what was answered is not asked again.
        assert cell.get("asked_twice", 0) <= 1, cell
