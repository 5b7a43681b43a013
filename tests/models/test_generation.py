"""Batched decoding equals decoding one by one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.data.chat_template import prompt_ids
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.generation import generate
from tbr_lightning.reflection.checks import reject_reason
from tbr_lightning.reflection.teachers import Request, internal_teacher

from .conftest import ROWS


def test_batches_decode_what_single_prompts_decode(backbone: Backbone) -> None:
    prompts = [prompt_ids(backbone.tokenizer, "x" * n) for n in (40, 3, 17, 9, 28)]
    single = {}
    for number, ids in enumerate(prompts):
        with torch.inference_mode():
            out = backbone.model.generate(
                input_ids=torch.tensor([ids]), max_new_tokens=12, do_sample=False
            )
        single[number] = backbone.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    batched = dict(generate(backbone, prompts, max_new_tokens=12, batch_size=4))
    assert {number: made.text for number, made in batched.items()} == single


def test_too_large_a_batch_is_told_in_a_sentence(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backbone.model.get_decoder(), "forward", full)
    prompts = [prompt_ids(backbone.tokenizer, "x")]
    with pytest.raises(UserError, match=r"generation\.batch_size=64 does not fit .* a smaller"):
        list(generate(backbone, prompts, max_new_tokens=5, batch_size=64))


def test_a_cut_answer_is_marked_and_an_ended_one_is_not(backbone: Backbone) -> None:
    prompts = [prompt_ids(backbone.tokenizer, "x")]
    (made,) = [m for _, m in generate(backbone, prompts, max_new_tokens=5, batch_size=1)]
    assert (made.cut, made.new_tokens) == (True, 5)
    # A model whose end token always wins ends at once.
    with torch.no_grad():
        head = backbone.model.get_output_embeddings()
        head.weight.zero_()
    end = backbone.tokenizer.eos_token_id
    backbone.model.config.eos_token_id = end
    (made,) = [
        m
        for _, m in generate(
            backbone,
            prompts,
            max_new_tokens=5,
            batch_size=1,
            suppress_first=[i for i in range(len(backbone.tokenizer)) if i != end],
        )
    ]
    assert (made.cut, made.text) == (False, "")


@pytest.mark.parametrize("chat", [True, False])
def test_any_model_can_be_asked_to_reflect(backbone: Backbone, chat: bool) -> None:
    asked: list[str] = []

    def encode(text: str, **more: bool) -> list[int]:
        asked.append(text)
        return original(text, **more)

    original = backbone.tokenizer.encode
    backbone.tokenizer.encode = encode
    config = ReflectionConfig(teacher="internal", max_new_tokens=4, batch_size=2)
    teacher = internal_teacher(config, replace(backbone, has_own_template=chat), "random")
    drafts = dict(teacher.write(Request(ROWS)))
    assert set(drafts) == set(ROWS)
    assert {reject_reason(draft, "harmful") for draft in drafts.values()} <= {"cut", "empty"}
    assert all(draft.prompt_tokens > 100 for draft in drafts.values())
    (first, *_) = (text for text in asked if ROWS[0].instruction in text)
    # An instruct model is asked in its chat form, a base model by examples that it goes on from.
    assert first.startswith("<s>[user]" if chat else "Each request is followed by")
    assert first.endswith("[assistant]\n" if chat else "Reflection:")


def test_another_chat_template_is_another_prompt_of_the_internal_teacher(
    backbone: Backbone,
) -> None:
    def prompt_hash(template: str, *, chat: bool = True) -> str:
        tokenizer = deepcopy(backbone.tokenizer)
        tokenizer.chat_template = template
        here = replace(backbone, tokenizer=tokenizer, has_own_template=chat)
        return internal_teacher(ReflectionConfig(teacher="internal"), here, "x").prompt_hash

    assert prompt_hash("{{ messages }}") != prompt_hash("Think. {{ messages }}")
    assert prompt_hash("a", chat=False) == prompt_hash("b", chat=False)
