"""EleutherAI's harness on local files; skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.evaluation import SuiteConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import harness
from tbr_lightning.evaluation.general import measure, prepare
from tbr_lightning.models.backbone import load_backbone

TASKS = ("arc_challenge", "gsm8k", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2")


def suite(*words: str) -> SuiteConfig:
    return compose_verb("evaluate", ["model=tiny", "suite=standard", *words]).config.suite


def test_the_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs the package lm_eval, .* pip install -e '.\[lm-eval\]'"
    ):
        prepare(suite("suite.lm_eval=[gsm8k]"))


def test_the_dev_half_is_not_for_the_harness() -> None:
    with pytest.raises(UserError, match=r"suite\.half=dev with suite\.lm_eval"):
        suite("suite.half=dev", "suite.lm_eval=[gsm8k]")


def test_real_files_on_a_tiny_model(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    words = ["model=qwen2_5_0_5b", "model.init=random", "model.scale=tiny", "model.tokenizer=bytes"]
    model = compose_verb("train", [*words, "data=microworld"]).config.model
    model.max_new_tokens = 8
    backbone = load_backbone(model, data="microworld", rows=(), cache=tmp_path, seed=0)
    chosen = f"suite.lm_eval=[{','.join(TASKS)}]"
    config = suite("suite.limit=4", f"suite.root={shared_data}", chosen)
    found = measure(backbone, config, prepare(config), 8)
    assert set(found.harness) == set(TASKS)
    for task, one in found.harness.items():
        assert (one.n, one.shots, one.local) == (4, 0, True), task
        assert 0 <= one.low <= one.value <= one.high <= 1, task
    assert found.metrics()["general/lm_eval/arc_challenge_n"] == 4
    assert found.harness_table()[0]["metric"] == "acc,none"


def test_an_unknown_task_and_an_absent_file(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    missing = harness.missing(suite(f"suite.root={tmp_path}", "suite.lm_eval=[gsm8k]"))
    assert missing == [
        f"suite.root='{tmp_path}' has no gsm8k/test.jsonl: put it there, or leave gsm8k out of "
        "suite.lm_eval"
    ]
