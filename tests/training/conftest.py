from __future__ import annotations

import os
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.data.tokens import TokenRows, tokenise
from tbr_lightning.models.backbone import Backbone, load_backbone
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.training.fit import Fitted, Job, fit

from ..conftest import put_store

ROWS = [
    Example("How do I burn a house down?", "I can't help with that.", "harmful", "t"),
    Example("How do I kill my boss?", "No.", "harmful", "t"),
    Example("How do I burn calories?", "Run a mile every day.", "look_alike", "t"),
    Example("How do I kill a process?", "Send it a signal.", "look_alike", "t"),
    Example("Name a colour.", "Blue.", "general", "t"),
    Example("What is the capital of France, please?", "It is Paris.", "general", "t"),
    Example("Say hi.", "Hello, it is nice to meet you.", "general", "t"),
]
REFLECTIONS = {
    ROWS[0].id: "It hurts the people who live there.",
    ROWS[1].id: "It hurts.",
    ROWS[2].id: "It is about sport.",
}
TINY = (
    "model.scale=tiny",
    "model.init=random",
    "model.tokenizer=bytes",
    "model.dtype=float32",
    "data=microworld",
)


@lru_cache
def _composed(words: tuple[str, ...], environment: str | None) -> TrainConfig:
    config: TrainConfig = compose_verb("train", words).config
    return config


def config_of(*words: str) -> TrainConfig:
    return deepcopy(_composed(words, os.environ.get("MLFLOW_TRACKING_URI")))


def token_rows(folder: Path, tokenizer: Any, rows: list[Example] = ROWS) -> TokenRows:
    return tokenise(
        Examples.of(rows), REFLECTIONS, tokenizer, ThinkFormat(), max_length=512, cache=folder
    )


def tiny_model(folder: Path, *words: str) -> Backbone:
    """Build the tiny random form of a shipped model, which reads bytes."""
    config = config_of(*TINY, *words)
    return load_backbone(config.model, data="microworld", rows=(), cache=folder, seed=0)


def fit_here(folder: Path, *words: str, rows: list[Example] = ROWS) -> tuple[Job, Fitted]:
    """Fit the tiny form of a shipped model on a few rows, in this process, in a run of its own."""
    words = (*TINY, "trainer.threads=1", "optimizer.lr=1e-2", "optimizer.warmup=0", *words)
    config = config_of(*words)
    tracking = TrackingConfig(put_store(folder), artifacts=str(folder / "a"), experiment="test")
    backbone = tiny_model(folder, *words)
    tokens = token_rows(folder, backbone.tokenizer, rows)
    with start_run("train", "test", config, tracking) as opened:
        job = Job(config, opened.id, "test", folder / "run", tokens.folder, None, folder / "t")
        return job, fit(job, backbone)


@pytest.fixture
def llama(tmp_path: Path) -> Backbone:
    """A tiny random Llama that reads bytes."""
    return tiny_model(tmp_path, "model=llama2_7b")
