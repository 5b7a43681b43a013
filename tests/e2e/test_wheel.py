"""The wheel works outside the checkout: configs and studies are inside it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ..conftest import ROOT, environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but the unpacked wheel."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_the_wheel_holds_configs_studies_prompts_and_types(site: Path) -> None:
    package = site / "tbr_lightning"
    for file in ("conf/train.yaml", "sweeps/smoke.yaml", "py.typed", "microworld/lexicon.yaml"):
        assert (package / file).is_file()
    assert (package / "reflection" / "prompts" / "teacher.txt").is_file()
    assert (package / "evaluation" / "benchmarks.yaml").is_file()


def test_a_verb_runs_from_the_wheel_in_another_folder(
    site: Path, tmp_path: Path, base_folder: Path
) -> None:
    # The package comes from the wheel, not from the editable checkout.
    env = environment(PYTHONPATH=str(site), PYTHONSAFEPATH="1")
    where = subprocess.run(
        [sys.executable, "-c", "import tbr_lightning; print(tbr_lightning.__file__)"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(site))
    done = subprocess.run(
        [sys.executable, "-m", "tbr_lightning.train", "trainer.max_steps=2", "seed=3"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "models:/m-" in done.stdout
