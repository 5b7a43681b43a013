"""Trials that train nothing, for tests of the runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tbr_lightning.outages import OutageError
from tbr_lightning.training.trial_pruning_channel import Pruned, PruningChannel
from tbr_lightning.tuning.folder import Spec, TrialFolder, TrialResult
from tbr_lightning.tuning.trial import TrialContext


def _times(folder: TrialFolder) -> int:
    return len((folder.path / "times").read_text().splitlines())


def trial(spec: Spec, folder: TrialFolder, around: TrialContext) -> TrialResult:
    """Behave as the point's ``how`` says, and leave a line for each time it is run."""
    with (folder.path / "times").open("a") as file:
        file.write(f"{os.getpid()}\n")
    x, how = float(spec.point.get("x", 0)), spec.point.get("how", "good")
    time.sleep(float(os.environ.get("CHEAP_SECONDS", "0.05")))
    if how == "raises":
        raise FloatingPointError("the loss of step 3 is nan")
    if how == "memory":
        raise MemoryError
    if how == "nan":
        x = float("nan")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "killed once" and not spec.again:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "away" or (how == "away twice" and _times(folder) < 3):
        raise OutageError("the tracker does not answer")
    if how == "exits":
        print("no such file: rows.json", file=sys.stderr, flush=True)
        os._exit(3)
    if how == "slow":
        # A child of its own, as ranks are.
        child = subprocess.Popen(["sleep", "600"])
        (folder.path / "child").write_text(str(child.pid))
        time.sleep(600)
    if how == "greedy":
        held = bytearray(1400 * 2**20)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(600)
    if how == "hopeless":
        channel = PruningChannel(folder.path, "x")
        for step in range(1, 50):
            if channel.ask({step: x + 100}):
                raise Pruned(f"pruned at step {step}")
    elif spec.metric is not None:
        PruningChannel(folder.path, "x").ask({1: x})
    metrics = {"x": x, "y": 1 - x}
    return TrialResult("complete", "", metrics, {"x": [x - 0.1, x + 0.1]}, [{"seed": 0}], "key")
