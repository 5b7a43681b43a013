"""Rows become tokens whose spans are known, and text comes apart again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.data.chat_template import prompt_ids
from tbr_lightning.data.example import Example
from tbr_lightning.data.think_format import Span, ThinkFormat, TokenRow, row_tokens, token_row
from tbr_lightning.errors import UserError
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


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>a</think>\n<think>b</think>c", ("a\n\nb", "c")),  # of several all
        ("<think>a <think>b</think> c</think>d", ("a b c", "d")),  # one within another
        ("<think>a <think>b</think>c", ("a b", "c")),  # whose end is missing
        ("Hm.\n<think>a</think>\nNo.", ("a", "Hm.\n\nNo.")),  # lines before it are answer
        ("Hm.\n  <think>a</think>No.", ("a", "Hm.\n\nNo.")),
        ("Hm.\n<think>a", (None, "Hm.\n<think>a")),  # later, and never closed: no block
        ("a</think>No.", ("a", "No.")),  # only closed: the template opened it
        ("No.\n<think></think>", ("", "No.")),
    ],
)
def test_blocks_are_found_wherever_they_stand(text: str, parts: tuple[str | None, str]) -> None:
    assert LAYOUT.split(text) == parts


def test_a_block_that_the_template_opened_begins_within_the_response() -> None:
    opened = replace(LAYOUT, opened=True)
    assert opened.split("a</think>No.") == ("a", "No.")
    assert opened.split("It never ends") == ("It never ends", "")
    assert opened.split("<think>a</think>No.") == ("a", "No.")
    assert LAYOUT.split("It never begins") == (None, "It never begins")


def test_an_answer_without_reflection_may_have_a_name() -> None:
    channel = ThinkFormat("<|a|>", "<|end|>", answers="<|final|>")
    assert channel.split("<|final|> No.") == (None, "No.")
    assert channel.split("<|a|>x<|end|>No.") == ("x", "No.")


def test_what_opens_a_block_and_what_a_response_without_one_begins_with() -> None:
    opened, named = replace(LAYOUT, opened=True), replace(LAYOUT, answers="<final>")
    assert [one.begin for one in (LAYOUT, opened)] == ["<think>", ""]
    assert [one.without for one in (LAYOUT, opened, named)] == ["", "</think>", "<final>"]
    assert LAYOUT.described == "think format: <think> … </think>"
    assert opened.described == "think format: <think> … </think>, opened by the chat template"
    assert "no reflection can follow" in replace(LAYOUT, closed=True).described
    assert named.described.endswith("</think>; <final> before an answer without one")


def test_the_cue_names_the_markers_unless_it_was_configured() -> None:
    own = ThinkFormat("<a> ", "</a>\n")
    assert own.cue == (
        f"{ModelConfig.think_cue} Write your thoughts between <a> and </a>, then write the answer."
    )
    assert replace(own, think_cue="Think.").cue == "Think."


def test_the_end_of_a_prompt_decides_whether_a_block_is_open() -> None:
    for prompt, state in (
        ("user: x\nassistant: <think>\n", (True, False)),
        ("user: x\nassistant: <think>\n\n</think>\n\n", (False, True)),
        ("user: x\nassistant: ", (False, False)),
    ):
        found = LAYOUT.after(prompt)
        assert (found.opened, found.closed) == state
        assert found.after(prompt) is found
    assert LAYOUT.after("user: x\nassistant: ") is LAYOUT


def test_a_format_is_saved_with_its_markers() -> None:
    own = ThinkFormat("<a>", "</a>", "Think.", 7, answers="<b>")
    again = ThinkFormat.of_dict(own.as_dict())
    assert again == own and again.given
    assert ThinkFormat.saved(SimpleNamespace(tbr=own.as_dict())) == own
    assert ThinkFormat.saved(SimpleNamespace(tbr="x")) == ThinkFormat.saved(None) == ThinkFormat()
    assert not ThinkFormat.of(ModelConfig()).given
    assert ThinkFormat.of(ModelConfig(think="given")).given
    assert ThinkFormat.of(ModelConfig(think_open="<a>")).given
    assert ThinkFormat.of(ModelConfig(think_close="</a>")).given


def test_tokens_of_a_row_where_the_template_has_opened_or_closed_the_block(
    tokenizer: object,
) -> None:
    opened, closed = replace(LAYOUT, opened=True), replace(LAYOUT, closed=True)
    assert [tokenizer.decode(ids) for ids in row_tokens(tokenizer, opened, "No.", "It.")] == [
        "It.</think>",
        "No.</s>",
    ]
    assert [tokenizer.decode(ids) for ids in row_tokens(tokenizer, opened, "No.", None)] == [
        "",
        "</think>No.</s>",
    ]
    assert [tokenizer.decode(ids) for ids in row_tokens(tokenizer, closed, "No.", None)] == [
        "",
        "No.</s>",
    ]
    assert row_tokens(tokenizer, LAYOUT, "", None) == ([], [])
    with pytest.raises(UserError, match="closes the think block before the answer"):
        row_tokens(tokenizer, closed, "No.", "It.")


def test_the_trigger_is_the_first_supervised_token() -> None:
    assert TokenRow([7, 8, 9, 10], [0, 0, 2, 2], 0).trigger == 2
    assert TokenRow([7, 8, 9], [0, 1, 2], 0).trigger == 1
