"""Two promotions at the same moment, in two processes: one wins, the other meets the winner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tbr_lightning.registry import pipeline
from tbr_lightning.registry.audit import audit

from ..conftest import ROOT, environment, put_store
from ..support import made

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """A champion that refuses 90 look-alikes, and models that refuse 10 and 50, all evaluated."""
    folder = tmp_path_factory.mktemp("made")
    put_store(folder)
    uris = {}
    for refused in (90, 50, 10):
        logged = made.model(folder, f"refuses {refused}")
        made.evaluation(folder, logged, made.answers(refused=refused))
        uris[refused] = logged.uri
    pipeline.run(made.config(folder, uris[90], "gate.max_false_refusal=1"))
    return folder, uris


@pytest.mark.parametrize(
    ("order", "codes", "last"),
    [((50, 10), [0, 0], "promote"), ((10, 50), [0, 3], "refuse")],
)
def test_one_wins_and_the_other_is_told_and_meets_it(
    template: tuple[Path, dict[int, str]],
    tmp_path: Path,
    order: tuple[int, int],
    codes: list[int],
    last: str,
) -> None:
    source, uris = template
    folder = made.copied(source, tmp_path)
    words = [folder, *(uris[refused] for refused in order)]
    driver = subprocess.run(
        [sys.executable, "-m", "tests.registry.race_driver", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert driver.returncode == 0, driver.stderr
    found = json.loads(driver.stdout)
    first, second = found["said"]
    assert found["codes"] == codes, found["said"]
    assert "meanwhile" not in first
    registry = made.registry(folder)
    entries = registry.ledger.entries(made.NAME)
    assert [entry.action for entry in entries] == ["promote", "promote", last]
    winner = entries[1].version
    assert f"another promotion made version {winner} champion meanwhile: comparing" in second
    assert f"against champion v{winner}" in second
    assert entries[2].moves.get("champion") == (
        (winner, entries[2].version) if last == "promote" else None
    )
    assert audit(registry).problems == ()
