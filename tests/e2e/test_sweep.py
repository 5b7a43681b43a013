"""A small study: resumed to exactly its budget, with a front and one run per trial."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ..conftest import Verb

pytestmark = pytest.mark.e2e

STUDY = """
fixed: [model=tiny, data=microworld, trainer.max_steps=3, data.general=40]
space:
  reflection: {choices: [none, external]}
  optimizer.lr: {low: 1e-4, high: 1e-3, log: true}
evaluate: [suite=smoke, suite.half=dev, suite.limit=10]
objectives: {false_refusal_rate: minimize, harmful_compliance_rate: minimize}
trials: 3
"""


def test_a_study_is_resumed_to_its_budget(verb: Verb, base_folder: Path, tmp_path: Path) -> None:
    Path("short.yaml").write_text(STUDY)
    first = verb("sweep", "study=short.yaml", "trials=1")
    assert first.returncode == 0, first.stderr
    second = verb("sweep", "study=short.yaml")
    assert second.returncode == 0, second.stderr
    assert "1 of 3 trials are there" in second.stdout
    assert "[3/3]" in second.stdout
    assert "Pareto front" in second.stdout
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tbr").experiment_id
    trials = client.search_runs([experiment], "tags.`tbr.stage` = 'train'")
    assert len(trials) == 3
    assert all("mlflow.parentRunId" in run.data.tags for run in trials)
    assert {run.data.tags["tbr.trial"] for run in trials} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("optimizer.lr:", "optimizer.lrr:", "did you mean 'optimizer.lr'"),
        ("low: 1e-4", "low: 1", "space.optimizer.lr"),
        ("minimize, harm", "least, harm", "'least' is not known"),
        ("trials: 3", "trails: 3", "did you mean 'trials'"),
        ("objectives:", "objectives: }", "not valid YAML"),
    ],
)
def test_a_wrong_study_is_told_before_the_first_trial(
    verb: Verb, old: str, new: str, says: str
) -> None:
    Path("wrong.yaml").write_text(STUDY.replace(old, new))
    done = verb("sweep", "study=wrong.yaml")
    assert done.returncode == 2
    assert says in done.stderr
    assert not Path("mlflow.db").exists()


def test_a_metric_that_nothing_logs_is_told(verb: Verb, base_folder: Path) -> None:
    Path("wrong.yaml").write_text(STUDY.replace("false_refusal_rate", "false_refusals"))
    done = verb("sweep", "study=wrong.yaml")
    assert done.returncode == 2
    assert "objectives.false_refusals" in done.stderr
