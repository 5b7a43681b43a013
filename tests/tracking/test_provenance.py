from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tbr_lightning.tracking.provenance import git_state

from ..conftest import ROOT


def test_a_checkout_knows_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    monkeypatch.setenv("TBR_GIT_COMMIT", "of-an-image")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert git_state()["git.commit"] == head.stdout.strip()


def test_an_image_knows_the_commit_it_was_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TBR_GIT_COMMIT", "0" * 40)
    assert git_state(tmp_path) == {"git.commit": "0" * 40}
    monkeypatch.setenv("TBR_GIT_COMMIT", "")
    assert git_state(tmp_path) == {}
