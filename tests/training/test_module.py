"""The module: its steps against plain torch, what decays, what is drawn."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tbr_lightning.config.schema import OptimizerConfig
from tbr_lightning.objectives.objective import Loss, Objective
from tbr_lightning.objectives.sft import SFT
from tbr_lightning.training import fit as fit_module
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


class _Squares(Objective):
    """The squared error of a linear model, whose steps are computed by hand."""

    def loss(self, model: Any, batch: Any) -> Loss:
        return Loss((model(batch.x) - batch.y).square().sum(), torch.zeros(0, 2))


@dataclass
class _Pairs:
    x: torch.Tensor
    y: torch.Tensor
    step_weight: float

    def to(self, device: torch.device) -> _Pairs:
        return self


class _Regression(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.norm = torch.nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))


def _fitted(model: torch.nn.Module, batches: list[_Pairs], optimizer: OptimizerConfig) -> None:
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    made = TbrModule(model, _Squares(), optimizer, seed=0, divisor=2.0)
    trainer.fit(made, DataLoader(batches, batch_size=None))


def _by_hand(model: Any, batches: list[_Pairs], factors: list[float]) -> None:
    """Train as the module should: AdamW that decays the matrix alone, at rates given by hand."""
    groups = [
        {"params": [model.linear.weight], "weight_decay": 0.3},
        {"params": [model.linear.bias, *model.norm.parameters()], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, lr=1.0)
    for factor, one, other in zip(factors, batches[::2], batches[1::2], strict=True):
        for group in plain.param_groups:
            group["lr"] = 0.05 * factor
        x, y = torch.cat([one.x, other.x]), torch.cat([one.y, other.y])
        plain.zero_grad()
        ((model(x) - y).square().sum() / one.step_weight).backward()
        plain.step()


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("constant", 0.5, [0, 1 / 2, 1, 1]),
        ("linear", 0.5, [0, 1 / 2, 1, 1 / 2]),
        ("linear", 0.0, [1, 3 / 4, 1 / 2, 1 / 4]),
        ("cosine", 0.0, [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]),
    ],
)
def test_steps_are_those_of_plain_torch(schedule: str, warmup: float, factors: list[float]) -> None:
    torch.manual_seed(0)
    # In float64: AdamW divides small gradients by their own size, and rounding with them.
    batches = [
        _Pairs(torch.randn(n, 3).double(), torch.randn(n, 4).double(), 12.0)
        for n in (2, 4, 3, 3, 1, 5, 4, 2)
    ]
    start = _Regression().double()
    ours, theirs = copy.deepcopy(start), copy.deepcopy(start)
    optimizer = OptimizerConfig(lr=0.05, weight_decay=0.3, warmup=warmup, schedule=schedule)
    _fitted(ours, batches, optimizer)
    _by_hand(theirs, batches, factors)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], msg=name)
        assert not torch.equal(value, start.state_dict()[name])


def _draws(step: int, batch: int, *, rank: int = 0, seed: int = 0, accumulate: int = 2) -> int:
    """Return what is drawn first in a micro-batch."""
    made = TbrModule(_Small(), SFT(), OptimizerConfig(), seed=seed, divisor=1.0)
    made._trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step, accumulate_grad_batches=accumulate, global_rank=rank
    )
    made.on_train_batch_start(None, batch)  # type: ignore[arg-type]
    return int(torch.randint(2**31, ()))


def test_each_micro_batch_draws_its_own_dropout() -> None:
    places = [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    drawn = [_draws(*place) for place in places]
    drawn += [_draws(0, 0, rank=1), _draws(0, 0, seed=1), _draws(0, 0, seed=1, rank=1)]
    assert len(set(drawn)) == len(drawn)
    assert _draws(1, 2) == drawn[2]


def test_a_resumed_run_draws_what_it_would_have_drawn() -> None:
    # The trainer counts batches anew in each epoch and after a resume, and steps not.
    assert [_draws(3, 0), _draws(3, 1)] == [_draws(3, 6), _draws(3, 7)]
    assert _draws(3, 0) != _draws(0, 0)


def test_a_reference_is_computed_on_the_ranks_own_device_and_only_where_one_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[object] = []
    model = SimpleNamespace(to=placed.append, eval=lambda: None, train=lambda: None)
    rows = SimpleNamespace(digest="d")
    backbone = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0))

    class Wanting(Objective):
        def reference(self, model: Any, rows: Any, pad_id: int) -> Any:
            return np.zeros(3)

    monkeypatch.setattr(fit_module, "accelerator_of", lambda _: "gpu")
    monkeypatch.setenv("LOCAL_RANK", "3")
    for objective in (SFT(), Wanting()):
        job = SimpleNamespace(
            folder=tmp_path, config=SimpleNamespace(objective=objective, trainer=None)
        )
        found = fit_module._reference(job, backbone, model, rows)  # type: ignore[arg-type]
        assert (found is None) == isinstance(objective, SFT)
    assert placed == [torch.device("cuda", 3)]


def _of(strategy: SimpleNamespace, step: int = 3) -> TbrModule:
    """Return a module in the hands of a trainer that has this strategy."""
    made = module()
    made._trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=strategy, global_step=step, precision="32-true"
    )
    return made


def test_the_loss_of_a_step_is_the_sum_of_its_micro_batches_and_is_taken_once() -> None:
    made = _of(SimpleNamespace())
    made.objective = SimpleNamespace(  # type: ignore[assignment]
        loss=lambda model, batch: Loss(
            torch.tensor(batch.x, requires_grad=True), torch.tensor([[1.0, 2.0]] * len(made.parts))
        )
    )
    made.divisor = 4.0
    losses = [made.training_step(_Pairs(x, 0, 2.0), 0) for x in (6.0, 3.0)]  # type: ignore[arg-type]
    assert [loss.item() for loss in losses] == [12, 6]  # the trainer divides by four
    assert all(loss.requires_grad for loss in losses) and not made.step_loss.requires_grad
    assert made.parts.tolist() == [[2.0, 4.0]] * len(made.parts)
    assert made.parts.dtype == torch.float64
    assert made.validation_loss(_Pairs(6.0, 0, 2.0)) == 3  # type: ignore[arg-type]
    assert made.take_step_loss() == 4.5
    assert made.take_step_loss() == 0
    for bad in (math.inf, math.nan):
        made.step_loss = torch.tensor(bad)
        with pytest.raises(FloatingPointError, match="at step 3"):
            made.take_step_loss()


@pytest.mark.parametrize(("limit", "length"), [(None, 10.0), (0.0, 10.0), (2.5, 2.5), (20.0, 10.0)])
def test_gradients_are_clipped_at_the_limit_alone_and_their_norm_is_kept(
    limit: float | None, length: float
) -> None:
    strategy = SimpleNamespace(handles_gradient_accumulation=False, model=torch.nn.Linear(1, 1))
    made = _of(strategy)
    made.model.norm.weight.requires_grad = False
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.model.linear.bias.grad = torch.tensor([6.0, 8.0])
    made.model.norm.weight.grad += 100  # it is not trained
    made.configure_gradient_clipping(None, limit)
    assert made.gradient_norm == pytest.approx(10)
    assert made.model.linear.bias.grad.norm().item() == pytest.approx(length, rel=1e-4)


def test_fsdp_clips_its_own_parts_and_deepspeed_by_itself() -> None:
    asked: list[float] = []

    def clip(limit: float) -> float:
        asked.append(limit)
        return 7.0

    wrapped = SimpleNamespace(clip_grad_norm_=clip)
    made = _of(SimpleNamespace(handles_gradient_accumulation=False, model=wrapped))
    made.configure_gradient_clipping(None, 0.5)
    assert (asked, made.gradient_norm) == ([0.5], 7.0)
    made = _of(SimpleNamespace(handles_gradient_accumulation=True, model=wrapped))
    made.configure_gradient_clipping(None, 0.5)
    assert (asked, made.gradient_norm) == ([0.5], None)


@pytest.mark.parametrize(
    ("device", "deepspeed", "fused"),
    [("cpu", False, True), ("cuda", False, False), ("cpu", True, False)],
)
def test_the_optimizer_is_fused_where_torch_alone_would_not_be(
    device: str, deepspeed: bool, fused: bool
) -> None:
    strategy = SimpleNamespace(
        root_device=torch.device(device), handles_gradient_accumulation=deepspeed
    )
    made = _of(strategy)
    optimizer = made._adamw()(made.parameter_groups(), lr=0.1)
    assert type(optimizer) is torch.optim.AdamW
    assert bool(optimizer.defaults["fused"]) is fused


def test_a_checkpoint_holds_what_is_trained_and_is_read_as_strictly_as_that_allows() -> None:
    whole, frozen = _Small(), _Small()
    frozen.linear.weight.requires_grad = False
    for model, strict in ((whole, True), (frozen, False)):
        made = TbrModule(model, SFT(), OptimizerConfig(), seed=0, divisor=1.0)
        assert made.strict_loading is strict
        checkpoint = {"state_dict": made.state_dict()}
        made.on_save_checkpoint(checkpoint)
        kept = set(checkpoint["state_dict"])
        assert ("model.linear.weight" in kept) is strict
        assert {"model.linear.bias", "model.norm.weight", "model.norm.bias"} <= kept
    tied = _Small()
    tied.other = torch.nn.Linear(3, 2)
    tied.other.weight = tied.linear.weight
    made = TbrModule(tied, SFT(), OptimizerConfig(), seed=0, divisor=1.0)
    assert {"model.linear.weight", "model.other.weight"} <= made.trained  # by both names
