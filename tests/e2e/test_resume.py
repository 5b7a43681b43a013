"""A run that was killed goes on as if nothing had happened: same MLflow run, same numbers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from ..conftest import call_verb
from ..support.trajectories import Trajectory, trajectory

# the longest trains three times on two ranks, and may have to build DeepSpeed's extension
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]

# Dropout, two epochs, accumulation, a validation split: all that a restart could get wrong.
WORDS = [
    "model=mistral",
    "model.scale=tiny",
    "model.init=random",
    "model.tokenizer=bytes",
    "data=microworld",
    "data.general=60",
    "data.harmful=40",
    "data.validation=0.1",
    "reflection=external",
    "adapter=lora",
    "adapter.dropout=0.1",
    "trainer.epochs=2",
    "trainer.batch_size=4",
    "trainer.accumulate=2",
    "trainer.checkpoint_every=4",
]
FACTS = ("tbr.weights_digest", "tbr.dataset_digest")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
    return subprocess.Popen(
        [sys.executable, "-m", "tbr_lightning.train", *words],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(folder: Path, process: subprocess.Popen[str]) -> tuple[Trajectory, dict[str, str]]:
    """Wait for the end; return what was logged of each step, and facts of the one run there is."""
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    run_id = re.search(r"^run (\w+)$", out, re.MULTILINE)
    assert run_id is not None
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs(["1"], filter_string="tags.`tbr.stage` = 'train'")
    assert [run.info.run_id for run in runs] == [run_id[1]]
    assert runs[0].info.status == "FINISHED"
    facts = {key: runs[0].data.tags[key] for key in FACTS}
    facts["tokens"] = str(runs[0].data.metrics["train/supervised_tokens"])
    facts["validation"] = str(runs[0].data.metrics["validation/loss"])
    return trajectory(folder, run_id[1]), facts


def interrupt(folder: Path, step: int, how: signal.Signals, *words: str) -> tuple[int, str]:
    """Start a run, end it once it has a checkpoint of a step, and return code and last words."""
    process = start(folder, *words)
    while not list(folder.glob(f".tbr/runs/*/checkpoints/step-*{step:02d}.json")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.mark.parametrize(
    ("trainer", "objective"),
    [("cpu", "sft"), ("deepspeed_zero3", "sft"), ("deepspeed_zero2", "dpo")],
)
def test_killed_twice_and_resumed_equals_uninterrupted_bit_by_bit(
    tmp_path: Path, trainer: str, objective: str
) -> None:
    words = [*WORDS, f"trainer={trainer}", f"objective={objective}"]
    if trainer != "cpu":
        words.append("trainer.batch_size=2")
    whole = finished(tmp_path / "whole", start(tmp_path / "whole", *words))
    assert len(whole[0]["train/loss"]) > 20
    code, _ = interrupt(tmp_path / "cut", 4, signal.SIGKILL, *words)
    assert code == -signal.SIGKILL
    code, err = interrupt(tmp_path / "cut", 12, signal.SIGTERM, "resume=latest")
    told, command = err.splitlines()[-2:]
    assert (code, told.startswith("train: interrupted at step ")) == (130, True)
    assert re.fullmatch(r"  python -m tbr_lightning\.train resume=[0-9a-f]{32}", command)
    # The newest checkpoint is cut short, as by a full disk: the one before it is taken.
    [*_, newest] = sorted(tmp_path.glob("cut/.tbr/runs/*/checkpoints/step-*.ckpt"))
    victim = newest if newest.is_file() else next(newest.rglob("*.pt"))
    os.truncate(victim, victim.stat().st_size // 2)
    resumed = finished(tmp_path / "cut", start(tmp_path / "cut", "resume=latest"))
    assert resumed == whole


def test_a_reference_that_is_not_of_the_start_is_told_before_a_step(tmp_path: Path) -> None:
    words = [*WORDS, "objective=dpo", "trainer=cpu"]
    assert interrupt(tmp_path, 4, signal.SIGKILL, *words)[0] == -signal.SIGKILL
    files = sorted(tmp_path.glob(".tbr/runs/*/reference-*.npy"))
    assert len(files) == 2  # of the rows, and of those held out
    for file in files:
        np.save(file, np.load(file) - 5)  # as of another model
    steps = sorted(tmp_path.glob(".tbr/runs/*/checkpoints/step-*.json"))
    refused = start(tmp_path, "resume=latest")
    _, err = refused.communicate(timeout=200)
    assert refused.returncode == 2, err
    (told,) = [line for line in err.splitlines() if "reference log-probabilities" in line]
    assert told.endswith(
        "are not those of the model that this run starts from: restore the base model, or start "
        "a new run"
    )
    assert "Traceback" not in err
    assert sorted(tmp_path.glob(".tbr/runs/*/checkpoints/step-*.json")) == steps


def test_resume_says_what_it_cannot_do(tmp_path: Path) -> None:
    run = [*WORDS, "trainer.max_steps=2"]
    nothing = start(tmp_path, *run, "resume=latest")
    out, err = nothing.communicate(timeout=200)
    assert nothing.returncode == 0 and "finds no interrupted run" in err
    run_id = re.findall(r"^run (\w+)$", out, re.MULTILINE)[0]
    for words, says in (
        ([f"resume={run_id}"], "that run is finished: its model is models:/m-"),
        (["resume=" + "0" * 32], "has no such run: give latest or the id of a training run"),
        (["resume=latest", "dry_run=true"], "leave resume out"),
    ):
        refused = call_verb(tmp_path, "train", *words)
        assert (refused.returncode, says in refused.stderr) == (2, True), refused.stderr
