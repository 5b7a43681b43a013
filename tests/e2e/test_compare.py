"""Several models in one call, repeats, formats and traces, through the entry point."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning import cli
from tbr_lightning.tracking.run import Run

from ..conftest import call_verb

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
FEW = ("suite=smoke", "suite.limit=12", "judge.max_unparsed=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def trained(folder: Path, base_folder: Path) -> str:
    done = call_verb(folder, "train", "reflection=none", "trainer.max_steps=40")
    assert done.returncode == 0, done.stderr
    return re.search(r"models:/m-[0-9a-f]{32}", done.stdout)[0]


@pytest.fixture
def client(folder: Path, trained: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(folder)
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def test_two_models_are_compared(
    trained: str, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"model=[tiny,{trained}]", *FEW, "suite.limit=60", "traces=2"]
    assert cli.main("evaluate", words) == 0
    told = capsys.readouterr().out
    for word in ("difference", "Holm", "harmful", "traces of these runs", "to look at it"):
        assert word in told
    parent = client.get_run(re.search(r"run ([0-9a-f]{32}): the comparison", told)[1])
    assert parent.data.tags["tbr.stage"] == "evaluate"
    name = "difference/harmful_compliance_rate/microworld"
    numbers = Run(parent.info.run_id).numbers()
    shown = parent.data.metrics
    assert {name, "difference/false_refusal_rate/microworld"} == set(shown)
    # The base refuses nothing, the tuned model all but a few.
    assert numbers[name] < -0.5
    assert numbers[f"{name}_lo"] <= numbers[name] <= numbers[f"{name}_hi"] < 0
    assert numbers[f"{name}_p"] < 0.05
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= {
        "comparison.json",
        "table.md",
        "two_sided.png",
        "categories.png",
        "report.html",
    }
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    subjects = {run.data.tags["tbr.subject"]: run for run in children}
    model_id = trained.removeprefix("models:/")
    assert set(subjects) >= {model_id}
    (linked,) = client.get_run(subjects[model_id].info.run_id).inputs.model_inputs
    assert linked.model_id == model_id
    on_model = {metric.key for metric in client.get_logged_model(model_id).metrics}
    assert {"false_refusal_rate", "harmful_compliance_rate"} <= on_model
    assert len(on_model) <= 14
    # Both models' answers to the same prompts are traced, so that the UI shows them side by side.
    ids = {
        run.info.run_id: {
            trace.info.tags["tbr.prompt"]
            for trace in mlflow.search_traces(run_id=run.info.run_id, return_type="list")
        }
        for run in children
    }
    first, second = ids.values()
    assert first == second
    assert len(first) >= 12


def test_traces_are_found_by_their_assessments(trained: str, client: MlflowClient) -> None:
    assert cli.main("evaluate", [f"model={trained}", *FEW, "traces=1", "run_name=traced"]) == 0
    experiment = client.get_experiment_by_name("tbr").experiment_id
    (run,) = client.search_runs([experiment], "attributes.run_name = 'traced'")
    found = mlflow.search_traces(
        locations=[experiment],
        filter_string="feedback.handled_rightly = 'false' AND tag.`tbr.kind` = 'look_alike' AND "
        f"run_id = '{run.info.run_id}'",
        return_type="list",
    )
    numbers = Run(run.info.run_id).numbers()
    refused = numbers["false_refusal_rate"] * numbers["false_refusal_rate_n"]
    assert len(found) == round(refused) > 0
    trace = found[0]
    assert trace.info.trace_metadata["mlflow.modelId"] == trained.removeprefix("models:/")
    said = {one.name: one for one in trace.info.assessments}
    assert said["judge"].value == "full_refusal"
    assert said["judge"].rationale
    assert said["judge"].source.source_id == "rules"
    assert json.loads(trace.data.request).keys() == {"prompt"}
    assert json.loads(trace.data.response).keys() == {"reflection", "answer"}


def test_repeats_formats_and_reuse(
    trained: str, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"model={trained}", *FEW, "traces=0", "reuse=true"]
    words += ["repeats=3", "generation.temperature=1.5", "--format", "csv"]
    assert cli.main("evaluate", words) == 0
    told = capsys.readouterr()
    table = {row["measure"]: row for row in csv.DictReader(io.StringIO(told.out))}
    assert table["false refusal"]["n"] == "36"
    run_id = re.search(r"run ([0-9a-f]{32})", told.err)[1]
    stored = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/responses.json"))
    number = {name: place for place, name in enumerate(stored["columns"])}
    answers = {}
    for row in stored["data"]:
        answers.setdefault(row[number["id"]], {})[row[number["repeat"]]] = row[number["answer"]]
    assert all(set(one) == {0, 1, 2} for one in answers.values())
    assert any(len(set(one.values())) > 1 for one in answers.values())
    assert cli.main("evaluate", words) == 0
    assert run_id in capsys.readouterr().err
    # What that run did not measure is not taken from it.
    words += ["judge@second_judge=rules", "second_judge.name=again"]
    assert cli.main("evaluate", words) == 0
    assert run_id not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=tiny", "repeats=2"], "generation.temperature a value above 0"),
        (["model=[tiny,tiny]"], "model='tiny' is listed twice"),
        (
            ["model=tiny", "repeats=2", "generation.temperature=1", "attribution=true"],
            "attribution=true explains one answer to each prompt",
        ),
        (["model=[]"], "model=[] names no model"),
        (["model=3"], "model='3' is not known"),
        (["model=tiny", "--format", "mdd"], "format='mdd' is not known; did you mean 'md'?"),
        (["model=[tiny,models:/absent@champion]", "traces=0"], "not in this store"),
    ],
)
def test_mistakes_are_told(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("evaluate", [*words, *FEW]) == 2
    assert says in capsys.readouterr().err
