"""Which rows stand in which step, on which rank, after a restart too."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.data.tokens import TokenRows, tokenise
from tbr_lightning.errors import UserError
from tbr_lightning.models.tokenizers import byte_tokenizer
from tbr_lightning.objectives.batch import Batch
from tbr_lightning.objectives.sft import SFT
from tbr_lightning.training.batches import TrainBatches

from .conftest import tiny_model

WEIGHTED = SFT(reflection_weight=0.5, answer_weight=2, trigger_weight=8)


def made(folder: Path, lengths: list[int]) -> TokenRows:
    """Return rows whose instruction names them and whose answers have these lengths."""
    examples = [Example(f"Row {i}.", "a" * n, "general", "t") for i, n in enumerate(lengths)]
    reflections = {row.id: "It hurts." for row in examples[::3]}
    tokenizer = byte_tokenizer(512)
    return tokenise(
        Examples.of(examples), reflections, tokenizer, ThinkFormat(), max_length=500, cache=folder
    )


@pytest.fixture
def rows(tmp_path: Path) -> TokenRows:
    return made(tmp_path, list(range(1, 24)))


def batches(rows: TokenRows, **more: Any) -> TrainBatches:
    settings = {"batch_size": 4, "accumulate": 1, "pad_id": 0, "seed": 0} | more
    return TrainBatches(rows, WEIGHTED, **settings)


def rows_of(batch: Batch, rows: TokenRows) -> list[tuple[int, ...]]:
    """Return the texts of a batch's rows that count for something."""
    assert batch.attention_mask is not None
    return sorted(
        tuple(ids[: int(mask.sum())].tolist())
        for ids, mask, weights in zip(
            batch.input_ids, batch.attention_mask, batch.weights, strict=True
        )
        if weights.sum()
    )


def steps_of(rows: TokenRows, **more: Any) -> list[list[tuple[int, ...]]]:
    """Return the rows of each optimizer step over all ranks."""
    world, accumulate = more.get("world", 1), more.get("accumulate", 1)
    ranks = [list(batches(rows, rank=rank, **more)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    steps: list[list[tuple[int, ...]]] = []
    for number in range(len(ranks[0])):
        if number % accumulate == 0:
            steps.append([])
        for rank in ranks:
            steps[-1] = sorted([*steps[-1], *rows_of(rank[number], rows)])
    return steps


def test_an_epoch_holds_every_row_once_in_another_order(rows: TokenRows) -> None:
    plans = [batches(rows, accumulate=2).plan(epoch) for epoch in range(3)]
    for plan in plans:
        assert sorted(row for step in plan for part in step for row in part) == list(range(23))
    assert plans[0] != plans[1] != plans[2]
    assert batches(rows, accumulate=2).plan(1) == plans[1]
    assert batches(rows, accumulate=2, seed=1).plan(1) != plans[1]
    # Seeds that follow each other must not give the epochs of each other.
    assert batches(rows, accumulate=2, seed=1).plan(0) not in plans


@pytest.mark.parametrize("form", ["bucketed", "padded"])
def test_a_step_has_the_same_rows_however_it_is_divided(rows: TokenRows, form: str) -> None:
    whole = steps_of(rows, batch_size=8, form=form)
    assert [len(step) for step in whole] == [8, 8, 7]
    for more in (
        {"batch_size": 4, "accumulate": 2},
        {"batch_size": 4, "world": 2},
        {"batch_size": 2, "accumulate": 2, "world": 2},
        {"batch_size": 1, "accumulate": 4, "world": 2},
    ):
        assert steps_of(rows, form=form, **more) == whole


def test_every_rank_has_as_many_micro_batches_in_a_last_step_of_fewer_rows(tmp_path: Path) -> None:
    rows = made(tmp_path, list(range(1, 10)))  # 9 rows: the last step has one for 8 micro-batches
    settings = {"batch_size": 1, "accumulate": 4, "world": 2}
    ranks = [list(batches(rows, rank=rank, **settings)) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [8, 8]
    assert len(batches(rows, **settings)) == 8
    last = [batch for rank in ranks for batch in rank[4:]]
    assert sum(bool(batch.weights.sum()) for batch in last) == 1
    assert all(batch.input_ids.numel() for batch in last)
    assert len({batch.step_weight for batch in last}) == 1
    assert steps_of(rows, **settings) == steps_of(rows, batch_size=8)


@pytest.mark.parametrize("form", ["bucketed", "packed"])
def test_a_batch_that_only_fills_a_place_adds_nothing(tmp_path: Path, form: str) -> None:
    backbone = tiny_model(tmp_path, "model=llama2_7b")
    rows = made(tmp_path, [5])
    (real, filler) = batches(rows, batch_size=1, accumulate=2, form=form)
    assert (real.real_tokens > 0, filler.real_tokens) == (True, 0)
    outcome = SFT().loss(backbone.model, filler)
    assert outcome.total.item() == 0
    assert not outcome.parts.any()
    outcome.total.backward()  # under DDP every rank has to
    assert all(not p.grad.any() for p in backbone.model.parameters())


@pytest.mark.parametrize("more", [{}, {"accumulate": 2}, {"accumulate": 2, "world": 2, "rank": 1}])
def test_an_epoch_goes_on_where_it_was_left(rows: TokenRows, more: dict[str, int]) -> None:
    settings = {"batch_size": 2, **more}
    accumulate = more.get("accumulate", 1)
    steps = batches(rows, **settings).steps_per_epoch
    for epoch in range(2):
        whole = list(batches(rows, position=lambda e=epoch: e * steps, **settings))
        for done in range(1, steps):
            rest = batches(rows, position=lambda e=epoch, d=done: e * steps + d, **settings)
            for one, other in zip_longest(rest, whole[done * accumulate :]):
                assert one.input_ids.equal(other.input_ids)
                assert one.step_weight == other.step_weight


def test_weights_fall_on_spans_and_trigger_and_are_known_without_reading(rows: TokenRows) -> None:
    totals = WEIGHTED.totals(rows)
    for row, total in zip(rows, totals, strict=True):
        weights = WEIGHTED.token_weights(np.asarray(row.spans), row.trigger)
        assert not weights[: row.trigger].any()
        assert weights[row.trigger] in (4.0, 16.0)
        assert weights[-1] == 2
        assert total == pytest.approx(weights.sum())


def test_micro_batches_and_ranks_share_the_weight_of_their_step(rows: TokenRows) -> None:
    settings = {"batch_size": 2, "accumulate": 2, "world": 2}
    ranks = [list(batches(rows, rank=rank, **settings)) for rank in range(2)]
    for start in range(0, len(ranks[0]), 2):
        step = [batch for rank in ranks for batch in rank[start : start + 2]]
        found = sum(float(batch.weights.sum()) for batch in step)
        assert [batch.step_weight for batch in step] == pytest.approx([found] * 4)


def test_rows_of_a_step_are_random_and_its_micro_batches_of_similar_length(tmp_path: Path) -> None:
    rows = made(tmp_path, [2, 90] * 64)  # numbers tell nothing of lengths
    for step in batches(rows, batch_size=8, accumulate=4).plan(0):
        lengths = [[rows.lengths[i] > 60 for i in part] for part in step]
        assert {long for part in lengths for long in part} == {True, False}
        assert sum(len(set(part)) > 1 for part in lengths) <= 1


def test_weights_that_leave_nothing_to_learn_are_told(tmp_path: Path) -> None:
    rows = made(tmp_path, [5, 6])
    for weights in (
        SFT(answer_weight=0, reflection_weight=0),
        SFT(answer_weight=0, trigger_weight=0),
    ):
        row = rows if weights.reflection_weight == 0 else plain(tmp_path)
        with pytest.raises(UserError, match=r"objective\.answer_weight=0"):
            TrainBatches(row, weights, batch_size=1, accumulate=1, pad_id=0, seed=0)


def plain(folder: Path) -> TokenRows:
    """Return one row without a reflection."""
    rows = [Example("Say hi.", "Hi.", "general", "t")]
    return tokenise(
        Examples.of(rows), {}, byte_tokenizer(512), ThinkFormat(), max_length=500, cache=folder
    )


def test_packed_rows_stand_without_padding_and_count_positions_anew(rows: TokenRows) -> None:
    for batch in batches(rows, form="packed"):
        assert batch.attention_mask is None
        assert batch.position_ids is not None
        assert batch.input_ids.numel() == batch.real_tokens
        starts = (batch.position_ids == 0).sum()
        assert starts == batch.triggers.sum()
