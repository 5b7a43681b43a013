"""Batched decoding equals decoding one by one."""

from __future__ import annotations

import torch

from tbr_lightning.data.layout import prompt_ids
from tbr_lightning.modeling.backbone import Backbone
from tbr_lightning.modeling.generation import generate


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
