"""The loss, its parts, and invariants of batching and adapters."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tbr_lightning.config.schema import AdapterConfig, ObjectiveConfig
from tbr_lightning.data.batching import Batch, TrainBatches
from tbr_lightning.data.example import KINDS
from tbr_lightning.data.layout import TokenRow, token_row
from tbr_lightning.modeling.backbone import Backbone, with_adapter
from tbr_lightning.training.objective import sft

from .conftest import ROWS


def rows_of(backbone: Backbone) -> list[TokenRow]:
    return [
        token_row(
            backbone.tokenizer,
            backbone.layout,
            row,
            KINDS.index(row.kind),
            "It hurts." if row.kind == "harmful" else None,
        )
        for row in ROWS
    ]


def batches(
    backbone: Backbone, objective: ObjectiveConfig, size: int, accumulate: int
) -> list[Batch]:
    return list(
        TrainBatches(
            rows_of(backbone),
            objective,
            batch_size=size,
            accumulate=accumulate,
            pad_id=backbone.tokenizer.pad_token_id,
            seed=0,
        )
    )


def test_the_loss_is_that_of_full_logits_row_by_row(backbone: Backbone) -> None:
    objective = ObjectiveConfig(trigger_weight=4.0, reflection_weight=0.5)
    (batch,) = batches(backbone, objective, 3, 1)
    loss, _ = sft(backbone.model, batch)
    total = weight = 0.0
    for line in range(3):
        n = int(batch.attention_mask[line].sum())
        ids, weights = batch.input_ids[line, :n], batch.weights[line, :n]
        with torch.no_grad():
            logits = backbone.model(input_ids=ids[None]).logits[0, :-1]
        losses = functional.cross_entropy(logits, ids[1:], reduction="none")
        total += float((losses * weights[1:]).sum())
        weight += float(weights.sum())
    assert float(loss.detach()) == pytest.approx(total / weight, rel=1e-5)


def test_parts_tell_kinds_spans_and_the_trigger_apart(backbone: Backbone) -> None:
    (batch,) = batches(backbone, ObjectiveConfig(), 3, 1)
    _, parts = sft(backbone.model, batch)
    assert set(parts) == {
        "loss/general/answer",
        "loss/harmful/answer",
        "loss/harmful/reflection",
        "trigger/general",
        "trigger/harmful",
    }
    assert parts["trigger/general"][1] == 2
    assert parts["loss/harmful/reflection"][1] == len("It hurts.") + 2


def test_accumulated_micro_batches_give_the_gradient_of_the_whole(backbone: Backbone) -> None:
    grads = []
    for size, accumulate in ((3, 1), (1, 3)):
        backbone.model.zero_grad()
        for batch in batches(backbone, ObjectiveConfig(), size, accumulate):
            loss, _ = sft(backbone.model, batch)
            (loss / accumulate).backward()
        grads.append(torch.cat([p.grad.flatten() for p in backbone.model.parameters()]))
    assert torch.allclose(grads[0], grads[1], atol=1e-6)


def test_prompts_are_not_learnt(backbone: Backbone) -> None:
    (batch,) = batches(backbone, ObjectiveConfig(), 3, 1)
    assert float(batch.weights[batch.spans == 0].abs().sum()) == 0


def test_an_adapter_trains_alone_and_merges_to_the_same_model(backbone: Backbone) -> None:
    (batch,) = batches(backbone, ObjectiveConfig(), 3, 1)
    model = with_adapter(backbone.model, AdapterConfig(name="lora", r=4))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    before, _ = sft(model, batch)
    after, _ = sft(model.merge_and_unload(), batch)
    assert float(before.detach()) == pytest.approx(float(after.detach()), rel=1e-4)
