from __future__ import annotations

import re
from pathlib import Path

import pytest

from tbr_lightning import cli

from ..support.trajectories import Train, Trajectory, trajectory

BASE = [
    "model.scale=tiny",
    "model.init=random",
    "model.tokenizer=bytes",
    "data=microworld",
    "data.general=28",
    "data.harmful=20",
    "reflection=external",
    "trainer.epochs=2",
    "trainer.max_steps=10",
    "optimizer.lr=3e-3",
    "trainer.threads=1",
]
"""Six steps of 8 rows an epoch: the second epoch is begun and not ended."""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Train:
    """Drive ``train`` through its entry point, and return what it logged of every step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*words: str) -> Trajectory:
        assert cli.main("train", [*BASE, *words]) == 0, capfd.readouterr().err
        run_id = re.search(r"^run (\w+)$", capfd.readouterr().out, re.MULTILINE)
        assert run_id is not None
        return trajectory(tmp_path, run_id[1])

    return run
