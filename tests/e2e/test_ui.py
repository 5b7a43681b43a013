"""The MLflow UI on a store of ours, looked at in headless Chromium."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow.tracking import MlflowClient

from ..conftest import Tuned, call_verb, environment, needs_command

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
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
def server(tmp_path_factory: pytest.TempPathFactory, tuned: Tuned) -> Iterator[str]:
    """An MLflow server on a store with a training, a champion, and its comparison with the base."""
    folder = tmp_path_factory.mktemp("ui")
    tuned.copy_to(folder)
    promoted = call_verb(folder, "promote", f"model={tuned.uri}", "name=tbr-ui")
    assert promoted.returncode == 0, promoted.stderr
    few = ("suite=smoke", "suite.limit=10", "traces=5")
    done = call_verb(folder, "evaluate", "model=[tiny,models:/tbr-ui@champion]", *few)
    assert done.returncode == 0, done.stderr
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
    else:
        process.kill()
        pytest.fail("the server did not come within 90 s")
    yield url
    process.terminate()
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: TBR_SCREENSHOTS, or pytest's own folder."""
    folder = Path(os.environ.get("TBR_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Page]:
    chromium = needs_command("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 860})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def kept(page: Page, file: Path) -> None:
    page.screenshot(path=file)
    assert file.stat().st_size > 10_000


def evaluated(server: str, name: str) -> str:
    """Return the id of the only run whose name has this part."""
    client = MlflowClient(server, registry_uri=server)
    (run,) = client.search_runs(["1"], f"attributes.run_name LIKE '%{name}%'")
    return str(run.info.run_id)


def test_the_experiment_and_a_run(server: str, page: Page, shots: Path) -> None:
    page.goto(f"{server}/#/experiments/1/runs?workflowType=machine_learning")
    page.get_by_text("train external seed 3").first.wait_for()
    page.get_by_text("Think-Before-Refusal: reflection fine-tuning").first.wait_for()
    kept(page, shots / "experiment.png")
    page.get_by_text("train external seed 3").first.click()
    page.get_by_text("tbr.reflection").first.wait_for()
    kept(page, shots / "run.png")


def test_the_registered_model_and_its_alias(server: str, page: Page, shots: Path) -> None:
    page.goto(f"{server}/#/models/tbr-ui")
    page.get_by_text("champion").first.wait_for()
    kept(page, shots / "model.png")
    page.get_by_text("Version 1").first.click()
    page.get_by_text("tbr.verdict").first.wait_for()
    kept(page, shots / "version.png")


def test_the_models_page_has_the_evaluations_numbers(server: str, page: Page, shots: Path) -> None:
    client = MlflowClient(server, registry_uri=server)
    version = client.get_model_version_by_alias("tbr-ui", "champion")
    model_id = version.model_id or version.source.removeprefix("models:/")
    page.goto(f"{server}/#/experiments/1/models/{model_id}")
    page.get_by_text("false_refusal_rate").first.wait_for()
    kept(page, shots / "logged-model.png")


def test_the_prompts_with_their_verdicts(server: str, page: Page, shots: Path) -> None:
    run_id = evaluated(server, "evaluate untuned (tiny)")
    page.goto(f"{server}/#/experiments/1/runs/{run_id}/artifacts/responses.json")
    page.get_by_text("full_compliance").first.wait_for()
    for heading in ("label", "prompt", "reflection", "answer", "because"):
        page.get_by_text(heading, exact=True).first.wait_for()
    kept(page, shots / "responses.png")


def test_traces_are_filtered_by_their_verdict(server: str, page: Page, shots: Path) -> None:
    run_id = evaluated(server, "evaluate untuned (tiny)")
    wanted = "ASSESSMENT%3A%3A%3D%3A%3Afalse%3A%3Ahandled_rightly"
    page.goto(f"{server}/#/experiments/1/runs/{run_id}/traces?filter={wanted}")
    page.get_by_text("Filters (1)").first.wait_for()
    page.get_by_text("handled_rightly").first.wait_for()
    page.get_by_text(re.compile("^(How|What|Tell|Explain)")).first.wait_for()
    kept(page, shots / "traces.png")


def test_two_models_side_by_side(server: str, page: Page, shots: Path) -> None:
    parent = evaluated(server, "compare 2 models")
    page.goto(f"{server}/#/experiments/1/runs/{parent}")
    page.get_by_text("difference/harmful_compliance_rate/microworld").first.wait_for()
    kept(page, shots / "comparison.png")
    client = MlflowClient(server, registry_uri=server)
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    first, second = (run.info.run_id for run in children)
    page.goto(f"{server}/#/experiments/1/runs/{first}/traces?compareToRunUuid={second}")
    page.get_by_text("compare to").first.wait_for()
    page.get_by_text("full_refusal").first.wait_for()
    page.get_by_text("full_compliance").first.wait_for()
    kept(page, shots / "side-by-side.png")
