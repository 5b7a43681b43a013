"""The estimated cost of a study on devices that are not available here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.training.devices import world_size
from tbr_lightning.training.estimate import SUSTAINED, RunEstimate, estimate

TOKENS = 200  # tokens per row, where none can be read: Alpaca's are shorter, reflected ones longer

DEVICES: Mapping[str, tuple[float, float]] = {
    "A100": (312e12, 80.0),
    "H100": (989e12, 80.0),
    "H200": (989e12, 141.0),
}
"""Dense bfloat16 FLOPs a second and GB of memory, as NVIDIA's data sheets have them."""


@dataclass(frozen=True)
class ModelCost:
    """The cost of the trials of one model.

    Attributes:
        model: Name of the model's config.
        run: Estimate of one training run.
        devices: Number of devices of a run.
        runs: Number of training runs in the study.
        gated: Whether its weights are behind a licence that one accepts by hand.
    """

    model: str
    run: RunEstimate
    devices: int
    runs: float
    gated: bool

    @property
    def memory(self) -> float:
        """Memory in GB that a device must have."""
        return (self.run.weights + self.run.states + self.run.activations) / 1e9

    def hours(self, peak: float) -> float:
        """Return device hours of all its runs on devices of a peak in FLOPs per second."""
        return self.run.flops * self.runs / (peak * SUSTAINED) / 3600


def model_costs(
    made: Sequence[tuple[Mapping[str, Any], TrainConfig]], runs: int
) -> list[ModelCost]:
    """Return the cost of each model of a study, from small to large.

    The rows that the data config wants are taken at :data:`TOKENS` tokens each.

    Args:
        made: Points with their training configs; all models get the same number of runs.
        runs: Number of training runs of the whole study.
    """
    from tbr_lightning.models.config_facts import planned_config

    of_model: dict[str, TrainConfig] = {}
    for _, config in made:
        if config.model.architecture or config.model.path:
            of_model.setdefault(config.model.name, config)
    found = []
    for name, config in of_model.items():
        rows = (config.data.planned() or (0, 0))[0]
        tokens = rows * TOKENS * config.trainer.epochs
        longest = min(config.model.max_length, 4 * TOKENS)
        architecture = planned_config(config.model, data=config.data.name)
        run = estimate(config, architecture, tokens=tokens, longest=longest, peak=None)
        devices = world_size(config.trainer)
        found.append(ModelCost(name, run, devices, runs / len(of_model), config.model.gated))
    return sorted(found, key=lambda one: one.run.parameters)


def lines(costs: Sequence[ModelCost]) -> list[str]:
    """Return a table: one line per model, then the hours of all by kind of device."""
    heads = ["parameters", "devices", "GB each", *(f"{kind} hours" for kind in DEVICES)]
    rows = []
    for one in costs:
        hours = [_hours(one, peak, memory) for peak, memory in DEVICES.values()]
        size = f"{one.run.parameters / 1e9:.2f} B"
        rows.append([size, str(one.devices), f"{one.memory:.0f}", *hours])
    names = [one.model + (" (gated)" if one.gated else "") for one in costs]
    wide = max(map(len, names))
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    told = [
        f"{name:<{wide}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in zip(["", *names], [heads, *rows], strict=True)
    ]
    total = ", ".join(
        f"{sum(one.hours(peak) for one in costs):,.0f} on {kind}"
        for kind, (peak, _) in DEVICES.items()
    )
    return [
        *told,
        f"device hours of training, all together: {total}; at {100 * SUSTAINED:.0f}% of the "
        "published dense bfloat16 peak, evaluation not counted; – where a device is too small",
    ]


def _hours(one: ModelCost, peak: float, memory: float) -> str:
    hours = one.hours(peak)
    if one.memory > memory:
        return "–"
    return f"{hours:.1f}" if hours < 10 else f"{hours:,.0f}"


def requests(made: Iterable[tuple[Mapping[str, Any], TrainConfig]]) -> int:
    """Return the requests to a teacher at an endpoint: each harmful row once, for any model."""
    most = 0
    for _, config in made:
        of_data = config.data.teacher(config.reflection.teacher, config.seed) is not None
        if config.reflection.teacher == "external" and not of_data:
            most = max(most, math.ceil((config.data.planned() or (0, 0))[1]))
    return most
