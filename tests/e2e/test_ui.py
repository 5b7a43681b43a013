"""The MLflow UI on a store of ours, looked at in headless Chromium."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import environment, needs_command, run_verb

pytestmark = pytest.mark.e2e
# As root Chromium needs --no-sandbox; the others keep it from asking for hosts of its vendor.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[str]:
    """An MLflow server on a store with a training, an evaluation and a champion."""
    folder = tmp_path_factory.mktemp("ui")
    done = run_verb(folder, "train", "reflection=external", "run_name=train external seed 0")
    uri = re.search(r"models:/m-[0-9a-f]{32}", done.stdout)[0]
    assert run_verb(folder, "promote", f"model={uri}", "name=tbr-ui").returncode == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "mlartifacts"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words, *store],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(90):
        time.sleep(1)
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2)
            break
        except OSError:
            assert process.poll() is None
    yield url
    process.terminate()
    process.wait(timeout=60)


def test_the_pages_show_runs_answers_and_the_champion(server: str, tmp_path: Path) -> None:
    chromium = needs_command("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 860})
        page.set_default_timeout(60_000)
        page.goto(f"{server}/#/experiments/1/runs?workflowType=machine_learning")
        page.get_by_text("train external seed 0").first.wait_for()
        page.get_by_text("Think-Before-Refusal: reflection fine-tuning").first.wait_for()
        page.get_by_text("train external seed 0").first.click()
        page.get_by_text("tbr.reflection").first.wait_for()
        page.goto(f"{server}/#/models/tbr-ui")
        page.get_by_text("champion").first.wait_for()
        page.get_by_text("Version 1").first.click()
        page.get_by_text("tbr.verdict").first.wait_for()
        page.screenshot(path=tmp_path / "version.png")
        browser.close()
    assert (tmp_path / "version.png").stat().st_size > 10_000
