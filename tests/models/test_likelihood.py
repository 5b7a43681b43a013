"""Scores with shared beginnings, padding and cache equal those of one plain row each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.models import likelihood
from tbr_lightning.models.backbone import Backbone, load_backbone
from tbr_lightning.models.likelihood import Continuation, _batches, _clusters, log_likelihoods

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


def shapes_of(backbone: Backbone) -> list[tuple[int, int]]:
    """Keep (rows, tokens) of whatever a model reads."""
    read: list[tuple[int, int]] = []
    backbone.model.register_forward_pre_hook(
        lambda _, args, named: read.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    return read


@pytest.mark.parametrize(("common", "once"), [(100, True), (8, True), (7, False)])
def test_a_common_beginning_of_eight_tokens_is_read_once(
    tmp_path: Path, common: int, once: bool
) -> None:
    backbone = model("mistral", tmp_path)
    read = shapes_of(backbone)
    shared = tuple(range(40, 40 + common))
    asked = [Continuation((*shared, n, n + 1), (n + 2,)) for n in range(8)]
    list(log_likelihoods(backbone.model, asked, backbone.tokenizer.pad_token_id))
    read_in_all = sum(rows * tokens for rows, tokens in read)
    assert read_in_all == (common + 8 * 2 if once else 8 * (common + 2))


def test_a_beginning_that_only_one_context_has_is_not_read_apart(tmp_path: Path) -> None:
    backbone = model("mistral", tmp_path)
    read = shapes_of(backbone)
    asked = [Continuation(tuple(range(40, 60)), (n,)) for n in (1, 2)]
    list(log_likelihoods(backbone.model, asked, backbone.tokenizer.pad_token_id))
    assert read == [(1, 20)]


def test_contexts_share_what_saves_most() -> None:
    """Of (length of the beginning, contexts): a third one that has less of it stands apart."""
    two = [(1,) * 10 + (2, n) for n in (3, 4)]

    def found(third: int) -> list[tuple[int, int]]:
        other = (1,) * third + (5,) * (12 - third)
        return [(n, len(some)) for n, some in _clusters(sorted([*two, other]), True)]

    assert found(11) == [(10, 3)]
    assert found(9) == [(9, 3)]
    assert found(4) == [(11, 2), (0, 1)]
    assert [(n, len(some)) for n, some in _clusters(sorted(two), False)] == [(0, 2)]
    # One token of each is left, for the logits after it.
    whole, longer = (1,) * 10, (1,) * 12
    assert [(n, len(some)) for n, some in _clusters([whole, longer], True)] == [(9, 2)]


def test_a_batch_holds_items_of_about_one_length_and_no_more_than_fit() -> None:
    lengths = {"a": 10, "b": 14, "c": 15, "d": 10}
    one = dict.fromkeys(lengths, 1)
    assert list(_batches("abcd", lengths, one, 9)) == [["a", "d", "b"], ["c"]]
    assert list(_batches("abcd", lengths, one, 2)) == [["a", "d"], ["b", "c"]]
    # An item of more than fits stands alone.
    assert list(_batches("abd", lengths, {"a": 2, "d": 1, "b": 5}, 3)) == [["a", "d"], ["b"]]
    assert list(_batches("", lengths, one, 2)) == []


@pytest.mark.parametrize("plain_cache", [True, False])
def test_one_step_makes_no_more_logits_than_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_cache: bool
) -> None:
    backbone = model("mistral", tmp_path)
    words = backbone.model.get_input_embeddings().weight.shape[0]
    monkeypatch.setattr(likelihood, "supports", lambda model: plain_cache)
    asked = [Continuation((40 + n, 50, 60), (7, 8)) for n in range(6)]
    # Whole rows are scored where no cache is, else continuations alone.
    monkeypatch.setattr(likelihood, "_LOGITS", 3 * words * (2 if plain_cache else 5))
    read = shapes_of(backbone)
    assert len(dict(log_likelihoods(backbone.model, asked, 0))) == 6
    assert {rows for rows, _ in read} == {3}
    read.clear()
    monkeypatch.setattr(likelihood, "_LOGITS", 1)
    assert len(dict(log_likelihoods(backbone.model, asked, 0))) == 6
    assert {rows for rows, _ in read} == {1}


def test_whole_rows_are_read_longest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into memory is told at once."""
    backbone = model("mistral", tmp_path)
    monkeypatch.setattr(likelihood, "supports", lambda model: False)
    read = shapes_of(backbone)
    asked = [Continuation((40,) * size, (7,)) for size in (3, 9, 5)]
    assert list(dict(log_likelihoods(backbone.model, asked, 0, 1))) == [1, 2, 0]
    assert read == [(1, 9), (1, 5), (1, 3)]


def test_nothing_asked_is_nothing_read(tmp_path: Path) -> None:
    backbone = model("mistral", tmp_path)
    read = shapes_of(backbone)
    assert list(log_likelihoods(backbone.model, [], 0)) == []
    assert read == []
