"""Resolved configs: what is written is what is read, and which of them are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.config.verbs import EvaluateConfig, TrainConfig
from tbr_lightning.tracking.store import connect
from tbr_lightning.training.resume import RunFolder
from tbr_lightning.tuning import reuse, source_digest
from tbr_lightning.tuning.reuse import evaluate_key, find_interrupted, load, save, train_key


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


def test_a_training_run_is_tagged_with_its_key_and_says_what_it_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[TrainConfig] = []

    def run(config: TrainConfig, channel: object) -> Result:
        made.append(config)
        return Result("f" * 32, "models:/m-1")

    monkeypatch.setattr("tbr_lightning.training.pipeline.run", run)
    config = compose_verb("train", ["model=tiny", "data=microworld"]).config
    config = replace(config, tags={"mine": "1"})
    trained = reuse.train_or_take(config, "k", take=False)
    assert (trained.run_id, trained.reused) == ("f" * 32, False)
    assert made[0].tags == {"mine": "1", reuse.KEY: "k"}
    assert capsys.readouterr().out == ""
    reuse.train_or_take(replace(config, resume="e" * 32), "k", take=False)
    assert capsys.readouterr().out == f"run {'e' * 32} goes on\n"


class Result(NamedTuple):
    """What a training run returns."""

    run_id: str
    model_uri: str


def test_the_code_of_a_mitigation_counts_for_what_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model=tiny", "suite=smoke", "mitigation=contrast"]
    config = compose_verb("evaluate", words).config
    copied = tmp_path / "tbr_lightning"
    shutil.copytree(source_digest.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_digest, "PACKAGE", copied)
    source_digest.package_digest.cache_clear()
    before = evaluate_key(config, "k")
    (copied / "mitigations" / "contrast.py").write_text("# changed\n")
    source_digest.package_digest.cache_clear()
    assert evaluate_key(config, "k") != before
    source_digest.package_digest.cache_clear()


def test_the_harness_version_counts_where_its_tasks_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["model=tiny", "suite=smoke"]
    asks = compose_verb("evaluate", [*words, "suite.lm_eval=[microworld_choice]"]).config
    asks_not = compose_verb("evaluate", [*words, "suite.lm_eval=[]"]).config
    before = [evaluate_key(one, "k") for one in (asks, asks_not)]
    monkeypatch.setattr(reuse, "version", lambda name: "99")
    now = [evaluate_key(one, "k") for one in (asks, asks_not)]
    assert [a == b for a, b in zip(before, now, strict=True)] == [False, True]


@pytest.mark.parametrize(("word", "same"), [("threads=1", True), ("suite.limit=3", False)])
def test_an_evaluation_counts_with_the_model_it_is_of(word: str, same: bool) -> None:
    words = ["model=tiny", "suite=smoke"]
    config = compose_verb("evaluate", words).config
    other = compose_verb("evaluate", [*words, word]).config
    assert (evaluate_key(other, "k") == evaluate_key(config, "k")) is same
    assert evaluate_key(config, "k") != evaluate_key(config, "l")


def test_what_stands_in_folders_that_a_config_names_counts(tmp_path: Path) -> None:
    """Not only files that it names itself: weights, prompts and task files beneath them too."""
    files = {
        tmp_path / "m" / "model.safetensors": "train",
        tmp_path / "m" / "tokenizer.json": "train",
        tmp_path / "root" / "xstest" / "xstest_prompts.csv": "evaluate",
        tmp_path / "root" / "arc" / "ARC-Challenge_test.json": "evaluate",
    }
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one")
    train = ["model=mistral", f"model.path={tmp_path}/m", "data=microworld"]
    evaluate = ["model=tiny", "suite=xstest", f"suite.root={tmp_path}/root"]

    def keys() -> dict[str, str]:
        return {
            "train": train_key(compose_verb("train", train).config),
            "evaluate": evaluate_key(compose_verb("evaluate", evaluate).config, "t"),
        }

    before = keys()
    assert keys() == before
    for file, of in files.items():
        file.write_text(f"another {file.name}")
        now = keys()
        assert {name for name in now if now[name] != before[name]} == {of}, file
        before = now


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


@pytest.fixture
def begun(store: Path) -> Callable[..., str]:
    """Begin a training run in the store and on disk, and end it in a way."""

    def made(seed: int, status: str, *, finished: str | None = None, trial: str = "3") -> str:
        config = replace(_config(store), seed=seed)
        experiment = connect(config.tracking)
        tags = {"tbr.stage": "train", "tbr.seed": str(seed), "tbr.trial": trial}
        client = MlflowClient()
        run_id: str = client.create_run(experiment, tags=tags).info.run_id
        folder = RunFolder(store / "runs" / run_id)
        folder.begin(config)
        if finished is not None:
            folder.finish(finished)
        folder.release()
        client.set_terminated(run_id, status)
        return run_id

    return made


def _config(store: Path) -> TrainConfig:
    tracking = f"tracking.uri=sqlite:///{store}/mlflow.db"
    words = ["model=tiny", "data=microworld", tracking, f"paths.runs={store}/runs"]
    config: TrainConfig = compose_verb("train", words).config
    return config


def test_only_an_interrupted_run_of_the_same_seed_and_trial_goes_on(
    store: Path, begun: Callable[..., str]
) -> None:
    killed = begun(1, "KILLED")
    other_seed, other_trial = begun(2, "KILLED"), begun(1, "KILLED", trial="4")
    begun(1, "FINISHED")
    begun(1, "FAILED", finished="models:/m-1")  # its model was logged, and then it died
    config, tags = _config(store), {"tbr.trial": "3"}
    assert find_interrupted(replace(config, seed=1), tags) == killed
    assert find_interrupted(replace(config, seed=2), tags) == other_seed
    assert find_interrupted(replace(config, seed=1), {"tbr.trial": "4"}) == other_trial
    assert find_interrupted(replace(config, seed=3), tags) is None


def test_the_newest_interrupted_run_that_nobody_holds_goes_on(
    store: Path, begun: Callable[..., str]
) -> None:
    older, newer = begun(1, "FAILED"), begun(1, "KILLED")
    config = replace(_config(store), seed=1)
    assert find_interrupted(config, {}) == newer
    held = RunFolder(store / "runs" / newer)
    held.claim()
    assert find_interrupted(config, {}) == older
    held.release()
    (store / "runs" / newer / "config.yaml").unlink()
    assert find_interrupted(config, {}) == older
