"""Generation as an iterator over answers, by our own loop, ``model.generate`` or vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from tbr_lightning.data.chat_template import end_words, prompt_ids, stops_of
from tbr_lightning.errors import UserError
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.models.decoding import Guidance, Rules, decode, rows_that_fit, supports

# Settings of a model's own generation config that change greedy choices. `generate` knows them.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "sequence_bias": (None, {}),
    "guidance_scale": (None, 1.0),
    "min_new_tokens": (None, 0),
    "min_length": (None, 0),
    "num_beams": (None, 1),
    "watermarking_config": (None,),
}


@dataclass(frozen=True, slots=True)
class Generated:
    """One generated answer.

    Attributes:
        text: Decoded text, without the end token.
        new_tokens: Number of tokens written, the end token included.
        cut: Whether it reached the token limit before it ended by itself.
        reasoning: Reasoning before it, where an endpoint returns that separately.
        filtered: Reason that an endpoint gave for not answering; else empty.
    """

    text: str
    new_tokens: int
    cut: bool
    reasoning: str | None = None
    filtered: str = ""


def reflection_prefix(backbone: Backbone, text: str) -> list[int]:
    """Return a prompt that asks for a reflection and opens the think block."""
    opened = backbone.tokenizer.encode(backbone.think_format.begin, add_special_tokens=False)
    return prompt_ids(backbone.tokenizer, text, backbone.think_format.think_cue) + list(opened)


def generate(
    backbone: Backbone,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int | None = None,
    temperature: float = 0.0,
    suppress_first: Sequence[int] = (),
    seed: int | None = None,
    engine: str = "transformers",
    ends: Callable[[Sequence[int]], bool] | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Yield (number of the prompt, answer), each as soon as it is known.

    Greedy outputs are those of one prompt at a time, but for ties within rounding.

    Args:
        backbone: The model.
        prompts: Token ids of each prompt.
        max_new_tokens: Token limit per answer.
        batch_size: Prompts decoded together; ``None`` for as many as are sure to fit.
        temperature: Sampling temperature; 0 decodes greedily.
        suppress_first: Tokens that must not come first.
        seed: Seed of sampling; matters only with a temperature.
        engine: ``transformers`` or ``vllm``.
        ends: Returns whether new tokens hold an end other than the model's own; only our own loop
            uses it, the others write on.

    Raises:
        UserError: Generation does not fit into the device's memory.
    """
    if not prompts:
        return
    model, tokenizer = backbone.model, backbone.tokenizer
    stops, written = stop_tokens(backbone), end_words(tokenizer)
    own_loop = engine != "vllm" and supports(model) and _is_plain(model.generation_config)
    if backbone.guide is not None and not own_loop:
        raise UserError(
            f"mitigation={backbone.guide.name} takes part in our own decoding loop, which cannot "
            f"drive {backbone.origin} here: choose a mitigation of prompts or weights"
        )
    rules = Rules(
        max_new_tokens,
        stops,
        tokenizer.pad_token_id,
        tuple(suppress_first),
        temperature,
        seed or 0,
        ends,
    )
    guided = backbone.guide(model, prompts) if backbone.guide else nullcontext(Guidance())
    try:
        with guided as guidance:
            rules = replace(rules, guidance=guidance)
            longest = max(map(len, [*prompts, *guidance.beside]))
            if batch_size is None:
                batch_size = rows_that_fit(model, longest + max_new_tokens)
                if guidance.beside:  # two lines a row
                    batch_size = max(batch_size // 2, 1)
            if engine == "vllm":
                from tbr_lightning.models.vllm_engine import decode_by_vllm

                found = decode_by_vllm(backbone, prompts, rules)
            elif own_loop:
                found = decode(model, prompts, rules, batch_size)
            else:
                found = _by_generate(model, prompts, rules, batch_size)
            for number, made in found:
                text, ended = _text(backbone, made, stops, written)
                cut = not ended and len(made) >= max_new_tokens
                yield number, Generated(text, len(made), cut)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"generation.batch_size={batch_size} does not fit into the device's memory: give a "
            "smaller one"
        ) from error


def draw_tokens(
    backbone: Backbone,
    prompts: Sequence[list[int]],
    *,
    model: Any,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[list[int]]:
    """Return one sampled answer to each prompt as token ids, with its end token if it ended.

    Args:
        backbone: Backbone whose stop tokens end an answer.
        prompts: Token ids of each prompt.
        model: The model as it is now: it may be under training, with an adapter.
        max_new_tokens: Token limit per answer.
        temperature: Sampling temperature, above 0.
        seed: Seed of sampling; the same prompt with the same seed gets the same answer.
    """
    pad = backbone.tokenizer.pad_token_id
    rules = Rules(max_new_tokens, stop_tokens(backbone), pad, (), temperature, seed)
    batch_size = rows_that_fit(model, max(map(len, prompts)) + max_new_tokens)
    loop = decode if supports(model) else _by_generate
    found = dict(loop(model, prompts, rules, batch_size))
    return [found[number] for number in range(len(prompts))]


def text_of_tokens(backbone: Backbone, made: Sequence[int]) -> tuple[str, bool]:
    """Return the text of an answer's token ids without its end, and whether it had one."""
    return _text(backbone, list(made), stop_tokens(backbone), end_words(backbone.tokenizer))


def _text(
    backbone: Backbone, made: list[int], stops: Sequence[int], written: str
) -> tuple[str, bool]:
    tokenizer = backbone.tokenizer
    ended = made[-1] in stops
    text = backbone.think_format.decoded(tokenizer, made[:-1] if ended else made)
    return text.removesuffix(written) if written else text, ended


def stop_tokens(backbone: Backbone) -> tuple[int, ...]:
    """Return the tokens that end an answer.

    The tokenizer names one; the chat template may end a turn with another, and so may the
    generation config (Gemma's ``<end_of_turn>``).
    """
    own = backbone.model.generation_config.eos_token_id
    found = [*stops_of(backbone.tokenizer), backbone.tokenizer.eos_token_id]
    found += own if isinstance(own, list) else [own]
    return tuple(sorted({int(token) for token in found if token is not None}))


def _is_plain(config: Any) -> bool:
    return all(getattr(config, name, None) in neutral for name, neutral in _NEUTRAL.items())


def _by_generate(
    model: Any, prompts: Sequence[Sequence[int]], rules: Rules, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Decode with transformers' own loop, batch by batch, prompts of equal length together."""
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    sampling: dict[str, Any] = {
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }
    if rules.temperature:
        sampling = {"do_sample": True, "temperature": rules.temperature, "top_p": 1.0, "top_k": 0}
        torch.manual_seed(rules.seed)
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        width = max(len(prompts[n]) for n in numbers)
        ids = torch.full((len(numbers), width), rules.pad)
        mask = torch.zeros_like(ids)
        for line, n in enumerate(numbers):
            ids[line, width - len(prompts[n]) :] = torch.tensor(prompts[n])
            mask[line, width - len(prompts[n]) :] = 1
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=rules.limit,
                pad_token_id=rules.pad,
                eos_token_id=list(rules.stops) or None,
                begin_suppress_tokens=list(rules.suppress_first) or None,
                **sampling,
            )
        for line, n in enumerate(numbers):
            made = out[line, width:].tolist()
            end = next((k for k, token in enumerate(made) if token in rules.stops), len(made) - 1)
            yield n, made[: end + 1]
