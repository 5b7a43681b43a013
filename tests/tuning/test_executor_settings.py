"""What a sweep asks of a scheduler, and the devices that a scheduler gave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.tuning import pipeline, plan
from tbr_lightning.tuning.folder import Spec
from tbr_lightning.tuning.lease import environment_of_runner
from tbr_lightning.tuning.runner import Limits
from tbr_lightning.tuning.scheduling import Budget
from tbr_lightning.tuning.trial import TrialContext


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


def test_trials_of_several_ranks_do_not_share_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_verb("train", ["trainer=ddp", "trainer.accelerator=gpu"]).config
    config.trainer.devices = 2
    for given, taken in (
        ("0,1,2,3", ["0,1", "2,3", "0,1"]),
        ("0,1,2", ["0,1"] * 3),  # one alone has no partner
        ("0,1", [None] * 3),
        ("0", [None] * 3),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert [plan._device(config, slot, 3) for slot in range(3)] == taken


def test_a_runner_s_environment_names_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
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
        pipeline._executor(settings, tmp_path, Limits(Budget(1)))


@pytest.mark.parametrize("words", [[], ["sweep.memory=24"]])
def test_a_study_s_memory_is_asked_of_the_scheduler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    """The file's ``memory`` is the limit where the command line gives none."""
    study = tmp_path / "s.yaml"
    study.write_text(
        "space: {seed: {choices: [1, 2]}}\nfixed: [model=tiny, data=microworld]\n"
        "evaluate: [suite=smoke, suite.half=dev]\n"
        "objectives: {false_refusal_rate: minimize}\nsampler: grid\nmemory: 16\n"
    )
    given = ["sweep.executor=submitit", "sweep.submitit={cluster: debug}", f"study={study}", *words]
    made = plan.make_plan(compose_verb("sweep", given).config)
    expected = 24 if words else 16
    pytest.importorskip("submitit", reason="pip install 'tbr-lightning[submitit]'")
    executor: Any = pipeline._executor(made.config.sweep, tmp_path / "jobs", made.limits)
    assert executor._asked(None)["mem_gb"] == expected
    pytest.importorskip("ray", reason="pip install 'tbr-lightning[ray]'")
    from tbr_lightning.tuning import ray_executor

    asked: list[dict[str, Any]] = []

    class Task:
        def options(self, **more: Any) -> Task:
            asked.append(more)
            return self

        def remote(self, *words: Any, **more: Any) -> None:
            pass

    monkeypatch.setattr(ray_executor.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_executor.ray, "remote", lambda **_: lambda _: Task())
    settings = compose_verb("sweep", ["sweep.executor=ray", *words]).config.sweep
    ray: Any = pipeline._executor(settings, tmp_path, made.limits)
    context = TrialContext(TrackingConfig(uri="-"), PathsConfig(cache="-", runs="-"), 1, 1.0)
    ray.start(tmp_path, context, Spec("m:f", "s", 0, {}, [], [0]))
    assert asked[0]["memory"] == expected * 2**30


def test_what_a_job_is_sent_is_for_its_user_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It holds the environment, with its keys, and where to track, with its password."""
    pytest.importorskip("submitit", reason="pip install 'tbr-lightning[submitit]'")
    settings = compose_verb(
        "sweep", ["sweep.executor=submitit", "sweep.submitit={cluster: debug}"]
    ).config.sweep
    (tmp_path / "jobs").mkdir(mode=0o755)
    pipeline._executor(settings, tmp_path / "jobs", Limits(Budget(1)))
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700
