"""``make docs`` builds in strict mode: links, anchors, docstrings, nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from ..conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("zensical", "mkdocstrings")),
    reason="the extra docs (zensical, mkdocstrings) is not installed",
)
def test_the_site_builds_in_strict_mode() -> None:
    done = subprocess.run(
        [sys.executable, "docs/tools/site_build.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = ROOT / "site"
    home = (site / "index.html").read_text("utf-8")
    assert "Think-Before-Refusal" in home
    assert (site / "images" / "demo.png").is_file()
    api = (site / "reference" / "python.html").read_text("utf-8")
    assert "tbr_lightning.api.train" in api
    assert "tbr_lightning.objectives.objective.Objective.loss" in api
    settings = (site / "reference" / "settings.html").read_text("utf-8")
    assert 'id="trainer"' in settings
    assert "<td><code>max_steps</code></td>" in settings
