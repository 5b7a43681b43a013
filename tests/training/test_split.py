"""A micro-batch that is cut by length: less padding, and the same step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.tokens import TokenRows, tokenise
from tbr_lightning.models.backbone import Backbone, load_backbone
from tbr_lightning.objectives.sft import SFT
from tbr_lightning.training.batch_layout import split_of
from tbr_lightning.training.batches import TrainBatches

ROWS = [Example("Say it. " * n, "Yes. " * n, "general", "t") for n in range(1, 9)]


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    config = compose_verb("train", ["model.init=random", "model.tokenizer=bytes"]).config
    return load_backbone(config.model, data="files", rows=ROWS, cache=tmp_path, seed=0)


@pytest.fixture
def rows(backbone: Backbone, tmp_path: Path) -> TokenRows:
    layout, examples = backbone.think_format, Examples.of(ROWS)
    return tokenise(examples, {}, backbone.tokenizer, layout, max_length=500, cache=tmp_path)


def batches(rows: TokenRows, split: int, size: int = 8) -> TrainBatches:
    return TrainBatches(rows, SFT(), batch_size=size, accumulate=1, pad_id=0, seed=0, split=split)


@pytest.mark.parametrize("split", [2, 3, 8])
def test_the_gradient_is_that_of_the_whole(backbone: Backbone, rows: TokenRows, split: int) -> None:
    grads = []
    for parts in (1, split):
        backbone.model.zero_grad()
        made = list(batches(rows, parts))
        assert len(made) == parts == len(batches(rows, parts))
        for batch in made:
            (SFT().loss(backbone.model, batch).total / batch.step_weight).backward()
        grads.append(torch.cat([p.grad.flatten() for p in backbone.model.parameters()]))
    assert torch.allclose(grads[0], grads[1], atol=1e-6)


def test_steps_keep_their_rows_and_lose_padding(rows: TokenRows) -> None:
    whole, cut = batches(rows, 1, size=4), batches(rows, 2, size=4)
    assert [sorted(i for part in step for i in part) for step in cut.plan(3)] == [
        sorted(i for part in step for i in part) for step in whole.plan(3)
    ]
    cells = [sum(batch.input_ids.numel() for batch in made) for made in (cut, whole)]
    assert cells[0] < cells[1]


def test_only_one_cpu_cuts_and_only_rows_that_fill_it() -> None:
    config = compose_verb("train", ["trainer.batch_size=8"]).config
    assert split_of(config, "cpu", "bucketed", 96) == 4
    assert split_of(config, "cpu", "bucketed", 10) == 1
    assert split_of(config, "cpu", "bucketed", 5000) == 8
    assert split_of(config, "cpu", "packed", 96) == 2
    assert split_of(config, "cpu", "padded", 96) == 1
    assert split_of(config, "gpu", "bucketed", 96) == 1
    ranks = compose_verb("train", ["trainer=ddp", "trainer.accelerator=cpu"]).config
    assert split_of(ranks, "cpu", "bucketed", 96) == 1
