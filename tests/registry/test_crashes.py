"""A command killed before any of its writes leaves what the next one completes or undoes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ..conftest import ROOT, environment, put_store
from ..support import made

pytestmark = pytest.mark.slow

BEFORE = {"previous": "1", "champion": "2"}


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """How the next command left things after each kill."""
    folder = tmp_path_factory.mktemp("made")
    put_store(folder)
    made.history(folder)
    scratch = tmp_path_factory.mktemp("killed")
    words = [sys.executable, "-m", "tests.registry.kill_driver", folder, scratch]
    driver = subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert driver.returncode == 0, driver.stderr
    return [json.loads(line) for line in driver.stdout.splitlines()]


@pytest.mark.parametrize(
    ("action", "done", "least"),
    [
        ("promote", {"previous": "2", "champion": "4"}, 8),
        ("challenge", {**BEFORE, "challenger": "4"}, 5),
        ("rollback", {**BEFORE, "previous": "2", "champion": "1"}, 6),
        ("repair", BEFORE, 4),
        ("accept", {**BEFORE, "champion": "3"}, 4),
    ],
)
def test_every_point_at_which_a_command_may_be_killed(
    points: list[dict[str, Any]], action: str, done: dict[str, str], least: int
) -> None:
    *killed, last = [one for one in points if one["action"] == action]
    assert len(killed) >= least
    assert all(one["killed"] for one in killed)
    moved_outside = action in ("repair", "accept")
    for one in killed:
        undone = one["entries"] == 3
        if undone and moved_outside:  # not begun: still to be repaired, and told
            assert one["drift"] and one["problems"] == one["drift"]
            assert one["aliases"] == {**BEFORE, "champion": "3"}
            continue
        assert (one["drift"], one["problems"]) == ([], []), one
        assert one["aliases"] == (BEFORE if undone else done), one
        assert f"Champion: version {one['aliases']['champion']}." in one["described"], one
    assert {one["entries"] for one in killed} == {3, 4}  # some before the ledger, some after
    assert not last["killed"]
    assert (last["aliases"], last["problems"]) == (done, [])
