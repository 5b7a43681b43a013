"""Rows become tokens whose spans are known, and text comes apart again."""

from __future__ import annotations

import pytest

from tbr_lightning.data.chat_template import prompt_ids
from tbr_lightning.data.example import Example
from tbr_lightning.data.think_format import Span, ThinkFormat, TokenRow, token_row
from tbr_lightning.models.tokenizers import byte_tokenizer

EXAMPLE = Example("How?", "No.", "harmful", "test")
LAYOUT = ThinkFormat()


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
