"""Rows become tokens whose spans are known, and text comes apart again."""

from __future__ import annotations

import pytest

from tbr_lightning.config.schema import ObjectiveConfig
from tbr_lightning.data.batching import TrainBatches, row_weights
from tbr_lightning.data.example import Example
from tbr_lightning.data.layout import Layout, Span, TokenRow, prompt_ids, token_row
from tbr_lightning.modeling.tokenizers import byte_tokenizer

EXAMPLE = Example("How?", "No.", "harmful", "test")
LAYOUT = Layout()


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return byte_tokenizer(512)


def text_of(tokenizer: object, row: TokenRow, span: Span) -> str:
    return tokenizer.decode([t for t, s in zip(row.ids, row.spans, strict=True) if s == span])


def test_spans_cover_prompt_reflection_and_answer(tokenizer: object) -> None:
    row = token_row(tokenizer, LAYOUT, EXAMPLE, 1, "It hurts.")
    assert text_of(tokenizer, row, Span.REFLECTION) == "<think>It hurts.</think>"
    assert text_of(tokenizer, row, Span.ANSWER) == "No.</s>"
    assert row.ids[: row.trigger] == prompt_ids(tokenizer, "How?")
    assert tokenizer.decode([row.ids[row.trigger]]) == "<think>"


def test_a_row_without_reflection_has_no_think_block(tokenizer: object) -> None:
    row = token_row(tokenizer, LAYOUT, EXAMPLE, 1, None)
    assert Span.REFLECTION not in row.spans
    assert "think" not in tokenizer.decode(row.ids)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>It hurts.</think>No.", ("It hurts.", "No.")),
        (" <think>\nIt hurts.\n</think>\n\nNo.", ("It hurts.", "No.")),
        ("No.", (None, "No.")),
        ("<think>It never ends", ("It never ends", "")),
        ("<think></think>No.", ("", "No.")),
        ("No <think>later</think>.", (None, "No <think>later</think>.")),
        ("", (None, "")),
    ],
)
def test_a_response_splits_into_reflection_and_answer(
    text: str, parts: tuple[str | None, str]
) -> None:
    assert LAYOUT.split(text) == parts


def test_weights_fall_on_spans_and_trigger(tokenizer: object) -> None:
    row = token_row(tokenizer, LAYOUT, EXAMPLE, 1, "x")
    weights = row_weights(row, ObjectiveConfig(reflection_weight=0.5, trigger_weight=8))
    assert set(weights[: row.trigger]) == {0.0}
    assert weights[row.trigger] == 4.0
    assert weights[row.trigger + 1] == 0.5
    assert weights[-1] == 1.0


def rows_of(lengths: list[int]) -> list[TokenRow]:
    return [TokenRow([5] * n, [0] + [2] * (n - 1), 0) for n in lengths]


def batches(rows: list[TokenRow], **more: int) -> TrainBatches:
    settings = {"batch_size": 4, "accumulate": 1, "pad_id": 0, "seed": 0} | more
    return TrainBatches(rows, ObjectiveConfig(), **settings)


def test_an_epoch_holds_every_row_once_in_another_order() -> None:
    made = batches(rows_of(list(range(2, 25))), accumulate=2)
    plans = [made.plan(epoch) for epoch in (0, 1)]
    assert plans[0] != plans[1]
    for plan in plans:
        assert sorted(row for step in plan for part in step for row in part) == list(range(23))
    assert len(made) == sum(map(len, plans[0]))


def test_rows_of_a_step_are_random_and_its_micro_batches_of_similar_length() -> None:
    made = batches(rows_of([2] * 64 + [40] * 64), batch_size=8, accumulate=4)
    for step in made.plan(0):
        assert {len(made.rows[row].ids) for part in step for row in part} == {2, 40}
        lengths = [[len(made.rows[row].ids) for row in part] for part in step]
        assert sum(len(set(part)) > 1 for part in lengths) <= 1


def test_micro_batches_of_a_step_share_its_normalizer() -> None:
    rows = rows_of(list(range(2, 18)))
    for step in (batches(rows, batch_size=2, accumulate=4), batches(rows, batch_size=8)):
        made = list(step)
        # Lightning divides each micro-batch's loss by `accumulate`.
        total = sum(float(b.weights.sum()) / b.normalizer / step.accumulate for b in made)
        assert total == pytest.approx(len(made) / step.accumulate)
