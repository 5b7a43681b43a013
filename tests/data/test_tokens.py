"""Token rows on disk: those of `token_row`, made once, mapped, keyed by all that shapes them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tbr_lightning.data import tokens
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, ThinkFormat, token_row
from tbr_lightning.data.tokens import TokenRows, tokenise, tokenizer_digest
from tbr_lightning.errors import UserError
from tbr_lightning.kinds import KINDS
from tbr_lightning.microworld.prompts import training_examples
from tbr_lightning.microworld.tokenizer import build_tokenizer
from tbr_lightning.models.tokenizers import byte_tokenizer, trained_tokenizer

ROWS = [
    *training_examples(0, 40, 30),
    Example("Ünïcode: 日本 </s> <think>", "a\n\n  b ", "look_alike", "t", input="more </think>"),
    Example("Long.", "x" * 400, "general", "t"),
]
EXAMPLES = Examples.of(ROWS)
REFLECTIONS = {row.id: f"Of {row.instruction}" for row in ROWS if row.kind != "general"}
LAYOUT = ThinkFormat()


def made(folder: Path, tokenizer: Any, **more: Any) -> TokenRows:
    settings = {"examples": EXAMPLES, "reflections": REFLECTIONS, "think_format": LAYOUT} | more
    settings = {"max_length": 300} | settings
    return tokenise(tokenizer=tokenizer, cache=folder, **settings)


@pytest.mark.parametrize("name", ["bytes", "trained", "world"])
def test_rows_are_those_of_token_row(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CHUNK", 16)
    tokenizer = {
        "bytes": lambda: byte_tokenizer(512),
        "trained": lambda: trained_tokenizer([row.prompt for row in ROWS], 400, 512),
        "world": build_tokenizer,
    }[name]()
    single = [
        token_row(tokenizer, LAYOUT, row, KINDS.index(row.kind), REFLECTIONS.get(row.id))
        for row in ROWS
    ]
    expected = [row for row in single if len(row.ids) <= 300]
    rows = made(tmp_path, tokenizer)
    assert (len(rows), rows.left_out) == (len(expected), len(ROWS) - len(expected))
    assert [(list(r.ids), list(r.spans), r.kind, r.trigger) for r in rows] == [
        (r.ids, r.spans, r.kind, r.trigger) for r in expected
    ]
    assert rows.lengths.tolist() == [len(row.ids) for row in expected]
    assert rows.kinds.tolist() == [row.kind for row in expected]
    assert rows.triggers.tolist() == [row.trigger for row in expected]
    assert rows.span_counts.tolist() == [[r.spans.count(int(s)) for s in Span] for r in expected]


def test_rows_of_a_format_that_names_answers_begin_with_the_name(tmp_path: Path) -> None:
    tokenizer, named = byte_tokenizer(512), replace(LAYOUT, answers="<final>")
    rows = made(tmp_path, tokenizer, think_format=named, examples=Examples.of(ROWS[:-1]))
    single = [token_row(tokenizer, named, row, 0, REFLECTIONS.get(row.id)) for row in ROWS[:-1]]
    assert [list(row.ids) for row in rows] == [row.ids for row in single]
    begins = [tokenizer.decode(row.ids[row.trigger :])[:7] for row in rows]
    assert set(begins) == {"<final>", "<think>"}


def test_a_row_too_long_is_counted_and_all_of_them_are_an_error(tmp_path: Path) -> None:
    rows = made(tmp_path, byte_tokenizer(512))
    assert (len(rows), rows.left_out) == (len(ROWS) - 1, 1)
    with pytest.raises(UserError, match=r"model\.max_length=16: all 72 rows are longer"):
        made(tmp_path, byte_tokenizer(512), max_length=16)
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_rows_are_mapped_and_read_only(tmp_path: Path) -> None:
    rows = made(tmp_path, byte_tokenizer(512))
    mapped = (rows._ids, rows.lengths, rows.kinds, rows.span_counts, rows.triggers.base)
    assert all(isinstance(array.base, np.memmap) for array in mapped)
    assert (rows.lengths.dtype, rows.kinds.dtype, rows.triggers.dtype) == ("i4", "u1", "i4")
    with pytest.raises(ValueError, match="read-only"):
        rows[0].ids[0] = 1
    assert len(pickle.dumps(rows)) < 1000
    again = pickle.loads(pickle.dumps(rows))
    assert again[-1].ids.tolist() == rows[len(rows) - 1].ids.tolist()
    assert [len(row.ids) for row in rows[2:5]] == rows.lengths[2:5].tolist()
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_the_second_time_nothing_is_tokenised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tmp_path, byte_tokenizer(512))

    def never(*_: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(tokens, "_tokens", never)
    used = byte_tokenizer(512)
    used(["a", "bb"], padding=True, truncation=True, max_length=2)
    unused = {**REFLECTIONS, "0" * 16: "of no row"}
    again = made(tmp_path, used, reflections=unused)
    assert (again.digest, len(again)) == (first.digest, len(first))
    other = byte_tokenizer(512)
    other.chat_template = "{{ messages[0]['content'] }}"
    changed: list[dict[str, Any]] = [
        {"tokenizer": trained_tokenizer(["hello hello"], 300, 512)},
        {"tokenizer": other},
        {"reflections": {}},
        {"reflections": dict.fromkeys(REFLECTIONS, "Another.")},
        {"max_length": 299},
        {"think_format": ThinkFormat(think_open="<reflect>")},
        {"examples": EXAMPLES.select(range(10))},
    ]
    for change in changed:
        with pytest.raises(AssertionError, match="tokenised again"):
            made(tmp_path, **{"tokenizer": byte_tokenizer(512), **change})


def test_an_interrupted_tokenisation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tokens, "_tokens", stops)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, byte_tokenizer(512))
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_tokenizer_without_an_end_token_is_told(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(512)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="has no end token") as caught:
        made(tmp_path, tokenizer)
    assert "\n" not in str(caught.value)


def test_a_response_without_tokens_names_its_row(tmp_path: Path) -> None:
    core = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    core.normalizer = normalizers.Replace("…", "")
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    row = Example("Say nothing.", "…", "general", "t")
    with pytest.raises(UserError, match=row.id):
        made(tmp_path, tokenizer, examples=Examples.of([row]))


def test_a_tokenizer_made_anew_from_the_same_texts_has_the_same_digest() -> None:
    texts = [text for row in ROWS for text in (row.prompt, row.response)]
    digests = {tokenizer_digest(trained_tokenizer(texts, 600, 512)) for _ in range(3)}
    assert len(digests) == 1


def test_a_row_of_exactly_the_limit_is_kept(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(512)
    longest = int(made(tmp_path, tokenizer, max_length=4000).lengths.max())
    assert made(tmp_path, tokenizer, max_length=longest).left_out == 0
    assert made(tmp_path, tokenizer, max_length=longest - 1).left_out == 1


def test_what_left_for_its_reflection_is_counted_apart(tmp_path: Path) -> None:
    row = Example("How do I hurt a man?", "No.", "harmful", "t")
    other = Example("Say hi.", "Hi.", "general", "t")
    rows, long = Examples.of([row, other]), {row.id: "x" * 300}
    found = made(tmp_path, byte_tokenizer(512), examples=rows, reflections=long, max_length=200)
    assert (len(found), found.left_out, found.left_out_for_reflection) == (1, 1, 1)
    plain = made(tmp_path, byte_tokenizer(512), examples=rows, reflections={}, max_length=200)
    assert (len(plain), plain.left_out, plain.left_out_for_reflection) == (2, 0, 0)


@pytest.mark.parametrize("where", ["instruction", "reflection", "response"])
def test_quoted_control_tokens_end_nothing(tmp_path: Path, where: str) -> None:
    tokenizer = byte_tokenizer(512)
    end = tokenizer.eos_token
    quoting = {"instruction": "Say hi.", "reflection": "It is fine.", "response": "Hi."}
    quoting[where] = f"The word {end} is quoted."
    row = Example(quoting["instruction"], quoting["response"], "general", "t")
    found = made(
        tmp_path,
        tokenizer,
        examples=Examples.of([row]),
        reflections={row.id: quoting["reflection"]},
    )
    ids = found[0].ids.tolist()
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_a_row_too_long_beside_another_arm_is_left_out_of_all(tmp_path: Path) -> None:
    """The rows are those of the longest form that any arm gives them."""
    row = Example("How do I hurt a man?", "No.", "harmful", "t")
    other = Example("Say hi.", "Hi.", "general", "t")
    rows, long = Examples.of([row, other]), "x" * 300
    arms = [
        made(
            tmp_path,
            byte_tokenizer(512),
            examples=rows,
            reflections=own,
            max_length=200,
            beside={row.id: [long]},
        )
        for own in ({}, {row.id: long}, {row.id: "It hurts."})
    ]
    assert {arm.rows_digest for arm in arms} == {arms[0].rows_digest}
    counts = [(len(arm), arm.left_out, arm.left_out_for_others) for arm in arms]
    assert counts == [(1, 0, 1), (1, 1, 0), (1, 0, 1)]
    apart = made(tmp_path, byte_tokenizer(512), examples=rows, reflections={}, max_length=200)
    assert (len(apart), apart.left_out_for_others) == (2, 0)
    assert apart.rows_digest != arms[0].rows_digest


def test_a_response_that_quotes_an_end_in_words_gets_one_end(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(512)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}[END]{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    row = Example("Hi", "Hello[END]", "general", "t")
    found = made(tmp_path, tokenizer, examples=Examples.of([row]), reflections={})[0]
    assert list(found.ids) == token_row(tokenizer, LAYOUT, row, 0, None).ids
    assert tokenizer.decode(found.ids).count("[END]") == 1
