"""Batched decoding, longest prompts together so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tbr_lightning.data.layout import prompt_ids
from tbr_lightning.modeling.backbone import Backbone


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote.

    Attributes:
        text: Decoded, without the end token.
        new_tokens: Tokens written, the end token included.
        cut: It reached the limit before it ended by itself.
    """

    text: str
    new_tokens: int
    cut: bool


def reflection_prefix(backbone: Backbone, text: str) -> list[int]:
    """Return a prompt that asks for a reflection and opens the think block."""
    opened = backbone.tokenizer.encode(backbone.layout.think_open, add_special_tokens=False)
    return prompt_ids(backbone.tokenizer, text, backbone.layout.think_cue) + list(opened)


def generate(
    backbone: Backbone,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    suppress_first: Sequence[int] = (),
    seed: int | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Yield (number of the prompt, what was written), batch by batch.

    Args:
        backbone: The model.
        prompts: Token ids of each prompt.
        max_new_tokens: Limit per answer.
        batch_size: Prompts decoded together.
        temperature: 0 decodes greedily.
        suppress_first: Tokens that must not come first.
        seed: Of sampling; matters only with a temperature.
    """
    model, tokenizer = backbone.model, backbone.tokenizer
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {}
    if sampling:
        torch.manual_seed(seed or 0)
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        width = max(len(prompts[n]) for n in numbers)
        ids = torch.full((len(numbers), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for line, n in enumerate(numbers):
            ids[line, width - len(prompts[n]) :] = torch.tensor(prompts[n])
            mask[line, width - len(prompts[n]) :] = 1
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                begin_suppress_tokens=list(suppress_first) or None,
                **({"do_sample": False, "temperature": None, "top_p": None} | sampling),
            )
        for line, n in enumerate(numbers):
            made = out[line, width:].tolist()
            ended = tokenizer.eos_token_id in made
            made = made[: made.index(tokenizer.eos_token_id)] if ended else made
            text = tokenizer.decode(made, skip_special_tokens=True)
            yield n, Generated(text, len(made) + ended, not ended)
