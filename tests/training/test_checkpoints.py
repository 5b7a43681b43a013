"""Checkpoints are whole or not there, few, and no larger than what is trained."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file

from tbr_lightning.config.schema import OptimizerConfig
from tbr_lightning.errors import UserError
from tbr_lightning.objectives.sft import SFT
from tbr_lightning.training import ranks
from tbr_lightning.training.checkpoints import Checkpoints, trained_mismatch, whole_checkpoints
from tbr_lightning.training.fit import fit
from tbr_lightning.training.module import TbrModule
from tbr_lightning.training.strategies import tensors_alone

from .conftest import TINY, config_of, fit_here, tiny_model


def written(
    folder: Path, step: int, loss: float | None = None, *, shards: bool = False
) -> tuple[Path, Path]:
    """Write a checkpoint by hand; return its file or folder, and its list of files."""
    path = folder / f"step-{step:08d}.ckpt"
    files = [path / "a" / f"shard-{i}.pt" for i in range(2)] if shards else [path]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * (10 + number))
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    marker = path.with_suffix(".json")
    facts = {"path": path.name, "step": step, "loss": loss, "sizes": sizes}
    marker.write_text(json.dumps(facts))
    return path, marker


def steps(folder: Path) -> list[int]:
    return [checkpoint.step for checkpoint in whole_checkpoints(folder)]


@pytest.mark.parametrize("shards", [False, True])
def test_only_whole_checkpoints_count(tmp_path: Path, shards: bool) -> None:
    assert whole_checkpoints(tmp_path / "absent") == []
    for step in (1, 2, 10):
        written(tmp_path, step, shards=shards)
    assert steps(tmp_path) == [1, 2, 10]
    path, marker = written(tmp_path, 11, shards=shards)
    one = path / "a" / "shard-1.pt" if shards else path
    whole = one.read_bytes()
    one.write_bytes(whole[:-1])
    assert steps(tmp_path) == [1, 2, 10]
    one.unlink()
    assert steps(tmp_path) == [1, 2, 10]
    one.write_bytes(whole)
    assert steps(tmp_path) == [1, 2, 10, 11]
    text = marker.read_text()
    for cut in ("", text[: len(text) // 2], "[]", '"x"', "null", '{"path": 3}'):
        marker.write_text(cut)
        assert steps(tmp_path) == [1, 2, 10], cut
    marker.rename(marker.with_suffix(".partial"))
    assert steps(tmp_path) == [1, 2, 10]


@pytest.mark.parametrize("shards", [False, True])
def test_the_last_two_and_the_best_are_kept(tmp_path: Path, shards: bool) -> None:
    losses = {1: 0.5, 2: None, 3: 0.1, 4: 0.4, 5: 0.9, 6: None}
    for step, loss in losses.items():
        written(tmp_path, step, loss, shards=shards)
    keeper = Checkpoints(
        tmp_path,
        every=1,
        save_top_k=2,
        logger=None,  # type: ignore[arg-type]
        validation_loss=lambda: None,
        stop=lambda: False,
    )
    keeper._thin_out()
    assert steps(tmp_path) == [3, 4, 5, 6]
    assert len(list(tmp_path.glob("*.ckpt"))) == 4
    keeper.save_top_k = 0
    keeper._thin_out()
    assert steps(tmp_path) == [5, 6]


def test_a_checkpoint_that_is_cut_does_not_take_the_place_of_a_whole_one(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        written(tmp_path, step)
    (tmp_path / "step-00000004.ckpt").write_bytes(b"")
    keeper = Checkpoints(
        tmp_path,
        every=1,
        save_top_k=0,
        logger=None,  # type: ignore[arg-type]
        validation_loss=lambda: None,
        stop=lambda: False,
    )
    keeper._thin_out()
    assert steps(tmp_path) == [2, 3]


class _Ranks:
    """A trainer of several ranks, of which the first is here, as far as the callback asks it."""

    is_global_zero, accumulate_grad_batches, should_stop = True, 2, False

    def __init__(self, steps: int, others: Callable[[int], bool] = lambda step: False) -> None:
        self.estimated_stepping_batches, self.others = steps, others
        self.strategy, self.global_step = self, 0

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        both = (decision, self.others(self.global_step))
        return min(both) if all else max(both)

    def save_checkpoint(self, path: Path) -> None:
        path.write_bytes(b"x")

    def barrier(self) -> None:
        """Nobody else is here."""


@pytest.mark.parametrize(
    ("every", "stops_here", "stops_elsewhere", "saved", "stopped_at"),
    [
        (2, 99, 99, [2, 4, 5], None),  # every second step, and the last
        (9, 99, 99, [5], None),  # the last alone
        (9, 3, 99, [3], 3),  # this rank was asked to stop
        (9, 99, 3, [3], 3),  # another one was
        (0, 3, 99, [], 3),  # without checkpoints it stops all the same
        (0, 99, 99, [], None),
    ],
)
def test_it_saves_in_time_at_the_end_and_at_any_ranks_stop(
    tmp_path: Path,
    every: int,
    stops_here: int,
    stops_elsewhere: int,
    saved: list[int],
    stopped_at: int | None,
) -> None:
    trainer = _Ranks(5, lambda step: step >= stops_elsewhere)
    written_ = []
    logger = SimpleNamespace(write=lambda *_: written_.append(trainer.global_step), buffer=None)
    keeper = Checkpoints(
        tmp_path,
        every=every,
        save_top_k=9,
        logger=logger,  # type: ignore[arg-type]
        validation_loss=lambda: 0.5,
        stop=lambda: trainer.global_step >= stops_here,
    )
    module_ = TbrModule(torch.nn.Linear(2, 2), SFT(), OptimizerConfig(), seed=0, divisor=1.0)
    for batch in range(10):
        trainer.global_step = (batch + 1) // 2
        keeper.on_train_batch_end(trainer, module_, None, None, batch)  # type: ignore[arg-type]
        if trainer.should_stop:
            break
    assert steps(tmp_path) == saved
    assert written_ == saved  # the numbers of a step are written before its checkpoint
    assert keeper.stopped is trainer.should_stop is (stopped_at is not None)
    assert trainer.global_step == (stopped_at or 5)


FIT = ("model=llama2_7b", "trainer.batch_size=4", "trainer.checkpoint_every=1", "trainer.epochs=2")


def test_a_run_saves_what_it_trains_and_keeps_the_last(tmp_path: Path) -> None:
    sizes = {}
    for adapter in ("none", "lora"):
        folder = tmp_path / adapter
        folder.mkdir()
        job, fitted = fit_here(folder, *FIT, f"adapter={adapter}")
        found = whole_checkpoints(job.checkpoints)
        assert [checkpoint.step for checkpoint in found] == [3, 4]
        assert len(list(job.checkpoints.iterdir())) == 4
        saved = torch.load(found[-1].path, weights_only=True)
        wanted = {f"model.{n}" for n, p in fitted.model.named_parameters() if p.requires_grad}
        assert saved["state_dict"].keys() >= wanted
        assert {key for key in saved["state_dict"] if key not in wanted} <= {"model.lm_head.weight"}
        sizes[adapter] = found[-1].path.stat().st_size
        for name, parameter in fitted.model.named_parameters():
            if parameter.requires_grad:
                assert torch.equal(saved["state_dict"][f"model.{name}"], parameter)
    assert sizes["lora"] < sizes["none"] / 2


@pytest.mark.parametrize("words", [("model=qwen2_5_0_5b",), ("model=llama2_7b", "adapter=lora")])
def test_a_run_that_goes_on_ends_where_it_would_have_ended(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    words = (*FIT, *words, "optimizer.schedule=constant")
    ends = []
    for name, parts in (("whole", [4]), ("parts", [2, 4])):
        (tmp_path / name).mkdir()
        for steps_ in parts:
            _, fitted = fit_here(tmp_path / name, *words, f"trainer.max_steps={steps_}")
        assert fitted.done.steps == 4
        ends.append((fitted.model.state_dict(), fitted.done.supervised_tokens))
    (one, tokens), (other, tokens_too) = ends
    assert tokens == tokens_too
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_without_checkpoints_writes_none(tmp_path: Path) -> None:
    job, _ = fit_here(tmp_path, *FIT, "trainer.checkpoint=false", "trainer.max_steps=1")
    assert not job.checkpoints.exists()


class Evil:
    """Runs something where its pickle is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def test_a_checkpoint_that_would_run_something_is_refused(tmp_path: Path) -> None:
    file, trace = tmp_path / "x.ckpt", tmp_path / "ran"
    torch.save({"state_dict": {}, "loops": Evil(trace)}, file)
    with pytest.raises(UserError, match=r"x\.ckpt contains pickled objects"):
        trained_mismatch(file, module(tmp_path, "model=llama2_7b"))
    assert not trace.exists()


@pytest.mark.parametrize("given", [{}, {"weights_only": False}])
def test_shards_are_read_as_tensors_whatever_deepspeed_asks_for(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    file, trace = tmp_path / "zero_pp_rank_0_optim_states.pt", tmp_path / "ran"
    torch.save({"optimizer_state_dict": Evil(trace)}, file)
    says = "contains pickled objects other than tensors"
    with pytest.raises(UserError, match=says), tensors_alone(tmp_path):
        torch.load(file, **given)
    assert not trace.exists()
    # Outside it is as it was.
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    torch.load(file, weights_only=False)
    assert trace.exists()


def test_the_records_that_deepspeed_keeps_beside_its_tensors_are_read(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    kept = {
        "loss_scaler": LossScaler(scale=1),
        "dynamic": DynamicLossScaler(4, 2, 2, 1, 1, False),
        "zero_stage": ZeroStageEnum.gradients,
        "param_slice_mappings": [OrderedDict(w=fragment_address(numel=3, start=1))],
        "param_shapes": [OrderedDict(w=torch.Size([3]))],
        "sparse_tensor_module_names": {"w"},
        "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3)}},
    }
    file = tmp_path / "zero_pp_rank_0_optim_states.pt"
    torch.save(kept, file)
    with tensors_alone(tmp_path):
        read = torch.load(file, weights_only=False)
    assert read["loss_scaler"].cur_scale == 1
    assert read["zero_stage"] is ZeroStageEnum.gradients
    assert read["param_slice_mappings"][0]["w"] == fragment_address(numel=3, start=1)
    assert read["sparse_tensor_module_names"] == {"w"}


def module(folder: Path, *words: str) -> TbrModule:
    from tbr_lightning.models.adapters import with_adapter

    config = config_of(*words)
    model = with_adapter(tiny_model(folder, *words).model, config.adapter)
    return TbrModule(model, SFT(), config.optimizer, seed=0, divisor=1.0)


def test_another_models_checkpoint_is_told(tmp_path: Path) -> None:
    words = ("model=llama2_7b", "adapter=lora", "adapter.r=2")
    saved = {f"{n}": p for n, p in module(tmp_path, *words).named_parameters() if p.requires_grad}
    file = tmp_path / "x.ckpt"
    torch.save({"state_dict": saved}, file)
    assert trained_mismatch(file, module(tmp_path, *words)) is None
    other = trained_mismatch(file, module(tmp_path, *words, "adapter.r=4"))
    assert other is not None
    assert "(2, 64) there and (4, 64) here" in other
    whole = trained_mismatch(file, module(tmp_path, "model=llama2_7b", "adapter=none"))
    assert whole == "it has no model.model.embed_tokens.weight"
    assert trained_mismatch(tmp_path, module(tmp_path, *words)) is None


def test_a_checkpoint_has_the_loss_of_its_own_step(tmp_path: Path) -> None:
    words = ("model=llama3_2_1b", "trainer.batch_size=4", "trainer.epochs=4", "trainer.max_steps=5")
    words += ("trainer.eval_every=3", "trainer.checkpoint_every=1", "trainer.save_top_k=5")
    job, _ = fit_here(tmp_path, *words, "probe.only_for=nothing")
    measured = replace(job, folder=tmp_path / "measured", validation=job.rows)
    fit(measured, tiny_model(tmp_path, *words))
    found = {one.step: one.loss is not None for one in whole_checkpoints(measured.checkpoints)}
    assert found == {3: True, 4: False, 5: True}


def test_an_interval_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer\.checkpoint_every=0"):
        config_of("trainer.checkpoint_every=0")


def test_the_logged_rate_is_that_of_the_step(tmp_path: Path) -> None:
    words = ("trainer.max_steps=4", "trainer.epochs=4", "trainer.batch_size=4", "optimizer.lr=0.01")
    words += ("optimizer.schedule=linear", "optimizer.warmup=0", "trainer.log_every=1")
    job, _ = fit_here(tmp_path, "model=llama3_2_1b", *words)
    history = MlflowClient().get_metric_history(job.run_id, "train/lr")
    assert [(one.step, round(one.value, 6)) for one in history] == [
        (1, 0.01), (2, 0.0075), (3, 0.005), (4, 0.0025)
    ]  # fmt: skip


def test_tensors_of_ranks_that_are_not_all_there_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = SimpleNamespace(folder=tmp_path, config=config_of(*TINY))
    monkeypatch.setattr(ranks, "_backbone", lambda _: tiny_model(tmp_path, "model=llama3_2_1b"))
    named = tiny_model(tmp_path, "model=llama3_2_1b").model.named_parameters()
    trained = {name: weight.detach().clone() for name, weight in named}
    facts = {"steps": "1", "supervised_tokens": "2", "seconds": "3"}
    save_file(trained, tmp_path / ranks.TRAINED, metadata=facts)
    assert ranks.collect_trained(job)[1].steps == 1  # type: ignore[arg-type]
    del trained["model.norm.weight"]
    save_file(trained, tmp_path / ranks.TRAINED, metadata=facts)
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight"):
        ranks.collect_trained(job)  # type: ignore[arg-type]
