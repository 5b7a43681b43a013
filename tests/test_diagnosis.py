"""What `doctor` finds on a machine that lacks one thing or another."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docker.conftest import free_port

from tbr_lightning import cli, diagnosis
from tbr_lightning.config.compose import compose_verb


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def _findings(*overrides: str) -> dict[str, diagnosis.Finding]:
    config = compose_verb("doctor", overrides).config
    return {one.part: one for one in diagnosis.examine(config)}


def test_this_machine_works_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_ROOM", 1)
    assert cli.main("doctor", []) == 0
    shown = capsys.readouterr().out
    assert "tracker" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_does_not_answer_fails(capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"http://user:secret@127.0.0.1:{free_port()}"
    assert cli.main("doctor", [f"tracking.uri={uri}"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "does not answer" in shown
    assert "secret" not in shown


def test_a_disk_that_is_nearly_full_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_ROOM", 2**80)
    found = _findings()["disk of paths.runs"]
    assert found.state == "fails"
    assert "larger disk" in found.detail


def test_packages_are_held_against_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=1", "numpy>=99; extra == 'big'", "no-such-thing; extra == 'odd'"]
    monkeypatch.setattr(diagnosis.metadata, "requires", lambda _: declared)
    monkeypatch.setattr(
        diagnosis.metadata, "metadata", lambda _: _Extras(["big", "odd"]), raising=True
    )
    found = {one.part: one for one in diagnosis._packages()}
    assert found["packages"].state == "works"
    assert found["extra big"].state == "missing"
    assert ">=99" in found["extra big"].detail
    assert "no-such-thing is not installed" in found["extra odd"].detail
    monkeypatch.setattr(diagnosis.metadata, "requires", lambda _: ["numpy>=99"])
    assert next(iter(diagnosis._packages())).state == "fails"


class _Extras:
    def __init__(self, names: list[str]) -> None:
        self._names = names

    def get_all(self, _: str) -> list[str]:
        return self._names


def test_keys_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    found = _findings()["OPENAI_API_KEY"]
    assert found == diagnosis.Finding("OPENAI_API_KEY", "works", "is set")
