"""When a run is measured: every so many steps, or as often as a share of its time allows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.config.schema import OptimizerConfig
from tbr_lightning.objectives.sft import SFT
from tbr_lightning.training import validation_callback
from tbr_lightning.training.module import TbrModule
from tbr_lightning.training.validation_callback import SHARE, ValidationCallback

SECONDS, COST, STEPS = 10.0, 30.0, 400  # of a step, of a probe; steps of the run


def probed(monkeypatch: pytest.MonkeyPatch, every: int | None, steps: int = STEPS) -> list[int]:
    """Return the steps at which a run with a made clock answers its probe prompts."""
    clock, found = [0.0], list[int]()
    monkeypatch.setattr(
        validation_callback, "time", SimpleNamespace(monotonic=lambda: clock[0]), raising=True
    )
    observer = ValidationCallback(
        SimpleNamespace(),  # type: ignore[arg-type]
        every=every,
        look_every=10,
        validation=None,
        objective=SFT(),
        reference=None,
        batch_size=4,
        prompts=["a prompt"],  # type: ignore[list-item]
        judge=JudgeConfig(name="rules"),
        buffer=None,
    )

    def probe(_: Any, step: int) -> None:
        found.append(step)
        clock[0] += COST

    monkeypatch.setattr(observer, "_probe", probe)
    module = TbrModule(torch.nn.Linear(2, 2), SFT(), OptimizerConfig(), seed=0, divisor=1.0)
    trainer: Any = SimpleNamespace(
        accumulate_grad_batches=1,
        estimated_stepping_batches=steps,
        world_size=1,
        is_global_zero=True,
        precision_plugin=None,
        global_step=0,
    )
    observer.on_train_start(trainer, module)
    for step in range(1, steps + 1):
        clock[0] += SECONDS
        trainer.global_step = step
        observer.on_train_batch_end(trainer, module, None, None, step - 1)
    assert module.model.training
    return found


def test_without_a_number_of_steps_probes_take_their_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = probed(monkeypatch, None)
    # Ten minutes, then 33 times what the last one took; the end comes too early for another.
    assert steps == [60, 160, 260, 360]
    assert COST * len(steps) / (SECONDS * STEPS) <= SHARE


def test_a_short_run_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probed(monkeypatch, None, steps=50) == []


def test_a_number_of_steps_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probed(monkeypatch, 150) == [150, 300, 400]
    assert probed(monkeypatch, 0) == [400]
