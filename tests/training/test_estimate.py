"""The arithmetic of memory orders settings as measurements would."""

from __future__ import annotations

import pytest

from tbr_lightning.models.architecture import build_config
from tbr_lightning.training.estimate import RunEstimate, estimate

from .conftest import config_of

MISTRAL = 7_241_732_096


def of(*words: str, peak: float | None = None) -> RunEstimate:
    config = config_of("model=mistral", "data=microworld", "reflection=none", *words)
    architecture = build_config(config.model)
    return estimate(config, architecture, tokens=1_000_000, longest=512, peak=peak)


def memory(it: RunEstimate) -> float:
    return it.weights + it.states + it.activations


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_each_zero_stage_takes_less_than_the_one_before(precision: str) -> None:
    words = ("trainer.devices=8", f"trainer.precision={precision}")
    ddp, *stages = (
        of(f"trainer={name}", *words)
        for name in ("ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
    )
    assert memory(ddp) > memory(stages[0]) > memory(stages[1]) > memory(stages[2])
    # The published sizes: 2 + 2 + 12 bytes a parameter, of which each stage shares more.
    if precision == "bf16-true":
        assert [it.weights + it.states for it in stages] == [
            pytest.approx(MISTRAL * size, rel=1e-6)
            for size in (2 + 2 + 12 / 8, 2 + (2 + 12) / 8, 16 / 8)
        ]
    # Weights and gradients of 4 bytes, moments of 8.
    else:
        assert ddp.weights + ddp.states == pytest.approx(MISTRAL * 16, rel=1e-6)
    halved = of("trainer=deepspeed_zero3", "trainer.devices=16", *words[1:])
    assert halved.weights + halved.states < stages[2].weights + stages[2].states


def test_an_adapter_takes_less_than_all_weights_and_a_quantised_base_less_still() -> None:
    full, lora, qlora = (of(f"adapter={name}") for name in ("none", "lora", "qlora"))
    assert full.trained == full.parameters == MISTRAL
    assert lora.parameters == qlora.parameters == MISTRAL
    assert lora.trained == qlora.trained == 41_943_040
    assert memory(full) > memory(lora) > memory(qlora)
    assert full.flops > lora.flops
    assert of("adapter=lora", "adapter.r=32").trained == 2 * lora.trained


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_moves_states_to_the_host(stage: int) -> None:
    words = ("trainer=deepspeed_zero3", f"trainer.zero_stage={stage}", "trainer.devices=4")
    here, away = of(*words), of(*words, "trainer.offload=true")
    assert here.host == 0
    assert memory(away) < memory(here)
    assert away.host > 0
    moved = here.weights + here.states - away.weights - away.states
    assert away.host == pytest.approx(moved)
    assert away.weights == (0 if stage == 3 else here.weights)


def test_gradient_checkpointing_takes_less_memory_and_more_time() -> None:
    plain = of(peak=1e14)
    again = of("trainer.gradient_checkpointing=true", peak=1e14)
    assert again.activations < plain.activations / 2
    assert plain.seconds is not None
    assert again.seconds is not None
    assert again.seconds > plain.seconds


def test_a_smaller_micro_batch_and_more_devices_take_less() -> None:
    assert of("trainer.batch_size=1").activations < of("trainer.batch_size=8").activations
    two, four = (of("trainer=ddp", f"trainer.devices={n}", peak=1e14) for n in (2, 4))
    assert two.seconds is not None
    assert four.seconds == pytest.approx(two.seconds / 2)
    assert of().seconds is None


def test_both_sequences_of_a_pair_are_in_memory_at_once() -> None:
    single, pairs = of("objective=sft"), of("objective=dpo")
    assert pairs.activations > 1.9 * single.activations
    assert of("objective=dpo", "trainer.batch_size=16").activations == pytest.approx(
        of("objective=sft", "trainer.batch_size=32").activations
    )
