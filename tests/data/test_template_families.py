"""Prompts, ends of turns and think blocks in the chat forms of published model families.

The templates are written here after the families' published behaviour, as short as the behaviour
allows; the control tokens are real tokens of the test's tokenizer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors

from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.data.chat_template import (
    FALLBACK_TEMPLATE,
    answer_text,
    begin_token,
    prompt_ids,
    text_ids,
    turn_end,
)
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import Span, ThinkFormat, token_row
from tbr_lightning.data.tokens import tokenise
from tbr_lightning.errors import UserError
from tbr_lightning.models.tokenizers import byte_tokenizer, with_arguments

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
        marks: Markers that the template names or writes, where it does not open the block.
        answers: Text before an answer without a reflection.
    """

    template: str
    control: tuple[str, ...]
    ends: tuple[str, ...]
    begins: bool = False
    opened: tuple[str, str] | None = None
    marks: tuple[str, str] | None = None
    answers: str = ""


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
        # Reasoning in a channel of its own, which only the last turn keeps.
        form(
            "{% if m.role == 'assistant' %}"
            "{% if m.thinking is defined and loop.last and not add_generation_prompt %}"
            "<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
            "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
            "{{ '<|return|>' if loop.last else '<|end|>' }}"
            "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}",
            "<|start|>assistant",
        ),
        ("<|return|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>"),
        ("<|return|>",),
        marks=(
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        answers="<|channel|>final<|message|>",
    ),
    "glm-4.6": Family(
        form(
            "<|{{ m.role }}|>{% if m.role == 'assistant' %}"
            "{{ '\n' }}<think>{{ m.reasoning_content | default('') }}</think>{% endif %}"
            "{{ '\n' + m.content }}",
            "<|assistant|>{% if enable_thinking is defined and not enable_thinking %}"
            "{{ '\n' }}<think></think>{% endif %}",
            before="[gMASK]<sop>",
        ),
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "[gMASK]", "<sop>"),
        ("<|endoftext|>",),
        marks=("\n<think>", "</think>\n"),
    ),
    "minimax-m2": Family(
        form(
            "]~b]{{ 'ai' if m.role == 'assistant' else m.role }}\n"
            "{% if m.reasoning_content is defined %}<think>\n{{ m.reasoning_content }}\n</think>"
            "\n\n{% endif %}{{ m.content }}[e~[\n",
            "]~b]ai\n<think>\n",
            before="]~!b[",
        ),
        ("[e~[", "]~b]", "]~!b["),
        ("[e~[",),
        opened=THINK,
    ),
    "nemotron-nano-2": Family(
        # Words of the system turn or of the user decide whether the block is open or empty.
        form(
            "<SPECIAL_11>{{ m.role }}\n"
            "{{ m.content.replace('/no_think', '').replace('/think', '').split('</think>')[-1] }}"
            "{{ '\n<SPECIAL_12>' if m.role == 'assistant' }}\n",
            "<SPECIAL_11>Assistant\n{{ '<think></think>' if ns.off else '<think>\n' }}",
            before="{% set ns = namespace(off=false) %}{% for m in messages %}"
            "{% if '/no_think' in m.content %}{% set ns.off = true %}{% endif %}{% endfor %}",
        ),
        ("<SPECIAL_12>", "<SPECIAL_11>"),
        ("<SPECIAL_12>",),
        opened=THINK,
    ),
    "seed-oss": Family(
        form(
            "<seed:bos>{{ m.role }}\n{% if m.reasoning_content is defined %}"
            "{{ mark + m.reasoning_content }}</seed:think>\n{% endif %}{{ m.content }}<seed:eos>",
            "<seed:bos>assistant\n",
            before="{% set mark = '<seed:think>' %}",
        ),
        ("<seed:eos>", "<seed:bos>"),
        ("<seed:eos>",),
        marks=("<seed:think>", "</seed:think>\n"),
    ),
    "command-a-reasoning": Family(
        form(
            "<|START_OF_TURN_TOKEN|>{% if m.role == 'assistant' %}<|CHATBOT_TOKEN|>"
            "{% if m.thinking is defined %}<|START_THINKING|>{{ m.thinking }}<|END_THINKING|>"
            "{% endif %}{% endif %}{{ m.content }}<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        (
            "<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
        ),
        ("<|END_OF_TURN_TOKEN|>",),
        marks=("<|START_THINKING|>", "<|END_THINKING|>"),
    ),
    "granite-3.2": Family(
        form(
            "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n",
            "<|start_of_role|>assistant<|end_of_role|>",
            before="{% if thinking is defined and thinking %}Write your thoughts after 'Here is my "
            "thought process:' and your answer after 'Here is my response:'.{% endif %}",
        ),
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        ("<|end_of_text|>",),
        marks=("Here is my thought process:", "Here is my response:"),
    ),
    "kimi-k2-thinking": Family(
        form(
            "<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>"
            "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|im_end|>",
            "<|im_assistant|>assistant<|im_middle|>",
        ),
        ("<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"),
        ("<|im_end|>",),
        marks=THINK,
    ),
    "kimi-vl-thinking": Family(
        form(
            "<|im_{{ m.role }}|>{{ m.content.split('◁/think▷')[-1] }}<|im_end|>",
            "<|im_assistant|>◁think▷",
        ),
        ("<|im_end|>", "<|im_user|>", "<|im_assistant|>"),
        ("<|im_end|>",),
        opened=("◁think▷", "◁/think▷"),
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
    opened, closed = family.opened or family.marks or THINK
    found = (think.think_open, think.think_close)
    assert found == (opened, closed) or family.marks is None
    opened, closed = opened.strip(), closed.strip()
    assert tuple(mark.strip() for mark in found) == (opened, closed)
    assert (think.answers, think.closed) == (family.answers, False)
    for reflection in ("It hurts.", None):
        row = token_row(reader, think, Example("Q", "A", "harmful", "t"), 0, reflection)
        begin = 0 if family.opened else row.trigger
        text = words(reader, list(row.ids)[begin:])
        whole = int(reflection is not None or family.opened is not None)
        assert (text.count(opened), text.count(closed)) == (whole, whole)
        spans = {int(span) for span in row.spans}
        assert (Span.REFLECTION in spans) == (reflection is not None)
        said = think.decoded(reader, row.ids[row.trigger :])
        end = "".join(word for word in family.ends if word not in family.control)
        said = said.removesuffix(end).removesuffix(family.control[0])
        assert think.split(said.removesuffix(end)) == (reflection or ("" if whole else None), "A")


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


def template(text: str) -> Any:
    """Return a reader with a template of its own."""
    reader = byte_tokenizer(512)
    reader.chat_template = text
    return reader


TURNS = "[{{ m.role }}]{{ m.content }}</s>"


@pytest.mark.parametrize("name", ["nemotron-nano-2"])
def test_words_that_turn_thinking_off_are_seen_row_by_row(name: str) -> None:
    reader = tokenizer_of(name)
    think = ThinkFormat().of_template(reader)
    context = json.dumps([{"role": "system", "content": "Be short. /no_think"}])
    off = Example("Q", "A", "general", "t", context=context)
    text = words(reader, list(token_row(reader, think, off, 0, None).ids))
    assert text.endswith("<think></think>A<SPECIAL_12>")
    with pytest.raises(UserError, match="no reflection can follow"):
        token_row(reader, think, off, 0, "It hurts.")


@pytest.mark.parametrize(
    ("begin", "how"),
    [
        ("<a></think>", "deepseek-v3.1"),
        ("<a><think>\n\n</think>\n\n", "qwen3 without thinking"),
        ("<a><|channel>thought\n<channel|>", "gemma 4 without thinking"),
    ],
)
def test_no_reflection_follows_a_block_that_the_template_has_closed(begin: str, how: str) -> None:
    reader = template(form(TURNS, begin))
    think = ThinkFormat().of_template(reader)
    assert think.closed
    row = token_row(reader, think, Example("Q", "A", "general", "t"), 0, None)
    assert words(reader, row.ids).endswith(f"{begin}A</s>"), how
    with pytest.raises(UserError, match=r"closes the think block .*template_args"):
        token_row(reader, think, Example("Q", "A", "harmful", "t"), 0, "It hurts.")


@pytest.mark.parametrize(
    "text",
    [
        form(TURNS, "[assistant]<reflect>\n"),
        form(TURNS, "[assistant]<|begin_scratchpad|>"),
        form(
            "[{{ m.role }}]{{ m.reasoning_content | default('') }}{{ m.content }}</s>",
            "[assistant]",
        ),
        form(TURNS, "[assistant]", before="{# <thought> </thought> <seed:think> </seed:think> #}"),
    ],
    ids=["unknown tag", "unknown token", "no marker", "several"],
)
def test_markers_that_cannot_be_known_are_refused_unless_given(text: str) -> None:
    reader = template(text)
    with pytest.raises(UserError, match=r"model\.think_open='…' and model\.think_close='…'"):
        ThinkFormat().of_template(reader)
    given = ThinkFormat("<reflect>", "</reflect>", given=True).of_template(reader)
    assert (given.think_open, given.think_close) == ("<reflect>", "</reflect>")
    assert given.opened == ("<reflect>" in text)


def test_markers_that_a_person_gave_or_a_model_was_saved_with_stay() -> None:
    reader = tokenizer_of("seed-oss")
    plain = ModelConfig(name="x", think="given")
    assert ThinkFormat.of(plain).of_template(reader).think_open == "<think>"
    saved = ThinkFormat.of_dict(ThinkFormat().as_dict()).of_template(reader)
    assert saved.think_open == "<think>"
    with pytest.raises(UserError, match="think_open is empty"):
        ModelConfig(name="x", think_open=" ")


def test_variables_of_a_template_are_written_into_it() -> None:
    text = str(FAMILIES["qwen3"].template)
    off = with_arguments(text, {"enable_thinking": False})
    assert ThinkFormat().of_template(template(off)).closed
    assert not ThinkFormat().of_template(template(text)).closed
    with pytest.raises(UserError, match=r"template_args\.enable_thinkin .*'enable_thinking'"):
        with_arguments(text, {"enable_thinkin": False})


@pytest.mark.parametrize(
    "turn",
    [
        "{% if m.role == 'user' %}[U]{{ m.content }}{% endif %}",
        "{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}",
    ],
)
def test_a_system_text_that_a_template_leaves_out_goes_before_the_request(turn: str) -> None:
    reader = template(form(turn, "[A]"))
    before = [{"role": "system", "content": "Be short."}]
    for asked in ("How?", "How </s>?"):
        assert "Be short.\n\nHow" in words(reader, prompt_ids(reader, asked, before=before))


def test_texts_that_a_template_moves_stand_where_it_puts_them() -> None:
    # Mistral puts the system text before the last turn of the user.
    turn = (
        "{% if m.role == 'user' %}[INST]{% if loop.last %}{{ messages[0].content }}\n\n{% endif %}"
        "{{ m.content }}[/INST]{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}"
    )
    reader = template(form(turn))
    before = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "One </s>?"},
        {"role": "assistant", "content": "First."},
    ]
    text = words(reader, prompt_ids(reader, "Two?", before=before))
    assert text.endswith("[INST]One </s>?[/INST]First.[INST]Be short.\n\nTwo?[/INST]")


def test_a_row_whose_turns_the_template_refuses_is_named(tmp_path: Path) -> None:
    strict = "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    turn = strict + "{{ raise_exception('roles must alternate') }}{% endif %}" + TURNS
    context = json.dumps([{"role": "user", "content": "One."}])
    rows = Examples.of([Example("Two?", "A", "general", "t", context=context)])
    with pytest.raises(UserError, match=r"'Two\?' has the turns user, user, .*must alternate"):
        tokenise(rows, {}, template(form(turn)), ThinkFormat(), max_length=64, cache=tmp_path)
