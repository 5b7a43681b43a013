"""What a sweep asks of a scheduler, and the devices that a scheduler gave."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.errors import UserError
from tbr_lightning.tuning import pipeline, plan
from tbr_lightning.tuning.lease import environment_of_runner


@pytest.mark.parametrize(
    ("given", "gpus", "taken"),
    [
        ("2,GPU-1f", ["2", "GPU-1f"], ["2", "GPU-1f", "2"]),
        (" 5 , 7 ", ["5", "7"], ["5", "7", "5"]),
        ("3", ["3"], [None] * 3),
        ("", [], [None] * 3),
    ],
)
def test_trials_share_the_devices_that_a_scheduler_gave(
    monkeypatch: pytest.MonkeyPatch, given: str, gpus: list[str], taken: list[str | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert plan._visible_gpus() == gpus
    config = compose_verb("train", ["trainer.accelerator=gpu"], None, check=True).config
    assert [plan._device(config, slot, 3) for slot in range(3)] == taken
    assert plan._device(config, 0, 1) is None
    assert "CUDA_VISIBLE_DEVICES" not in environment_of_runner()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.executor=spark"], "local, ray"),
        (["sweep.gpus=1"], r"give sweep\.executor=ray or submitit"),
        (["sweep.executor=ray", "sweep.cpus=0"], r"sweep\.cpus"),
        (["sweep.executor=ray", "sweep.gpus=-1"], r"sweep\.gpus=-1"),
    ],
)
def test_wrong_settings_are_told(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_verb("sweep", words)


@pytest.mark.parametrize("name", ["ray", "submitit"])
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"tbr_lightning.tuning.{name}_executor", raising=False)
    settings = compose_verb("sweep", [f"sweep.executor={name}"]).config.sweep
    with pytest.raises(UserError, match=rf"pip install 'tbr-lightning\[{name}\]'"):
        pipeline._executor(settings, tmp_path, None)
