"""Prompts, ends of turns and think blocks in the chat forms of published model families.

The templates are written here after the families' published behaviour, as short as the behaviour
allows; the control tokens are real tokens of the test's tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from tokenizers import AddedToken, processors

from tbr_lightning.data.example import Example
from tbr_lightning.data.think_format import (
    FALLBACK_TEMPLATE,
    Span,
    ThinkFormat,
    answer_text,
    begin_token,
    prompt_ids,
    text_ids,
    token_row,
    turn_end,
)
from tbr_lightning.models.tokenizers import byte_tokenizer

BOS = "{{ bos_token }}"


def form(turn: str, begin: str = "", before: str = "", otherwise: str = "") -> str:
    """Return a template: what is before all turns, each turn, and how the assistant begins."""
    return (
        f"{before}{{% for m in messages %}}{turn}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{begin}{{% else %}}{otherwise}{{% endif %}}"
    )


def by_role(user: str, assistant: str) -> str:
    return f"{{% if m.role == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}"


CHATML = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
INST = by_role("[INST]{{ m.content }}[/INST]", "{{ m.content }}</s>")


@dataclass(frozen=True)
class Family:
    """One chat form.

    Attributes:
        template: Jinja over messages.
        control: Its control tokens; the first ends every text that the model writes.
        ends: How a turn of the assistant ends.
        begins: The tokenizer puts its begin token before a text.
        opened: Markers of a think block that the template opens at the end of the prompt.
    """

    template: str
    control: tuple[str, ...]
    ends: tuple[str, ...]
    begins: bool = False
    opened: tuple[str, str] | None = None


THINK = ("<think>", "</think>")
CHATML_WORDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "qwen2.5": Family(form(CHATML, "<|im_start|>assistant\n"), CHATML_WORDS, ("<|im_end|>",)),
    "smollm2": Family(
        form(
            CHATML,
            "<|im_start|>assistant\n",
            before="{% if messages[0].role != 'system' %}<|im_start|>system<|im_end|>{% endif %}",
        ),
        ("<|im_end|>", "<|im_start|>"),
        ("<|im_end|>",),
    ),
    "qwen3": Family(
        # Takes thoughts out of earlier turns, and writes an empty block where none are wanted.
        form(
            "<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n",
            "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
            "<think>\n\n</think>\n\n{% endif %}",
        ),
        CHATML_WORDS,
        ("<|im_end|>",),
    ),
    "qwen3.5": Family(
        form(CHATML, "<|im_start|>assistant\n<think>\n"),
        CHATML_WORDS,
        ("<|im_end|>",),
        opened=THINK,
    ),
    "deepseek-r1": Family(
        form(
            by_role("<|User|>{{ m.content }}", "<|Assistant|>{{ m.content }}<|end_of_sentence|>"),
            "<|Assistant|><think>\n",
            before=BOS,
        ),
        ("<|end_of_sentence|>", "<|User|>", "<|Assistant|>"),
        ("<|end_of_sentence|>",),
        begins=True,
        opened=THINK,
    ),
    "magistral": Family(
        form(INST, "[THINK]", before=BOS),
        ("</s>", "[INST]", "[/INST]"),
        ("</s>",),
        begins=True,
        opened=("[THINK]", "[/THINK]"),
    ),
    "llama2": Family(
        form(by_role(BOS + "[INST] {{ m.content }} [/INST]", " {{ m.content }} </s>")),
        ("</s>",),
        ("</s>",),
        begins=True,
    ),
    "llama3": Family(
        form(
            "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            before=BOS,
        ),
        ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ("<|eot_id|>",),
        begins=True,
    ),
    "gemma": Family(
        form(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
            "{{ m.content | trim }}<end_of_turn>\n",
            "<start_of_turn>model\n",
            before=BOS
            + "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
        ),
        ("<eos>", "<start_of_turn>", "<end_of_turn>"),
        ("<end_of_turn>",),
        begins=True,
    ),
    "mistral": Family(
        form(INST, before=BOS), ("</s>", "[INST]", "[/INST]"), ("</s>",), begins=True
    ),
    "phi": Family(
        form(
            "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n",
            "<|assistant|>\n",
            otherwise="<|endoftext|>",
        ),
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ("<|end|>",),
    ),
    "zephyr": Family(
        form("<|{{ m.role }}|>\n{{ m.content }}</s>\n", "<|assistant|>\n"),
        ("</s>",),
        ("</s>",),
        begins=True,
    ),
    "vicuna": Family(
        form(
            by_role("USER: {{ m.content }} ", "ASSISTANT: {{ m.content }}</s>"),
            "ASSISTANT:",
            before=BOS,
        ),
        ("</s>",),
        ("</s>",),
        begins=True,
    ),
    "command-r": Family(
        form(
            "<|START_OF_TURN_TOKEN|>{{ m.content }}<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            before=BOS,
        ),
        (
            "<|END_RESPONSE|>",
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ),
        ("<|END_OF_TURN_TOKEN|>",),
        begins=True,
    ),
    "gpt-oss": Family(
        form(
            "<|start|>{{ m.role }}<|message|>{{ m.content }}"
            "{{ '<|return|>' if m.role == 'assistant' else '<|end|>' }}",
            "<|start|>assistant",
        ),
        ("<|return|>", "<|start|>", "<|message|>", "<|end|>"),
        ("<|return|>",),
    ),
    "a base model": Family(FALLBACK_TEMPLATE, ("<eos>",), ("<eos>",), begins=True),
    "ends in plain words": Family(
        form("<turn {{ m.role }}>{{ m.content }}</turn>\n", "<turn model>"),
        ("<eos>",),
        ("</turn>", "<eos>"),
    ),
}

every_family = pytest.mark.parametrize("name", FAMILIES)


def tokenizer_of(name: str) -> Any:
    family, reader = FAMILIES[name], byte_tokenizer(512)
    core = reader.backend_tokenizer
    core.add_special_tokens([AddedToken(w, special=True, normalized=False) for w in family.control])
    reader.eos_token = family.control[0]
    if family.begins:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", reader.convert_tokens_to_ids("<s>"))]
        )
    reader.chat_template = family.template
    return reader


def words(reader: Any, ids: list[int]) -> str:
    return str(reader.decode(ids, skip_special_tokens=False))


@every_family
def test_a_prompt_begins_once_where_the_tokenizer_begins_a_text(name: str) -> None:
    reader = tokenizer_of(name)
    ids = prompt_ids(reader, "How?")
    assert (begin_token(reader) is not None) == FAMILIES[name].begins
    assert ids.count(reader.bos_token_id) == int(FAMILIES[name].begins)
    assert ids[:1] == [reader.bos_token_id] or not FAMILIES[name].begins
    assert "How?" in words(reader, ids)


@every_family
def test_an_answer_ends_as_the_template_ends_a_turn(name: str) -> None:
    reader = tokenizer_of(name)
    assert words(reader, turn_end(reader)) == "".join(FAMILIES[name].ends)
    think = ThinkFormat().of_template(reader)
    row = token_row(reader, think, Example("Q", "A", "general", "t"), 0, None)
    end = turn_end(reader)
    assert row.ids[-len(end) :] == end
    quoting = "A" + "".join(FAMILIES[name].ends[:1])
    assert answer_text(reader, quoting) == "A"


@every_family
def test_a_think_block_is_opened_once_and_closed_once(name: str) -> None:
    family, reader = FAMILIES[name], tokenizer_of(name)
    think = ThinkFormat().of_template(reader)
    assert think.opened == (family.opened is not None)
    opened, closed = family.opened or THINK
    assert (think.think_open, think.think_close) == (opened, closed)
    for reflection in ("It hurts.", None):
        row = token_row(reader, think, Example("Q", "A", "harmful", "t"), 0, reflection)
        text = words(reader, list(row.ids))
        whole = int(reflection is not None or family.opened is not None)
        assert (text.count(opened), text.count(closed)) == (whole, whole)
        spans = {int(span) for span in row.spans}
        assert (Span.REFLECTION in spans) == (reflection is not None)


@every_family
def test_quoted_control_tokens_are_text(name: str) -> None:
    reader = tokenizer_of(name)
    control = {reader.convert_tokens_to_ids(word) for word in FAMILIES[name].control}
    plain = prompt_ids(reader, "Say x twice")
    for word in FAMILIES[name].control:
        assert not control & set(text_ids(reader, f"Say {word}."))
        quoted = prompt_ids(reader, f"Say {word} twice")
        count = sum(token in control for token in quoted)
        assert count == sum(token in control for token in plain)
        assert word in words(reader, quoted)


@pytest.mark.parametrize(
    ("text", "opened", "reflection", "answer"),
    [
        ("<think>a</think>b", False, "a", "b"),
        ("<think>a</think>\n<think>b</think>c", False, "a\n\nb", "c"),
        ("<think>a <think>b</think> c</think>d", False, "a b c", "d"),
        ("<think>a <think>b</think>c", False, "a b", "c"),
        ("<think>never closed", False, "never closed", ""),
        ("Well.\n<think>a</think>b", False, "a", "Well.\n\nb"),
        ("It is written <think> there.", False, None, "It is written <think> there."),
        ("a</think>\n\nb", False, "a", "b"),
        ("a</think>\n\nb", True, "a", "b"),
        ("</think>b", True, "", "b"),
        ("<think>a</think>b", True, "a", "b"),
        ("never closed", True, "never closed", ""),
        ("plain", False, None, "plain"),
    ],
)
def test_splitting(text: str, opened: bool, reflection: str | None, answer: str) -> None:
    assert ThinkFormat(opened=opened).split(text) == (reflection, answer)
