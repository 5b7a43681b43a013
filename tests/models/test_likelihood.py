"""Scores with shared beginnings, padding and cache equal those of one plain row each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.models import likelihood
from tbr_lightning.models.backbone import Backbone, load_backbone
from tbr_lightning.models.likelihood import Continuation, log_likelihoods

START = "Answer the question. It has one right answer, and it is short.\n"
TEXTS = [
    (START + "What is it?", ("yes", "no, not at all in any way", "perhaps")),
    (START + "A longer question, with more than one clause, is asked here?", ("x", "y")),
    (START + "And?", ("one", "two", "a third")),
    (START, ("one", "two")),
    ("Pick.", ("A", "B")),
    (START + "And?", ("one",)),
]


def model(name: str, cache: Path, *words: str) -> Backbone:
    words = (f"model={name}", "model.init=random", "model.scale=tiny", "data=microworld", *words)
    # In bfloat16 another kernel, hence another processor, changes a sum by more than a bound
    # could tell from a fault.
    config = compose_verb("train", [*words, "model.tokenizer=bytes", "model.dtype=float32"]).config
    return load_backbone(config.model, data="microworld", rows=(), cache=cache, seed=0)


def pairs(backbone: Backbone) -> list[Continuation]:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(backbone.tokenizer.encode(text, add_special_tokens=False))

    return [
        Continuation(ids(context), ids(answer)) for context, answers in TEXTS for answer in answers
    ]


def direct(backbone: Backbone, pair: Continuation) -> tuple[float, bool]:
    """One pair, without batch, padding or cache."""
    with torch.inference_mode():
        ids = torch.tensor([[*pair.context, *pair.continuation]])
        logits = backbone.model(input_ids=ids).logits[0].float()
    likely = logits.log_softmax(-1)[len(pair.context) - 1 : -1]
    targets = torch.tensor(pair.continuation)
    total = float(likely.gather(1, targets[:, None]).sum())
    return total, bool((likely.argmax(-1) == targets).all())


@pytest.mark.parametrize("name", ["mistral", "gemma2_2b", "qwen3_0_6b", "phi4", "qwen3_5_0_8b"])
def test_batched_scores_are_the_direct_ones(name: str, tmp_path: Path) -> None:
    backbone = model(name, tmp_path)
    asked = pairs(backbone)
    pad = backbone.tokenizer.pad_token_id
    for batch_size in (None, 4, 1):
        found = dict(log_likelihoods(backbone.model, asked, pad, batch_size))
        assert sorted(found) == list(range(len(asked)))
        for number, pair in enumerate(asked):
            total, greedy = direct(backbone, pair)
            assert found[number][0] == pytest.approx(total, abs=1e-4)
            assert found[number][1] == greedy


def test_a_model_without_a_plain_cache_reads_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = model("mistral", tmp_path)
    asked = pairs(backbone)
    monkeypatch.setattr(likelihood, "supports", lambda model: False)
    found = dict(log_likelihoods(backbone.model, asked, backbone.tokenizer.pad_token_id, 4))
    for number, pair in enumerate(asked):
        assert found[number][0] == pytest.approx(direct(backbone, pair)[0], abs=1e-4)


def test_a_continuation_that_decoding_would_write_is_called_greedy(tmp_path: Path) -> None:
    backbone = model("mistral", tmp_path)
    context = pairs(backbone)[0].context
    with torch.inference_mode():
        made = backbone.model.generate(
            input_ids=torch.tensor([context]), max_new_tokens=3, do_sample=False
        )[0, len(context) :].tolist()
    asked = [
        Continuation(context, tuple(made)),
        Continuation(context, (*made[:-1], (made[-1] + 1) % 200)),
    ]
    found = dict(log_likelihoods(backbone.model, asked, backbone.tokenizer.pad_token_id))
    assert [found[0][1], found[1][1]] == [True, False]


def test_a_common_beginning_is_read_once(tmp_path: Path) -> None:
    backbone = model("mistral", tmp_path)
    read: list[int] = []
    backbone.model.register_forward_pre_hook(
        lambda _, args, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    shared = tuple(range(40, 140))
    asked = [Continuation((*shared, n, n + 1), (n + 2,)) for n in range(8)]
    list(log_likelihoods(backbone.model, asked, backbone.tokenizer.pad_token_id))
    assert sum(read) == 100 + 8 * 2
