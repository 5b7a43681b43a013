"""Resolved configs: what is written is what is read, and which of them are the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.tuning import source_digest
from tbr_lightning.tuning.reuse import evaluate_key, load, save, train_key


def test_what_is_written_is_read_without_where_it_is_tracked(tmp_path: Path) -> None:
    train = compose_verb("train", ["model=mistral", "reflection=none", "seed=3"]).config
    evaluation = compose_verb("evaluate", ["model=tiny", "suite=smoke", "suite.half=dev"]).config
    secret = TrackingConfig(uri="postgresql://me:secret@host/runs")
    save(replace(train, tracking=secret), tmp_path / "t.yaml")
    save(evaluation, tmp_path / "e.yaml")
    assert "secret" not in (tmp_path / "t.yaml").read_text()
    assert load(TrainConfig, tmp_path / "t.yaml", secret, train.paths) == replace(
        train, tracking=secret
    )
    assert load(EvaluateConfig, tmp_path / "e.yaml", secret, train.paths) == replace(
        evaluation, tracking=secret
    )


def test_configs_are_the_same_where_they_give_the_same_numbers(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text("[]")
    words = ["data=files", f"data.general={rows}", "reflection=none"]
    key = train_key(compose_verb("train", words).config)
    for same in ("run_name=x", "trainer.threads=1", "paths.cache=/x", "tracking.uri=sqlite:///x"):
        assert train_key(compose_verb("train", [*words, same]).config) == key
    for other in ("seed=1", "optimizer.lr=1e-5", "trainer.epochs=9"):
        assert train_key(compose_verb("train", [*words, other]).config) != key
    rows.write_text('[{"instruction": "a", "output": "b"}]')
    assert train_key(compose_verb("train", words).config) != key


@pytest.mark.parametrize(("word", "same"), [("threads=1", True), ("suite.limit=3", False)])
def test_an_evaluation_counts_with_the_model_it_is_of(word: str, same: bool) -> None:
    words = ["model=tiny", "suite=smoke"]
    config = compose_verb("evaluate", words).config
    other = compose_verb("evaluate", [*words, word]).config
    assert (evaluate_key(other, "k") == evaluate_key(config, "k")) is same
    assert evaluate_key(config, "k") != evaluate_key(config, "l")


def test_code_that_decides_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_verb("train", ["model=tiny", "data=microworld"]).config
    copied = tmp_path / "tbr_lightning"
    shutil.copytree(source_digest.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_digest, "PACKAGE", copied)
    for file in ("objectives/sft.py", "training/module.py", "serving/app.py"):
        source_digest.package_digest.cache_clear()
        before = train_key(config)
        (copied / file).write_text("# changed\n")
        source_digest.package_digest.cache_clear()
        assert (train_key(config) == before) == (file == "serving/app.py")
    source_digest.package_digest.cache_clear()
