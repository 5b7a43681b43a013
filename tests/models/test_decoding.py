"""The decoding loop: greedy for greedy, sample for sample, whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tbr_lightning.models import decoding, generation
from tbr_lightning.models.backbone import Backbone, load_backbone
from tbr_lightning.models.decoding import Rules, decode, supports
from tbr_lightning.models.generation import Generated, generate, stop_tokens

from .conftest import ROWS, tiny

LIMIT, TIE = 14, 1e-4
LENGTHS = (40, 3, 17, 9, 28, 5, 33, 12, 21, 8, 2)


def prompts_of(backbone: Backbone) -> list[list[int]]:
    words = torch.Generator().manual_seed(0)
    size = len(backbone.tokenizer)
    return [torch.randint(5, size, (n,), generator=words).tolist() for n in LENGTHS]


def unbatched(model: Any, prompt: list[int]) -> list[int]:
    """Greedy by the book: no cache, no batch."""
    ids = list(prompt)
    for _ in range(LIMIT):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def gap(model: Any, prompt: list[int], made: list[int], expected: list[int]) -> float:
    """How far apart the two likeliest tokens are where two outputs part."""
    same = next(n for n, (a, b) in enumerate(zip(made, expected, strict=False)) if a != b)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + expected[:same]])).logits[0, -1]
    first, second = logits.topk(2).values.tolist()
    return float(first - second)


@pytest.mark.parametrize(
    "words",
    [
        ["model=llama3_2_1b"],
        ["model=mistral", "model.architecture.sliding_window=8"],
        ["model=gemma2_2b", "model.architecture.sliding_window=8"],
        ["model=mixtral_8x7b"],
        ["model=olmo3_7b"],
        ["model=phi4_mini"],
        *(
            pytest.param([f"model={name}"], marks=pytest.mark.slow)
            for name in ("phi3_mini", "smollm3_3b", "qwen3_0_6b", "olmo2_1b", "gemma_2b")
        ),
    ],
    ids=lambda words: words[0].removeprefix("model="),
)
def test_greedy_equals_unbatched_greedy(tmp_path: Path, words: list[str]) -> None:
    config = tiny(*words, "model.scale=tiny", "model.dtype=float32")
    backbone = load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)
    model, prompts = backbone.model, prompts_of(backbone)
    assert supports(model)
    # Random weights with a tied head say the last token again: this head says something else.
    head = torch.nn.Linear(*reversed(model.get_output_embeddings().weight.shape), bias=False)
    model.set_output_embeddings(head)
    whole = [unbatched(model, prompt) for prompt in prompts]
    # Rows end at many different places: at tokens that random weights happen to write.
    stops = {whole[n][k] for n, k in ((1, 3), (4, 6), (7, 1), (9, 10), (2, 8))}
    expected = [_until(made, stops) for made in whole]
    assert len({len(made) for made in expected}) > 2
    found = dict(decode(model, prompts, Rules(LIMIT, tuple(stops), 0), batch_size=4))
    assert sorted(found) == list(range(len(prompts)))
    for n, made in found.items():
        assert made == expected[n] or gap(model, prompts[n], made, expected[n]) <= TIE


def _until(made: list[int], stops: set[int]) -> list[int]:
    end = next((k for k, token in enumerate(made) if token in stops), len(made) - 1)
    return made[: end + 1]


def write(backbone: Backbone, **settings: Any) -> dict[int, Generated]:
    settings = {"max_new_tokens": LIMIT, "batch_size": 4} | settings
    return dict(generate(backbone, prompts_of(backbone), **settings))


def test_samples_depend_on_seed_and_prompt_alone(backbone: Backbone) -> None:
    one = write(backbone, temperature=1.0, seed=3)
    assert write(backbone, temperature=1.0, seed=3, batch_size=1) == one
    assert write(backbone, temperature=1.0, seed=4) != one
    prompts = prompts_of(backbone)
    some = dict(
        generate(
            backbone, prompts[5:8], max_new_tokens=LIMIT, batch_size=9, temperature=1.0, seed=3
        )
    )
    assert list(dict(sorted(some.items())).values()) == [one[n] for n in (5, 6, 7)]


def test_samples_follow_the_temperature(backbone: Backbone) -> None:
    model, prompt = backbone.model, prompts_of(backbone)[1]
    with torch.no_grad():
        model.get_output_embeddings().weight *= 20
    with torch.inference_mode():
        shares = (model(input_ids=torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1)
    likely = int(shares.argmax())
    rules = [Rules(1, (), 0, temperature=0.7, seed=seed) for seed in range(400)]
    hits = sum(next(decode(model, [prompt], rule, 1))[1] == [likely] for rule in rules)
    share = float(shares[likely])
    assert abs(hits / 400 - share) < 4 * (share * (1 - share) / 400) ** 0.5 + 1e-9


def test_a_token_can_be_kept_from_coming_first_only(backbone: Backbone) -> None:
    prompts = prompts_of(backbone)
    free = dict(decode(backbone.model, prompts, Rules(2, (), 0), 4))
    first = free[0][0]
    barred = dict(decode(backbone.model, prompts, Rules(2, (), 0, suppress_first=(first,)), 4))
    assert barred[0][0] != first
    same = [n for n in free if free[n][0] != first]
    assert [barred[n] for n in same] == [free[n] for n in same]


def test_both_loops_agree(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = write(backbone)
    monkeypatch.setattr(generation, "supports", lambda model: False)
    assert write(backbone) == ours
    assert write(backbone, batch_size=None) == ours


def test_a_models_own_generation_rules_count(backbone: Backbone) -> None:
    plain = write(backbone)
    backbone.model.generation_config.repetition_penalty = 3.0
    assert write(backbone) != plain


def test_an_end_of_turn_token_of_the_model_ends_an_answer(backbone: Backbone) -> None:
    made = dict(decode(backbone.model, prompts_of(backbone), Rules(LIMIT, (), 0), 4))
    end = backbone.tokenizer.eos_token_id
    backbone.model.generation_config.eos_token_id = [end, made[0][2]]
    assert stop_tokens(backbone) == tuple(sorted({end, made[0][2]}))
    assert write(backbone)[0].new_tokens <= 3 and not write(backbone)[0].cut


def test_rows_that_fit_shrink_with_length(backbone: Backbone) -> None:
    rows = [decoding.rows_that_fit(backbone.model, tokens) for tokens in (10, 20_000, 10**9)]
    assert rows[0] == 128 > rows[1] > rows[2] == 1


@pytest.mark.parametrize("words", [[], ["model.architecture.sliding_window=8"]])
def test_what_all_prompts_begin_with_is_read_once(tmp_path: Path, words: list[str]) -> None:
    config = tiny("model=mistral", "model.scale=tiny", "model.dtype=float32", *words)
    backbone = load_backbone(config, data="files", rows=ROWS, cache=tmp_path, seed=0)
    shared = prompts_of(backbone)[2]
    prompts = [shared + rest for rest in prompts_of(backbone)]
    widths: list[int] = []
    backbone.model.register_forward_pre_hook(
        lambda _, __, given: widths.append(given["input_ids"].numel()), with_kwargs=True
    )
    made = dict(decode(backbone.model, prompts, Rules(LIMIT, (), 0), 4))
    read = len(shared) in widths
    assert read == (not words)  # padding behind the beginning would fill a window
    for number, prompt in enumerate(prompts):
        expected = unbatched(backbone.model, prompt)
        same = made[number] == expected
        assert same or gap(backbone.model, prompt, made[number], expected) < TIE


def test_a_prompt_that_begins_all_others_keeps_its_last_token(backbone: Backbone) -> None:
    short = prompts_of(backbone)[1]
    prompts = [short, [*short, 7, 8], short]
    made = dict(decode(backbone.model, prompts, Rules(LIMIT, (), 0), 8))
    assert made[0] == made[2]
    for number, prompt in enumerate(prompts):
        expected = unbatched(backbone.model, prompt)
        assert made[number] == expected or gap(backbone.model, prompt, made[number], expected) < TIE


def test_one_seed_draws_otherwise_for_another_prompt() -> None:
    from tbr_lightning.models.decoding import _Row

    one, same, other = (_Row(0, ids, 3).dice.random() for ids in ([1, 2], [1, 2], [1, 3]))
    assert one == same != other
