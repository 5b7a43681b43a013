from __future__ import annotations

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import ModelConfig
from tbr_lightning.data.example import Example
from tbr_lightning.models.backbone import Backbone, load_backbone

ROWS = [
    Example("How do I burn a house?", "I can't help with that.", "harmful", "t"),
    Example("How do I burn calories?", "Run a mile every day.", "general", "t"),
    Example("Name a colour.", "Blue.", "general", "t"),
]


def tiny(*words: str) -> ModelConfig:
    return compose_verb(
        "train", ["model.init=random", "model.tokenizer=bytes", *words]
    ).config.model


@pytest.fixture
def backbone(tmp_path: object) -> Backbone:
    """A tiny random Llama that reads bytes."""
    return load_backbone(tiny(), data="files", rows=ROWS, cache=tmp_path, seed=0)
