"""Wheel, sdist and extras are what a package index and a fresh environment would have of them."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tbr_lightning

from .conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


def run(*words: object, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_version_moves_with_the_code_and_the_changelog_begins_with_it() -> None:
    assert "version" in PROJECT["dynamic"]
    assert Version(tbr_lightning.__version__)
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heading is not None
    assert heading[1] == tbr_lightning.__version__
    assert f"To {tbr_lightning.__version__}" in (ROOT / "UPGRADING.md").read_text()


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_what_an_extra_names_is_pinned_to_a_version_that_it_allows(extra: str) -> None:
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin is not None, requirement.name
        (version,) = [one.version for one in pin.specifier]
        assert requirement.specifier.contains(version), (requirement, pin)


def test_issue_forms_ask_for_what_is_needed() -> None:
    forms = {
        file.stem: yaml.safe_load(file.read_text())
        for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
    }
    assert {"bug", "numbers", "feature"} <= set(forms)
    for name, form in forms.items():
        if name == "config":
            continue
        assert {"name", "description", "body"} <= set(form), name
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(set(ids)) == len(ids), name
    for name in ("bug", "numbers"):
        assert "doctor" in [part.get("id") for part in forms[name]["body"]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return out


@pytest.mark.slow
def test_twine_takes_both(built: Path) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()))
    assert said.count("PASSED") == 2


@pytest.mark.slow
def test_the_sdist_holds_what_a_wheel_is_made_of_and_nothing_private(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for file in ("pyproject.toml", "README.md", "LICENSE", "UPGRADING.md", "conf/train.yaml"):
        assert file in names
    assert "src/tbr_lightning/py.typed" in names
    assert not [n for n in names if n.startswith((".tbr", "mlruns", "mlartifacts", "docker/secr"))]


@pytest.mark.slow
def test_metadata_of_the_wheel(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (file,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(file).decode())
    assert metadata["Version"] == tbr_lightning.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_an_installed_wheel_finds_its_configs(built: Path, tmp_path: Path) -> None:
    """In an environment of its own, with the libraries of this one lent to it by a path file."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "-q", wheel)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = "import tbr_lightning; print(tbr_lightning.__file__)"
    # -I: PYTHONPATH of the checkout does not count.
    assert run(python, "-I", "-c", where, cwd=tmp_path).startswith(str(packages))
    tbr = tmp_path / "venv" / "bin" / "tbr"
    assert "usage: tbr VERB" in run(python, "-I", tbr, "--help", cwd=tmp_path)
    config = yaml.safe_load(run(python, "-I", tbr, "train", "--cfg", "job", cwd=tmp_path))
    assert config["model"]["name"] == "tiny"
    assert run(python, "-I", tbr, "sweep", "--cfg", "job", "study=smoke", cwd=tmp_path)
    assert (packages / "tbr_lightning" / "sweeps" / "smoke.yaml").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some pins are built from source to read what they need
@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_an_extra_resolves_with_the_pins(extra: str) -> None:
    """As ``pip install -c constraints.txt '.[EXTRA]'`` would, without installing."""
    words = ("install", "--dry-run", "--quiet", "-c", "constraints.txt")
    run(sys.executable, "-m", "pip", *words, f".[{extra}]")
