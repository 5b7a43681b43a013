"""Two promotions at the same moment, in two processes: one wins, the other meets the winner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tbr_lightning import promote
from tbr_lightning.registry.audit import audit

from ..conftest import ROOT, environment, put_store
from ..support import made


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
    promote.run(made.config(folder, uris[90], "gate.max_false_refusal=1"))
    return folder, uris


@pytest.mark.parametrize(
    ("order", "codes", "actions", "champion"),
    [
        ((50, 10), (0, 0), ["baseline", "promote", "promote"], "3"),
        ((10, 50), (0, 3), ["baseline", "promote", "refuse"], "2"),
    ],
)
def test_one_wins_and_the_other_is_told_and_meets_it(
    template: tuple[Path, dict[int, str]],
    tmp_path: Path,
    order: tuple[int, int],
    codes: tuple[int, int],
    actions: list[str],
    champion: str,
) -> None:
    source, uris = template
    folder = made.copied(source, tmp_path)
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.registry.race_driver", folder, uris[refused], me],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me, refused in zip(("first", "second"), order, strict=True)
    ]
    (_, first), (second_said, second) = [racer.communicate(timeout=300) for racer in racers]
    assert tuple(racer.returncode for racer in racers) == codes, (first, second)
    assert "meanwhile" not in first
    registry = made.registry(folder)
    entries = registry.ledger.entries(made.NAME)
    winner = entries[1].version
    assert f"another promotion made version {winner} champion meanwhile: comparing" in second
    assert f"against champion v{winner}" in second_said
    assert [entry.action for entry in entries] == ["promote", *actions[1:]]
    assert audit(registry).problems == ()
    assert (registry.ledger.entries(made.NAME)[-1].moves.get("champion") is None) == (codes[1] == 3)
