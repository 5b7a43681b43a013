"""Every kind of architecture trains, is exported, reloaded and logged."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow
import pytest

from tbr_lightning import cli

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
WORDS = [
    "model.scale=tiny",
    "model.init=random",
    "model.tokenizer=bytes",
    "data=microworld",
    "data.general=6",
    "data.harmful=6",
    "reflection=external",
    "trainer.max_steps=2",
    "trainer.batch_size=4",
    "trainer.threads=1",
]


@pytest.mark.parametrize(
    ("model", "adapter"),
    [
        ("llama3_2_1b", "none"),
        ("mistral", "dora"),
        ("mixtral_8x7b", "lora"),
        ("gemma2_2b", "rslora"),
        ("qwen3_0_6b", "lora"),
        ("phi4_mini", "none"),
        ("olmo2_1b", "lora"),
        ("olmo3_7b", "none"),
        ("smollm3_3b", "none"),
    ],
)
def test_two_steps_then_a_logged_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    model: str,
    adapter: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli.main("train", [f"model={model}", f"adapter={adapter}", *WORDS]) == 0
    uri = re.findall(r"^model (\S+)$", capfd.readouterr().out, re.MULTILINE)[0]
    loaded = mlflow.transformers.load_model(uri)
    assert loaded.tokenizer.response_template["fields"]["reasoning_content"]
    facts = mlflow.MlflowClient().get_logged_model(uri.removeprefix("models:/")).tags
    assert facts["tbr.base"] == "random/0" and facts["tbr.form"] == "merged"
