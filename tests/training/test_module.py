"""The module: what decays, also where a strategy has cut the weights into flat pieces."""

from __future__ import annotations

import copy

import pytest
import torch

from tbr_lightning.config.schema import OptimizerConfig
from tbr_lightning.objectives.sft import SFT
from tbr_lightning.training.module import TbrModule


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.norm = torch.nn.LayerNorm(2)


def module() -> TbrModule:
    optimizer = OptimizerConfig(weight_decay=0.1)
    return TbrModule(_Small(), SFT(), optimizer, seed=0, divisor=1.0)


def sizes(module: TbrModule) -> list[tuple[float, list[int]]]:
    groups = module.parameter_groups()
    return [(group["weight_decay"], [p.numel() for p in group["params"]]) for group in groups]


@pytest.mark.parametrize("sharded", [False, True])
def test_matrices_decay_and_biases_and_norms_do_not(sharded: bool) -> None:
    made = module()
    if sharded:  # as FSDP hands them out: flat, and below a module of its own
        inner = copy.deepcopy(made.model)
        for parameter in inner.parameters():
            parameter.data = parameter.data.flatten()
        outer = torch.nn.Module()
        outer._fsdp_wrapped_module = inner
        made.model = outer
    assert sizes(made) == [(0.1, [6]), (0.0, [2, 2, 2])]
