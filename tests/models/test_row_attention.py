"""Attention of our own agrees with torch's, in whatever form a mask comes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tbr_lightning.models import row_attention
from tbr_lightning.models.backbone import Backbone


def masks() -> dict[str, torch.Tensor | None]:
    seen = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    seen[1, :, :, :3] = False
    added = torch.zeros(2, 1, 1, 7).masked_fill(~seen, torch.finfo(torch.float32).min)
    drawn = torch.randn(2, 6, 1, 7, generator=torch.Generator().manual_seed(1))
    return {"none": None, "which": seen, "added": added, "each head": drawn}


@pytest.mark.parametrize("mask", list(masks()))
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_a_step_attends_as_torch_does(mask: str, scaling: float | None) -> None:
    dice = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 1, 8, generator=dice)
    key, value = (torch.randn(2, 2, 7, 8, generator=dice) for _ in range(2))
    layer = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    with torch.inference_mode():
        ours, theirs = (
            attend(layer, query, key, value, masks()[mask], scaling=scaling)[0]
            for attend in (row_attention.attention_by_row, sdpa_attention_forward)
        )
    torch.testing.assert_close(ours, theirs)


def test_a_model_has_its_own_attention_back_after_a_step(backbone: Backbone) -> None:
    config = backbone.model.config
    with row_attention.for_steps(backbone.model):
        assert config._attn_implementation == row_attention.NAME
    assert config._attn_implementation == "sdpa"
    backbone.model.set_attn_implementation("eager")
    with row_attention.for_steps(backbone.model):
        assert config._attn_implementation == "eager"
