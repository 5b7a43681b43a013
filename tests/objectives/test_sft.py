"""The loss is what it says, for every architecture and however its rows are laid out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tbr_lightning.data.think_format import Span
from tbr_lightning.data.tokens import TokenRows
from tbr_lightning.errors import UserError
from tbr_lightning.kinds import KINDS
from tbr_lightning.models import row_attention
from tbr_lightning.models.backbone import Backbone
from tbr_lightning.objectives import objective
from tbr_lightning.objectives.batch import Batch
from tbr_lightning.objectives.sft import SFT
from tbr_lightning.preflight import UNPACKABLE, missing_for
from tbr_lightning.training.batch_layout import form_of
from tbr_lightning.training.batches import TrainBatches
from tbr_lightning.training.kernels import attend_by_row, check_packing, release_kernels

from ..support.families import families
from ..training.conftest import TINY, config_of, tiny_model, token_rows

MIXING = (*UNPACKABLE, "qwen3_5_text")  # layers that go from row to row: never packed
EAGER = ("gemma2",)  # its capped scores are beyond torch's own kernel
WEIGHTED = SFT(reflection_weight=0.5, answer_weight=2.0, trigger_weight=4.0)


FAMILIES = families()
family = pytest.mark.parametrize("family", FAMILIES)
FALCON = ("model.architecture.model_type=falcon",)


def test_the_families_are_many() -> None:
    assert {"llama", "mistral", "mixtral", "gemma", "gemma2", "qwen2", "qwen3"} <= FAMILIES.keys()
    assert {"phi3", "olmo2", "olmo3", "smollm3", "gemma3_text"} <= FAMILIES.keys()


def batches(
    rows: TokenRows,
    backbone: Backbone,
    weights: SFT | None = None,
    *,
    size: int = 7,
    accumulate: int = 1,
    form: str = "bucketed",
) -> list[Batch]:
    return list(
        TrainBatches(
            rows,
            weights or SFT(),
            batch_size=size,
            accumulate=accumulate,
            pad_id=backbone.tokenizer.pad_token_id,
            seed=0,
            form=form,
        )
    )


def summed(model: Any, made: list[Batch]) -> tuple[float, torch.Tensor]:
    outcomes = [SFT().loss(model, batch) for batch in made]
    total = sum(outcome.total.item() for outcome in outcomes)
    return total, torch.stack([outcome.parts for outcome in outcomes]).sum(0)


def gradient(model: Any, made: list[Batch]) -> torch.Tensor:
    model.zero_grad()
    for batch in made:
        (SFT().loss(model, batch).total / batch.step_weight).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([grad.flatten() for grad in grads])


@family
def test_the_loss_is_that_of_the_models_own_logits_row_by_row(family: str, tmp_path: Path) -> None:
    backbone = tiny_model(tmp_path, f"model={FAMILIES[family]}")
    rows = token_rows(tmp_path, backbone.tokenizer)
    (batch,) = batches(rows, backbone, WEIGHTED)
    expected = weight = 0.0
    for row in rows:
        ids, spans = torch.tensor(row.ids).long(), torch.tensor(row.spans)
        weights = (spans == Span.REFLECTION) * 0.5 + (spans == Span.ANSWER) * 2.0
        weights[row.trigger] *= 4
        with torch.no_grad():
            logits = backbone.model(input_ids=ids[None]).logits[0, :-1]
        losses = functional.cross_entropy(logits, ids[1:], reduction="none")
        expected += float((losses * weights[1:]).sum())
        weight += float(weights.sum())
    total, _ = summed(backbone.model, [batch])
    assert total == pytest.approx(expected, rel=1e-5)
    assert batch.step_weight == pytest.approx(weight)


@family
def test_packed_padded_and_bucketed_rows_give_the_same_loss_and_gradient(
    family: str, tmp_path: Path
) -> None:
    backbone = tiny_model(tmp_path, f"model={FAMILIES[family]}")
    rows = token_rows(tmp_path, backbone.tokenizer)
    layouts = [
        batches(rows, backbone, WEIGHTED, form="padded"),
        batches(rows, backbone, WEIGHTED, size=2, accumulate=4),
    ]
    if family not in MIXING:
        layouts += [
            batches(rows, backbone, WEIGHTED, form="packed"),
            batches(rows, backbone, WEIGHTED, size=2, accumulate=4, form="packed"),
        ]
        check_packing(backbone.model, family)
    found = [summed(backbone.model, made) for made in layouts]
    grads = [gradient(backbone.model, made) for made in layouts]
    for (total, parts), grad in zip(found[1:], grads[1:], strict=True):
        assert total == pytest.approx(found[0][0], rel=1e-5)
        assert torch.allclose(parts, found[0][1], rtol=1e-4)
        assert torch.allclose(grad, grads[0], atol=1e-5)


@pytest.mark.parametrize("attention", ["auto", "eager"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "falcon"])
def test_packing_is_refused_where_rows_would_see_each_other(
    family: str, attention: str, tmp_path: Path
) -> None:
    named = FALCON if family == "falcon" else (f"model={FAMILIES[family]}",)
    words = (*named, f"model.attention={attention}")
    config = config_of(*TINY, *words, "reflection=none", "trainer.batching=packed")
    told = missing_for(config.model, config.data, config.reflection, config.trainer)
    assert len(told) == (family in UNPACKABLE)
    model = tiny_model(tmp_path, *words).model
    if not told:
        check_packing(model, "mine")
        return
    assert "trainer.batching=packed: tiny would attend across" in told[0]
    # A folder may hold any architecture: what it does decides, not what it is called.
    with pytest.raises(UserError, match=r"trainer\.batching=packed: mine"):
        check_packing(model, "mine")


def test_auto_packs_only_where_attention_is_cheap_and_keeps_rows_apart(tmp_path: Path) -> None:
    flash = "model.attention=flash_attention_2"
    llama = tiny_model(tmp_path, f"model={FAMILIES['llama']}").model
    assert form_of(config_of("model=llama2_7b", flash), "gpu", llama) == "packed"
    assert form_of(config_of("model=llama2_7b"), "gpu", llama) == "bucketed"
    assert form_of(config_of(*FALCON, flash), "gpu", llama) == "bucketed"
    assert llama.config._attn_implementation == "sdpa"  # so far no CPU trains it
    assert form_of(config_of("trainer.batching=bucketed"), "cpu", llama) == "bucketed"
    assert form_of(config_of("trainer.compile=true"), "cpu", llama) == "bucketed"
    assert llama.config._attn_implementation == "sdpa"
    assert form_of(config_of(), "cpu", llama) == "packed"
    assert llama.config._attn_implementation == row_attention.NAME
    falcon = tiny_model(tmp_path, *FALCON).model
    assert form_of(config_of(), "cpu", falcon) == "bucketed"
    assert falcon.config._attn_implementation == "sdpa"
    eager = tiny_model(tmp_path, f"model={FAMILIES['llama']}", "model.attention=eager").model
    assert form_of(config_of(), "cpu", eager) == "bucketed"


@family
def test_attention_by_row_gives_the_same_loss_and_gradient(family: str, tmp_path: Path) -> None:
    backbone = tiny_model(tmp_path, f"model={FAMILIES[family]}")
    rows = token_rows(tmp_path, backbone.tokenizer)
    padded = batches(rows, backbone, WEIGHTED, form="padded")
    plain = summed(backbone.model, padded), gradient(backbone.model, padded)
    assert attend_by_row(backbone.model) == (family not in (*MIXING, *EAGER))
    for form in ("padded", "packed") if family not in MIXING else ("padded",):
        made = batches(rows, backbone, WEIGHTED, form=form)
        (total, parts), grad = summed(backbone.model, made), gradient(backbone.model, made)
        assert total == pytest.approx(plain[0][0], rel=1e-5)
        assert torch.allclose(parts, plain[0][1], rtol=1e-4)
        assert torch.allclose(grad, plain[1], atol=1e-5)
    release_kernels(backbone.model)
    assert backbone.model.config._attn_implementation in ("sdpa", "eager")


def test_attention_by_row_keeps_to_the_window(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, "model=mistral", "model.architecture.sliding_window=3").model
    ids, places = torch.arange(1, 12)[None], torch.cat([torch.arange(7), torch.arange(4)])[None]
    with torch.no_grad():
        masked = row_attention.decode_packed(model, ids, places)
        assert attend_by_row(model)
        by_row = row_attention.decode_packed(model, ids, places)
        model.config.sliding_window = None
        for layer in model.get_decoder().layers:
            layer.self_attn.sliding_window = None
        wide = row_attention.decode_packed(model, ids, places)
    assert torch.allclose(by_row, masked, atol=1e-5)
    assert not torch.allclose(by_row, wide, atol=1e-3)


def test_logits_in_chunks_are_the_logits_at_once(tmp_path: Path) -> None:
    backbone = tiny_model(tmp_path, f"model={FAMILIES['gemma2']}")
    made = batches(token_rows(tmp_path, backbone.tokenizer), backbone, WEIGHTED)
    whole, grad = summed(backbone.model, made), gradient(backbone.model, made)
    chosen = int((made[0].weights > 0).sum())
    for chunks in (2, 7, chosen, chosen + 3):  # more than tokens: another rank has more of them
        cut = [replace(batch, chunks=chunks) for batch in made]
        total, parts = summed(backbone.model, cut)
        assert total == pytest.approx(whole[0], rel=1e-6)
        assert torch.allclose(parts, whole[1])
        assert torch.allclose(gradient(backbone.model, cut), grad, atol=1e-6)


def test_ranks_compute_their_logits_in_the_same_number_of_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_model(tmp_path, f"model={FAMILIES['llama']}")
    rows = token_rows(tmp_path, backbone.tokenizer)
    monkeypatch.setattr(objective, "CHUNK", 40)

    def of_rank(rank: int) -> list[Batch]:
        return list(
            TrainBatches(
                rows, WEIGHTED, batch_size=2, accumulate=1, pad_id=0, seed=0, rank=rank, world=2
            )
        )

    pairs = list(zip(of_rank(0), of_rank(1), strict=True))
    learnt = [[int((batch.weights > 0).sum()) for batch in pair] for pair in pairs]
    # Alone they would differ, and where the weights are shared each would wait for the other.
    assert any(-(-a // 40) != -(-b // 40) for a, b in learnt)
    for pair, counts in zip(pairs, learnt, strict=True):
        assert {batch.chunks for batch in pair} == {max(1, -(-max(counts) // 40))}


@pytest.mark.parametrize("form", ["bucketed", "packed"])
def test_logits_and_gradients_are_those_of_supervised_tokens_alone(
    form: str, tmp_path: Path, llama: Backbone
) -> None:
    (batch,) = batches(token_rows(tmp_path, llama.tokenizer), llama, form=form)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: Any, __: Any, out: torch.Tensor) -> None:
            out.retain_grad()
            seen[name] = out

        return hook

    llama.model.get_decoder().norm.register_forward_hook(keep("hidden"))
    llama.model.get_output_embeddings().register_forward_hook(keep("logits"))
    SFT().loss(llama.model, batch).total.backward()
    wanted = torch.zeros_like(batch.weights, dtype=torch.bool)
    wanted[:, :-1] = batch.weights[:, 1:] > 0
    assert seen["logits"].shape[-2] == int(wanted.sum())
    assert torch.equal(seen["hidden"].grad.abs().sum(-1) > 0, wanted)


def test_weights_scale_reflection_answer_and_trigger(tmp_path: Path, llama: Backbone) -> None:
    rows = token_rows(tmp_path, llama.tokenizer)
    size = {"size": 1, "accumulate": 7}
    plain = batches(rows, llama, **size)
    for one, other in zip(plain, batches(rows, llama, WEIGHTED, **size), strict=True):
        with torch.no_grad():
            parts = {
                name: float(value)
                for name, (value, count) in zip(
                    SFT().parts, SFT().loss(llama.model, one).parts, strict=True
                )
                if count
            }
            total = SFT().loss(llama.model, other).total.item()
        spans = {n.rpartition("/")[2]: v for n, v in parts.items() if n.startswith("loss/")}
        (certainty,) = (v for n, v in parts.items() if n.startswith("trigger/"))
        first = 0.5 if "reflection" in spans else 2.0
        expected = 0.5 * spans.get("reflection", 0) + 2 * spans["answer"]
        expected -= first * 3 * torch.tensor(certainty).log().item()
        assert total == pytest.approx(expected, rel=1e-5)


def test_parts_tell_kinds_spans_and_the_trigger_apart(tmp_path: Path, llama: Backbone) -> None:
    rows = token_rows(tmp_path, llama.tokenizer)
    _, parts = summed(llama.model, batches(rows, llama, WEIGHTED))
    counts = {name: int(n) for name, n in zip(SFT().parts, parts[:, 1], strict=True) if n}
    assert counts == {
        # Two markers are a token each, and a token a byte; the answers end with one more.
        "loss/general/answer": 5 + 12 + 30 + 3,
        "loss/harmful/reflection": 35 + 9 + 4,
        "loss/harmful/answer": 23 + 3 + 2,
        "loss/look_alike/reflection": 18 + 2,
        "loss/look_alike/answer": 21 + 17 + 2,
        "trigger/general": 3,
        "trigger/harmful": 2,
        "trigger/look_alike": 2,
    }


def test_what_has_no_weight_is_neither_learnt_nor_counted(tmp_path: Path, llama: Backbone) -> None:
    rows = token_rows(tmp_path, llama.tokenizer)
    _, parts = summed(llama.model, batches(rows, llama, SFT(reflection_weight=0)))
    counted = {name for name, n in zip(SFT().parts, parts[:, 1], strict=True) if n}
    assert not [name for name in counted if name.endswith("/reflection")]
    # Where the trigger opens a reflection, it belongs to it.
    assert "trigger/general" in counted
    assert "trigger/harmful" not in counted


def test_steps_without_any_weight_do_not_end_the_run(tmp_path: Path, llama: Backbone) -> None:
    rows = token_rows(tmp_path, llama.tokenizer)
    weights = SFT(answer_weight=0, reflection_weight=1)
    made = batches(rows, llama, weights, size=1)
    empty = [batch for batch in made if not (batch.weights > 0).any()]
    assert len(empty) == 4
    for batch in empty:
        loss = SFT().loss(llama.model, batch).total / batch.step_weight
        loss.backward()
        assert loss.item() == 0


def test_two_terms_average_safety_rows_and_general_rows_apart(
    tmp_path: Path, llama: Backbone
) -> None:
    rows = token_rows(tmp_path, llama.tokenizer)
    apart = SFT(normalise="by_kind", safety_weight=3.0, general_weight=0.5)

    def loss(weights: SFT, **layout: Any) -> float:
        with torch.no_grad():
            made = batches(rows, llama, weights, **layout)
            return sum(weights.loss(llama.model, b).total.item() / b.step_weight for b in made)

    with torch.no_grad():
        (batch,) = batches(rows, llama)
        parts = SFT().loss(llama.model, batch).parts
    means = {"general": [0.0, 0.0], "safety": [0.0, 0.0]}
    for name, (value, count) in zip(SFT().parts, parts.tolist(), strict=True):
        if name.startswith("loss/"):
            side = means["general" if name.startswith("loss/general") else "safety"]
            side[0] += value
            side[1] += count
    term = {side: value / count for side, (value, count) in means.items()}
    assert loss(apart) == pytest.approx(3 * term["safety"] + 0.5 * term["general"], rel=1e-5)
    for layout in ({"size": 2, "accumulate": 4}, {"form": "packed"}, {"form": "padded"}):
        assert loss(apart, **layout) == pytest.approx(loss(apart), rel=1e-5)


def test_a_step_of_one_kind_of_row_leaves_the_other_term_out() -> None:
    apart = SFT(normalise="by_kind", safety_weight=3.0, general_weight=0.5)
    general, harmful = KINDS.index("general"), KINDS.index("harmful")
    for own, other, factor in ((general, harmful, 0.5 / 6), (harmful, general, 3.0 / 6)):
        totals, kinds = np.array([4.0, 2.0]), np.array([own, own], dtype=np.uint8)
        step = apart.step_weights(totals, kinds)
        assert step.divisor == 1
        assert step.by_kind[own] == pytest.approx(factor)
        assert step.by_kind[other] == 0


def test_weights_of_the_two_terms_need_them() -> None:
    with pytest.raises(UserError, match=r"add objective\.normalise=by_kind"):
        SFT(safety_weight=2.0)
