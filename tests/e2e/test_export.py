"""A tuned model of the micro-world leaves as a GGUF file and answers from there as it did."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow
import pytest
from huggingface_hub import ModelCard
from tests.conftest import Tuned, Verb

from tbr_lightning.evaluation.evaluation_result import RESPONSES
from tbr_lightning.evaluation.judged_response import Judged, from_table
from tbr_lightning.tracking.run import Run

SUITE = ("suite=smoke", "suite.limit=5", "traces=0")


@pytest.mark.slow
def test_the_file_answers_as_the_model_does(tuned: Tuned, tmp_path: Path, verb: Verb) -> None:
    tuned.copy_to(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")

    def answers(model: str) -> list[Judged]:
        done = verb("evaluate", f"model={model}", *SUITE)
        assert done.returncode == 0, done.stderr
        found = re.search(r"\b[0-9a-f]{32}\b", done.stdout)
        assert found is not None, done.stdout
        return from_table(Run(found[0]).text(RESPONSES))

    before = answers(tuned.uri)
    done = verb("export", f"model={tuned.uri}", "to=gguf", "folder=out")
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").glob("*.gguf")
    assert f"ollama create {file.stem}" in done.stdout
    after = answers(str(file))
    assert len(before) >= 5
    assert any(row.reflection for row in before)
    assert [(row.prompt, row.reflection, row.answer) for row in after] == [
        (row.prompt, row.reflection, row.answer) for row in before
    ]
    card = ModelCard.load(tmp_path / "out" / "README.md")
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert metrics.keys() >= {"false_refusal_rate", "harmful_compliance_rate"}
    assert "smoke, test half" in card.text
    assert "Reflections: external" in card.text
