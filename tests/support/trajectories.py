"""What a training run logged of every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlflow.tracking import MlflowClient

Trajectory = dict[str, list[float]]
Train = Callable[..., Trajectory]


def trajectory(store: Path, run_id: str) -> Trajectory:
    """Return loss and gradient norm of every step of a run."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    found = {}
    for key in ("train/loss", "train/gradient_norm"):
        points = client.get_metric_history(run_id, key)
        steps = [point.step for point in points]
        assert sorted(steps) == list(range(1, len(steps) + 1)), f"{key} at {sorted(steps)}"
        found[key] = [point.value for point in sorted(points, key=lambda p: p.step)]
    return found
