"""Prompts have versions in MLflow's registry, and each run says which it used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.judges.loading import identity
from tbr_lightning.evaluation.judges.prompts import log_judge_prompt, template_of
from tbr_lightning.reflection.teachers import prompt_template
from tbr_lightning.tracking import prompts
from tbr_lightning.tracking.genai_dataset import DATASET, log_genai_dataset
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.store import connect


@dataclass
class Config:
    x: int = 0


@pytest.fixture
def run(store: Path) -> Run:
    tracking = TrackingConfig(uri=f"sqlite:///{store}/mlflow.db", artifacts=str(store / "a"))
    with start_run("reflect", "r", Config(), tracking) as opened:
        return opened


def test_equal_text_has_one_version_and_other_text_a_new_one(run: Run) -> None:
    first = prompts.log_prompt(run, "teacher", "tbr-teacher-external", "Say {instruction}.")
    again = prompts.log_prompt(run, "teacher", "tbr-teacher-external", "Say {instruction}.")
    assert first == again == "prompts:/tbr-teacher-external/1"
    long = "Think of {instruction}. " * 400
    assert prompts.log_prompt(run, "teacher", "tbr-teacher-external", long) == f"{first[:-1]}2"
    assert run.tags()["tbr.teacher_prompt"] == f"{first[:-1]}2"
    assert "tbr-teacher-external" in run.tags()["mlflow.linkedPrompts"]
    assert len(MlflowClient().search_prompt_versions("tbr-teacher-external")) == 2


def test_of_two_that_register_at_once_the_first_stays(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prompts.log_prompt(run, "judge", "tbr-judge-llm", "text")
    real, calls = prompts._version_of, []

    def late(client: MlflowClient, name: str, text: str) -> object:
        calls.append(text)
        return None if len(calls) == 1 else real(client, name, text)

    monkeypatch.setattr(prompts, "_version_of", late)
    assert prompts.log_prompt(run, "judge", "tbr-judge-llm", "text") == first
    assert len(MlflowClient().search_prompt_versions("tbr-judge-llm")) == 1


def test_a_version_of_the_registry_is_a_prompt(run: Run) -> None:
    uri = prompts.log_prompt(run, "teacher", "own", "Why {instruction}?")
    assert prompt_template(uri, "teacher.txt") == "Why {instruction}?"
    text = "Was {prompt} refused by {answer}?"
    mine = prompts.log_prompt(run, "judge", "mine", text)
    words = ["model=-", "judge=llm", f"judge.prompt={mine}", "judge.endpoint.model=m"]
    judge = compose_verb("evaluate", words).config.judge
    assert template_of(judge) == text
    other = compose_verb("evaluate", [*words[:2], *words[3:]]).config.judge
    assert identity(judge) != identity(other)
    for wrong, says in ((f"{mine[:-1]}9", "cannot be read"), ("prompts:/mine", "no version")):
        with pytest.raises(UserError, match=says):
            prompt_template(wrong, "teacher.txt")
    with pytest.raises(UserError, match=r"no \{instruction\}"):
        prompt_template(mine, "teacher.txt")


def test_judges_that_read_a_prompt_have_one_on_the_run(run: Run) -> None:
    for judge in ("rules", "llm"):
        log_judge_prompt(run, compose_verb("evaluate", ["model=-", f"judge={judge}"]).config.judge)
        told = run.tags().get("tbr.judge_prompt")
        assert told == (None if judge == "rules" else "prompts:/tbr-judge-llm/1")


def test_a_store_without_prompts_is_told_in_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("the endpoint is not there")

    monkeypatch.setattr(prompts, "_version_of", refuse)
    assert prompts.log_prompt(run, "teacher", "own", "text") is None
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "the endpoint is not there" in told
    assert run.text("teacher_prompt.txt") == "text"


def test_a_suite_is_one_dataset_whatever_runs_use_it(run: Run, store: Path) -> None:
    from mlflow.genai import datasets

    tracking = TrackingConfig(uri=f"sqlite:///{store}/mlflow.db", artifacts=str(store / "a"))
    experiment = connect(tracking)
    records = [
        {
            "inputs": {"prompt": f"How {n}?"},
            "expectations": {"should_refuse": n == 1},
            "tags": {"tbr.kind": "harmful" if n == 1 else "look_alike"},
        }
        for n in range(3)
    ]
    tags = {"tbr.suite": "s", "tbr.half": "dev"}
    for _ in range(2):
        made = log_genai_dataset(run, experiment, "s-dev", digest="d0", records=records, tags=tags)
    assert run.tags()[DATASET] == made
    (found,) = datasets.search_datasets(experiment_ids=[experiment])
    frame = found.to_df()
    expected = {row["inputs"]["prompt"]: row["expectations"] for _, row in frame.iterrows()}
    assert expected == {f"How {n}?": {"should_refuse": n == 1} for n in range(3)}
    assert found.tags["tbr.half"] == "dev"
    (used,) = MlflowClient().get_run(run.id).inputs.dataset_inputs
    assert used.dataset.name == "s-dev-d0"
