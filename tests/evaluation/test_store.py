"""Responses are stored as they are written, and never generated twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from tbr_lightning import cli
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.verbs import GenerationConfig
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import respond as responding
from tbr_lightning.evaluation.comparison_key import seed_of
from tbr_lightning.evaluation.respond import arm_prompts, respond
from tbr_lightning.evaluation.store import FILE, ResponseStore, weights_identity
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.models.backbone import Backbone, load_adapted, load_backbone, load_folder
from tbr_lightning.reflection.pipeline import teacher_of
from tbr_lightning.tracking.run import Run

from ..conftest import environment

PROMPTS = [Prompt(f"How do I {verb} a dog?", "general", "b", "c") for verb in ("wash", "feed")]
JUDGE = compose_verb("evaluate", ["model=tiny"]).config.judge


def random_backbone(seed: int = 0, *words: str) -> Backbone:
    settings = ["model=tiny", "model.init=random", "model.tokenizer=bytes", *words]
    config = compose_verb("train", settings).config.model
    return load_backbone(config, data="files", rows=(), cache=Path(), seed=seed)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each call generated."""
    counts: list[int] = []
    original = responding.generate

    def counting(backbone: Backbone, prompts: Any, **settings: Any) -> Iterator[Any]:
        counts.append(len(prompts))
        return original(backbone, prompts, **settings)

    monkeypatch.setattr(responding, "generate", counting)
    return counts


def ask(backbone: Backbone, prompts: list[Prompt] = PROMPTS, **settings: Any) -> list[Any]:
    store = ResponseStore(Path(FILE), weights_identity(backbone))
    generation = GenerationConfig(**{"max_new_tokens": 5, **settings})
    return respond(backbone, prompts, JUDGE, generation, "test", store=store)


def test_what_is_there_is_not_generated_again(made: list[int]) -> None:
    backbone = random_backbone()
    first = ask(backbone, PROMPTS[:1])
    both = ask(backbone)
    assert made == [1, 1] and both[0] == first[0]
    assert ask(backbone) == both
    assert made == [1, 1, 0]
    plain = respond(backbone, PROMPTS, JUDGE, GenerationConfig(max_new_tokens=5), "test")
    assert plain == both


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 6},
        {"arm": "forced"},
        {"arm": "suppressed"},
        {"temperature": 1.0},
    ],
    ids=str,
)
def test_another_way_of_asking_is_another_response(
    made: list[int], settings: dict[str, Any]
) -> None:
    backbone = random_backbone()
    ask(backbone)
    ask(backbone, **settings)
    assert made == [2, 2]
    if "temperature" in settings:
        ask(backbone, **settings, seed=1)
        assert made == [2, 2, 2]


def test_no_answer_of_another_seed_is_taken_for_a_repeat(made: list[int]) -> None:
    """Three answers with seed 0, then with seed 1: they share none, so none is stored."""
    backbone = random_backbone()
    texts: dict[int, list[str]] = {}
    for seed in (0, 1):
        for repeat in range(3):
            rows = ask(backbone, PROMPTS, temperature=1.5, seed=seed_of(seed, repeat))
            texts.setdefault(seed, []).extend(row.answer for row in rows)
    assert made == [2] * 6
    assert not set(texts[0]) & set(texts[1])
    ask(backbone, PROMPTS, temperature=1.5, seed=seed_of(1, 2))
    assert made[-1] == 0  # the same draw has the same key


def test_batch_size_is_no_part_of_a_response(made: list[int]) -> None:
    backbone = random_backbone()
    ask(backbone)
    ask(backbone, batch_size=1)
    assert made == [2, 0]


def test_weights_are_told_apart(tmp_path: Path) -> None:
    one, other = random_backbone(0), random_backbone(1)
    identity = weights_identity(one)
    assert identity == weights_identity(random_backbone(0))
    deeper = random_backbone(0, "model.architecture.num_hidden_layers=1")
    assert len({identity, *(weights_identity(b) for b in (other, deeper))}) == 3
    for name, backbone in (("a", one), ("b", other), ("c", one)):
        backbone.model.save_pretrained(tmp_path / name)
        backbone.tokenizer.save_pretrained(tmp_path / name)
    a, b, c = (
        weights_identity(load_folder(tmp_path / name, ThinkFormat(), origin=name, thinks=True))
        for name in "abc"
    )
    assert a == c != b
    # The same files read in another type write other answers, and so do other settings or words.
    half, wider, other_config, penalised = (random_backbone(0) for _ in range(4))
    half.model.to(torch.bfloat16)
    wider.tokenizer.add_tokens(["a new word"])
    other_config.model.config.rms_norm_eps = 1e-2
    penalised.model.generation_config.repetition_penalty = 1.3
    changed = {weights_identity(b) for b in (half, wider, other_config, penalised)}
    assert len(changed - {identity}) == 4
    # A model that goes on training in place is another one after each step.
    with torch.no_grad():
        next(one.model.parameters()).add_(1e-3)
    assert weights_identity(one) != identity


def test_an_adapter_counts_with_its_base(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    identities = set()
    for seed in (0, 1):
        base = random_backbone(seed)
        base.model.save_pretrained(tmp_path / "base")
        base.tokenizer.save_pretrained(tmp_path / "base")
        if not seed:
            base.model.name_or_path = str(tmp_path / "base")
            adapted = get_peft_model(base.model, LoraConfig(target_modules="all-linear"))
            adapted.save_pretrained(tmp_path / "adapter")
            base.tokenizer.save_pretrained(tmp_path / "adapter")
        loaded = load_adapted(
            tmp_path / "adapter", ThinkFormat(), cache=tmp_path / "cache", origin="a", thinks=True
        )
        identities.add(weights_identity(loaded))
    assert len(identities) == 2


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = random_backbone()
    many = [replace(PROMPTS[0], text=f"How? {n}") for n in range(60)]
    original = ResponseStore._open

    @contextmanager
    def small(self: ResponseStore) -> Iterator[sqlite3.Connection]:
        with original(self) as db:
            db.execute("PRAGMA max_page_count=5")
            yield db

    with monkeypatch.context() as patch:
        patch.setattr(ResponseStore, "_open", small)
        with pytest.raises(UserError, match=r"the disk is full.*responses\.db.*paths\.runs"):
            ask(backbone, many, max_new_tokens=40)
    with closing(sqlite3.connect(FILE)) as db:
        (kept,) = db.execute("SELECT count(*) FROM responses").fetchone()
    assert 0 < kept < 60
    ask(backbone, many, max_new_tokens=40)
    assert made[-1] == 60 - kept


def test_a_file_that_is_no_store_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(UserError, match=r"responses\.db cannot be used.*generation\.reuse=false"):
        ResponseStore(tmp_path / FILE, "w")


def test_a_template_that_fails_is_told() -> None:
    backbone = random_backbone()
    backbone.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(UserError, match=r"chat template of random/0 cannot be used \(no such"):
        arm_prompts(backbone, ["x"], "trained")


@pytest.mark.slow
@pytest.mark.e2e
def test_a_killed_evaluation_goes_on(tmp_path: Path, base_folder: Path) -> None:
    words = ["model=tiny", "suite=smoke", "generation.batch_size=1", "threads=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tbr_lightning.evaluate", *words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    file = tmp_path / ".tbr" / "runs" / FILE
    kept: list[tuple[Any, ...]] = []
    end = time.monotonic() + 240
    while len(kept) < 20 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
        kept = stored(file)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = stored(file)
    assert 20 <= len(kept) < 600
    assert cli.main("evaluate", words) == 0
    assert cli.main("evaluate", words) == 0
    again = mlflow.search_runs(
        filter_string="attributes.status = 'FINISHED'",
        order_by=["attributes.start_time"],
        search_all_experiments=True,
    )
    reused = [Run(run_id).numbers()["responses_reused"] for run_id in again["run_id"]]
    assert reused == [len(kept), 600]
    after = stored(file)
    assert len(after) == 600 and after[: len(kept)] == kept  # not one was written anew


def stored(file: Path) -> list[tuple[Any, ...]]:
    if not file.is_file():
        return []
    # Not read-only: after a kill the next reader has to recover the log.
    with closing(sqlite3.connect(file, timeout=10)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'responses'").fetchone():
            return []
        return db.execute("SELECT rowid, * FROM responses ORDER BY rowid").fetchall()


def test_an_internal_teacher_is_named_by_the_weights_that_it_writes_with() -> None:
    config = compose_verb("train", ["model=tiny", "data=microworld", "reflection=internal"]).config
    names = set()
    for change in (0.0, 0.0, 1.0):
        model = random_backbone()
        model.model.get_input_embeddings().weight.data[0, 0] += change
        names.add(teacher_of(replace(config.reflection, prompt=None), config.data, model, 0).name)
    assert len(names) == 2
