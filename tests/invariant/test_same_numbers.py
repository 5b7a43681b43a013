"""Settings that change how a step is computed must not change what it computes."""

from __future__ import annotations

import pytest

from ..support.trajectories import Train, Trajectory

pytestmark = pytest.mark.slow

# Sums in another order, over ten steps of AdamW, which divides by small numbers. One rounding to
# bfloat16 is up to 2^-9 = 0.002 of a value, and a layout rounds other partial sums.
_TOLERANCE = {"32-true": 2e-4, "bf16-mixed": 1e-2}
_PRECISIONS = pytest.mark.parametrize("precision", _TOLERANCE)


def assert_same(one: Trajectory, other: Trajectory, precision: str) -> None:
    for key, values in one.items():
        assert len(values) == len(other[key]) == 10
        assert other[key] == pytest.approx(values, rel=_TOLERANCE[precision]), key


@_PRECISIONS
@pytest.mark.parametrize("model", ["mistral", "gemma2_2b"])
def test_the_layout_of_a_step_does_not_matter(train: Train, model: str, precision: str) -> None:
    chosen = [f"model={model}", f"trainer.precision={precision}"]
    whole = train(*chosen, "trainer.batch_size=8")
    assert whole["train/loss"][-1] < whole["train/loss"][0] - 0.2
    for words in (
        ["trainer.batch_size=4", "trainer.accumulate=2"],
        ["trainer.batch_size=8", "trainer.batching=padded"],
        ["trainer.batch_size=4", "trainer.accumulate=2", "trainer.batching=packed"],
        ["trainer.batch_size=8", "trainer.gradient_checkpointing=true"],
    ):
        assert_same(whole, train(*chosen, *words), precision)


@_PRECISIONS
def test_ranks_do_not_matter(train: Train, precision: str) -> None:
    chosen = ["model=mistral", f"trainer.precision={precision}"]
    whole = train(*chosen, "trainer.batch_size=8")
    for words in (
        ["trainer=ddp", "trainer.batch_size=4"],
        ["trainer=deepspeed_zero1", "trainer.batch_size=4"],
        ["trainer=deepspeed_zero2", "trainer.batch_size=2", "trainer.accumulate=2"],
        ["trainer=deepspeed_zero3", "trainer.batch_size=4"],
    ):
        assert_same(whole, train(*chosen, *words), precision)


def test_ranks_do_not_matter_to_an_adapter(train: Train) -> None:
    adapter = ["model=mistral", "adapter=lora", "trainer.precision=32-true"]
    whole = train(*adapter, "trainer.batch_size=8")
    for words in (
        ["trainer=deepspeed_zero2", "trainer.batch_size=4"],
        ["trainer=deepspeed_zero3", "trainer.batch_size=4", "adapter.export=adapter"],
    ):
        assert_same(whole, train(*adapter, *words), "32-true")


def test_bfloat16_under_deepspeed_stays_near(train: Train) -> None:
    whole = train("model=mistral", "trainer.precision=32-true", "trainer.batch_size=8")
    half = train(
        "model=mistral",
        "trainer=deepspeed_zero2",
        "trainer.batch_size=4",
        "trainer.precision=bf16-true",
    )
    assert half["train/loss"] == pytest.approx(whole["train/loss"], rel=0.01)
