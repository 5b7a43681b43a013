"""Which tokens of a prompt drive a refusal: integrated gradients of its log-probability.

Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017. The path runs from a prompt
whose own words are all replaced by one meaningless token to the prompt; what the chat template adds
stays as it is. The scores add up to the difference of the two log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients

from tbr_lightning.data.chat_template import prompt_ids
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone

_STEPS = (16, 32, 64, 128, 256)
_TOLERANCE = 0.05  # the scores' sum may miss the difference by this share of it
_CHUNK = 16  # points of the path in one forward pass
_FAINT = 0.1  # share of the mean norm: a shorter embedding is taken for unused


@dataclass(frozen=True, slots=True)
class Word:
    """A piece of a prompt's text between blanks.

    Attributes:
        text: The piece itself.
        start: Index of its first character in the prompt.
        score: Contribution to the log-probability of the refusal.
    """

    text: str
    start: int
    score: float

    @property
    def end(self) -> int:
        """Index after its last character."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Attribution:
    """The attribution of one refusal to words.

    Attributes:
        prompt: The request.
        refusal: The sentence whose log-probability is explained.
        words: Words of the prompt, in order.
        difference: Log-probability with the prompt minus that with the meaningless one.
        error: Sum of the scores minus ``difference``.
    """

    prompt: str
    refusal: str
    words: tuple[Word, ...]
    difference: float
    error: float


def attribute(backbone: Backbone, prompt: str, between: str, refusal: str) -> Attribution:
    """Return the contribution of each word of a prompt to a refusal.

    Args:
        backbone: The model.
        prompt: The request.
        between: Text that the model wrote before the refusal (its think block); may be empty.
        refusal: Sentence of the model that refuses.

    Raises:
        UserError: The tokens of the prompt cannot be found in what the chat template makes of it.
    """
    tokenizer = backbone.tokenizer
    ids = prompt_ids(tokenizer, prompt)
    spans = _spans(tokenizer, prompt, ids)
    context = list(tokenizer.encode(between, add_special_tokens=False)) if between else []
    target = list(tokenizer.encode(refusal, add_special_tokens=False))
    own = [place for place, span in enumerate(spans) if span is not None]
    scores, difference = integrated_gradients(backbone, ids + context, target, own)
    words = _words(prompt, [(spans[place], scores[place]) for place in own])
    return Attribution(prompt, refusal, words, difference, sum(scores) - difference)


def integrated_gradients(
    backbone: Backbone, context: Sequence[int], target: Sequence[int], own: Sequence[int]
) -> tuple[list[float], float]:
    """Return a score for each token of ``context``, and what they should add up to.

    Args:
        backbone: The model.
        context: Token ids before the target.
        target: Token ids whose log-probability is explained.
        own: Positions in the context that the baseline replaces; all others score 0.
    """
    model = backbone.model
    table = model.get_input_embeddings()
    ids = torch.tensor([*context, *target], device=model.device)
    with torch.no_grad():
        real = table(ids).float()
        blank = real.clone()
        blank[list(own)] = table(torch.tensor(_blank(backbone), device=model.device)).float()

    def log_probability(embedded: torch.Tensor) -> torch.Tensor:
        logits = model(inputs_embeds=embedded.to(model.dtype), use_cache=False).logits
        shares = logits[:, len(context) - 1 : -1].float().log_softmax(-1)
        wanted = ids[len(context) :].expand(len(embedded), -1)
        return shares.gather(2, wanted[..., None]).sum((1, 2))

    with torch.no_grad():
        both = log_probability(torch.stack([real, blank])).tolist()
    difference = both[0] - both[1]
    method, scores = IntegratedGradients(log_probability), list[float]()
    for steps in _STEPS:
        found = method.attribute(real[None], blank[None], n_steps=steps, internal_batch_size=_CHUNK)
        scores = found[0, : len(context)].sum(-1).tolist()
        if abs(sum(scores) - difference) <= _TOLERANCE * max(abs(difference), 1.0):
            break
    return scores, difference


def _blank(backbone: Backbone) -> int:
    """Return a token that means nothing, with an embedding that is not close to zero.

    From zero the path would cross where normalisation layers jump.
    """
    table = backbone.model.get_input_embeddings().weight.detach().float()
    typical = float(table.norm(dim=1).mean())
    names = ("pad_token_id", "unk_token_id", "eos_token_id", "bos_token_id")
    known = [getattr(backbone.tokenizer, name) for name in names]
    tokens = [token for token in known if token is not None]
    fit = [token for token in tokens if float(table[token].norm()) > _FAINT * typical]
    return int((fit or tokens or [0])[0])


def _spans(tokenizer: Any, prompt: str, ids: Sequence[int]) -> list[tuple[int, int] | None]:
    """Return the span of each token in the prompt, or ``None`` for the template's tokens."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    start = rendered.rfind(prompt.strip())
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    if start < 0 or list(encoded["input_ids"]) != list(ids):
        raise UserError(
            f"attribution: the chat template of {tokenizer.name_or_path} changes the prompt "
            f"'{prompt[:60]}', so that its tokens cannot be found: use attribution=false"
        )
    start -= len(prompt) - len(prompt.lstrip())
    end = start + len(prompt.rstrip())
    found: list[tuple[int, int] | None] = []
    for low, high in encoded["offset_mapping"]:
        inside = low < end and high > start and high > low
        found.append((max(low - start, 0), min(high, end) - start) if inside else None)
    return found


def _words(prompt: str, scored: Sequence[tuple[tuple[int, int] | None, float]]) -> tuple[Word, ...]:
    """Add up the scores of the tokens that overlap a word most."""
    places, at = [], 0
    for word in prompt.split():
        at = prompt.index(word, at)
        places.append((at, at + len(word)))
        at += len(word)
    sums = [0.0] * len(places)
    for span, score in scored:
        assert span is not None
        overlaps = [min(span[1], high) - max(span[0], low) for low, high in places]
        sums[int(np.argmax(overlaps))] += score
    return tuple(
        Word(prompt[low:high], low, score) for (low, high), score in zip(places, sums, strict=True)
    )
