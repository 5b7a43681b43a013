"""bfloat16 where a device is fast in it; the numbers stay near float32's, and repeatable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from tbr_lightning.models import precision as of_models
from tbr_lightning.models.precision import computed_in, has_bfloat16_units
from tbr_lightning.training import precision as of_training
from tbr_lightning.training.fit import fit
from tbr_lightning.training.precision import precision_of, settled, training_dtype
from tbr_lightning.training.strategies import precision_plugin

from .conftest import config_of, fit_here, tiny_model

LORA = ("adapter=lora", "adapter.export=adapter")


def processor(monkeypatch: pytest.MonkeyPatch, *, units: bool) -> None:
    for module in (of_models, of_training):
        monkeypatch.setattr(module, "has_bfloat16_units", lambda _: units)


@pytest.mark.parametrize(
    ("words", "units", "expected"),
    [
        (("model=smollm2_135m",), True, ("bf16-mixed", "float32")),
        (("model=smollm2_135m", "adapter=lora"), True, ("bf16-mixed", "bfloat16")),
        (("model=smollm2_135m",), False, ("32-true", "float32")),
        (("model=smollm2_135m", "adapter=lora"), False, ("32-true", "float32")),
        (("model=smollm2_135m", "trainer.precision=32-true"), True, ("32-true", "float32")),
        (("model=smollm2_135m", "trainer.precision=bf16-mixed"), False, ("bf16-mixed", "float32")),
        (("model=tiny",), True, ("32-true", "float32")),
        (("model=smollm2_135m", "trainer=deepspeed_zero2"), True, ("32-true", "float32")),
        (
            ("model=smollm2_135m", "trainer=deepspeed_zero2", "trainer.accelerator=gpu"),
            True,
            ("bf16-true", "bfloat16"),
        ),
        (("model=smollm2_135m", "trainer=gpu"), False, ("32-true", "float32")),
    ],
)
def test_training_follows_the_device(
    words: tuple[str, ...],
    units: bool,
    expected: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(monkeypatch, units=units)
    config = config_of("data=microworld", "trainer.accelerator=cpu", *words)
    if "trainer=gpu" in words:
        config.trainer.accelerator = "gpu"
    assert (precision_of(config), training_dtype(config)) == expected
    assert settled(config, earlier=False).trainer.precision == expected[0]


def test_a_run_of_an_earlier_version_goes_on_as_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, units=True)
    config = config_of("data=microworld", "model=smollm2_135m")
    assert settled(config, earlier=True).trainer.precision == "32-true"
    assert settled(config, earlier=False).trainer.precision == "bf16-mixed"
    begun = settled(config, earlier=False)
    processor(monkeypatch, units=False)  # another machine
    assert settled(begun, earlier=True).trainer.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("units", "saved", "wanted", "expected"),
    [
        (True, "bfloat16", "auto", "bfloat16"),
        (False, "bfloat16", "auto", "float32"),
        (True, "float32", "auto", "float32"),
        (True, "float16", "auto", "bfloat16"),
        (False, "bfloat16", "bfloat16", "bfloat16"),
        (True, "bfloat16", "float32", "float32"),
    ],
)
def test_generation_follows_the_device(
    units: bool, saved: str, wanted: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, units=units)
    assert computed_in(saved, wanted, "cpu") == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
    ],
)
def test_units_are_those_of_the_processor(
    found: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    has_bfloat16_units.cache_clear()
    try:
        assert has_bfloat16_units("cpu") is expected
    finally:
        has_bfloat16_units.cache_clear()


@pytest.mark.parametrize("words", [(), pytest.param(LORA, marks=pytest.mark.slow)])
def test_losses_in_bfloat16_stay_near(words: tuple[str, ...], tmp_path: Path) -> None:
    model = ("model=llama2_7b", "trainer.max_steps=8", "trainer.epochs=8", *words)
    losses = []
    for name in ("32-true", "bf16-mixed"):
        folder = tmp_path / name
        folder.mkdir()
        job, _ = fit_here(folder, *model, f"trainer.precision={name}")
        history = MlflowClient().get_metric_history(job.run_id, "train/loss")
        losses.append([point.value for point in history])
    assert losses[0][-1] < losses[0][0] - 0.1
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_what_is_trained_stays_in_float32(tmp_path: Path) -> None:
    words = ("model=llama2_7b", "trainer.precision=bf16-mixed", "trainer.max_steps=2")
    _, fitted = fit_here(tmp_path, *words)
    assert {p.dtype for p in fitted.model.parameters()} == {torch.float32}


def test_a_weight_is_cast_once_for_all_micro_batches() -> None:
    config = config_of("data=microworld", "model=llama2_7b", "trainer.precision=bf16-mixed")
    plugin = precision_plugin(config)
    assert plugin is not None
    layer = torch.nn.Linear(8, 8, bias=False)
    x, casts = torch.randn(4, 8), []
    with plugin.kept():
        for _ in range(2):
            with plugin.forward_context():
                out = layer(x)
            casts.append(out.grad_fn.next_functions[-1][0].next_functions[0][0])
            out.float().sum().backward()
        assert len({str(cast) for cast in casts}) == 1
        twice, layer.weight.grad = layer.weight.grad, None
        with torch.no_grad():
            layer.weight.mul_(2)
        torch.clear_autocast_cache()
        with plugin.forward_context():
            doubled = layer(x)
    assert torch.allclose(twice, 2 * x.sum(0).expand(8, 8), rtol=0.02, atol=0.02)
    assert torch.allclose(doubled.float(), x @ layer.weight.T, rtol=0.02, atol=0.05)


def test_deepspeed_keeps_lightnings_own() -> None:
    words = ("data=microworld", "model=llama2_7b", "trainer.precision=bf16-mixed")
    assert precision_plugin(config_of(*words, "trainer=fsdp")) is None
    assert precision_plugin(config_of(*words, "trainer=ddp")) is not None


@pytest.mark.parametrize("words", [(), LORA])
def test_resuming_in_bfloat16_gives_the_same_bits(words: tuple[str, ...], tmp_path: Path) -> None:
    common = ("model=llama2_7b", "trainer.precision=bf16-mixed", "trainer.epochs=9", *words)
    common += ("trainer.checkpoint_every=2", "trainer.batch_size=4", "trainer.accumulate=2")
    job, whole = fit_here(tmp_path, *common, "trainer.max_steps=6")
    kept = job.checkpoints
    for file in kept.glob("step-00000006*"):
        file.unlink()
    again = fit(replace(job, what="again"), tiny_model(tmp_path, *common))
    one, other = (dict(m.named_parameters()) for m in (whole.model, again.model))
    assert all(torch.equal(one[name], other[name]) for name in one)
