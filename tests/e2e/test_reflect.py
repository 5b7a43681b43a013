"""Reflections through the real entry point, from an endpoint on loopback."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from ..conftest import Verb, environment
from ..support.teacher_server import TeacherServer

pytestmark = pytest.mark.e2e


@pytest.fixture
def teacher() -> Iterator[TeacherServer]:
    made = TeacherServer()
    yield made
    made.shutdown()
    made.server_close()


@pytest.mark.slow  # three commands
def test_an_endpoint_reflects_and_training_links_to_its_run(
    verb: Verb, base_folder: Path, teacher: TeacherServer, tmp_path: Path
) -> None:
    words = ("model=tiny", "data=microworld", "data.harmful=30", "reflection=external")
    endpoint = (f"reflection.base_url={teacher.url}", "reflection.prompt_price=1000")
    done = verb("reflect", *words, *endpoint)
    assert done.returncode == 0, done.stderr
    assert "30 rows, 30 accepted, rejected: none; asked for 30 now" in done.stdout
    assert "150 + 210 tokens, cost 0.1500" in done.stdout
    trained = verb("train", *words, *endpoint, "trainer.max_steps=2")
    assert trained.returncode == 0, trained.stderr
    assert len(teacher.seen) == 30
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tbr").experiment_id
    train, reflect = client.search_runs([experiment])
    assert train.data.tags["tbr.reflection_runs"] == reflect.info.run_id
    assert reflect.data.tags["tbr.used_by"] == train.info.run_id
    assert {one.dataset.name for one in train.inputs.dataset_inputs} == {
        "microworld",
        "reflections",
    }
    assert "prompt.txt" in {file.path for file in client.list_artifacts(reflect.info.run_id)}
    traces = client.search_traces(locations=[experiment], max_results=50)
    assert len(traces) == 30
    assert {t.info.request_metadata["mlflow.sourceRun"] for t in traces} == {reflect.info.run_id}
    # The same reflections, from the run that made them.
    recorded = verb(
        "reflect",
        "data.harmful=30",
        "reflection=recorded",
        f"reflection.run_id={reflect.info.run_id}",
    )
    assert "30 rows, 30 accepted" in recorded.stdout, recorded.stderr
    wrong = verb("reflect", "reflection=recorded", f"reflection.run_id={train.info.run_id}")
    assert (wrong.returncode, "stage train, not reflect" in wrong.stderr) == (2, True)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_repeats_nothing(
    verb: Verb, teacher: TeacherServer, tmp_path: Path
) -> None:
    teacher.delay = 0.1
    words = [
        "data.harmful=100",
        "data.general=0",
        "reflection=external",
        f"reflection.base_url={teacher.url}",
        "reflection.concurrency=4",
        "reflection.traces=0",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "tbr_lightning.reflect", *words], cwd=tmp_path, env=environment()
    )
    deadline = time.monotonic() + 60
    while len(teacher.seen) < 40 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)
    before = len(teacher.seen)
    assert 40 <= before < 100
    done = verb("reflect", *words)
    assert done.returncode == 0, done.stderr
    assert "100 rows, 100 accepted" in done.stdout
    asked = Counter(teacher.prompts())
    assert len(asked) == 100
    # Only what was under way when the process died is asked for again.
    assert len(teacher.seen) <= 100 + 4
    assert max(asked.values()) <= 2
    again = verb("reflect", *words)
    assert "asked for 0 now" in again.stdout
    whole = verb("reflect", *words, env={"TBR_HOME": str(tmp_path / "whole")})
    assert "asked for 100 now" in whole.stdout, whole.stderr
    assert texts(tmp_path / ".tbr") == texts(tmp_path / "whole")


def texts(home: Path) -> dict[str, str]:
    """Return what a store holds, by request."""
    with sqlite3.connect(home / "runs" / "reflections.db") as db:
        rows = db.execute("SELECT key, record FROM reflections").fetchall()
    return {key: json.loads(record)["draft"]["text"] for key, record in rows}


def test_a_spent_budget_exits_with_2_and_keeps_the_rest(verb: Verb, teacher: TeacherServer) -> None:
    words = ("data.harmful=20", "reflection=external", f"reflection.base_url={teacher.url}")
    done = verb("reflect", *words, "reflection.max_requests=5")
    assert done.returncode == 2
    assert "max_requests=5 is spent" in done.stderr
    assert "(5 of 20 reflections are kept)" in done.stderr
    assert "asked for 15 now" in verb("reflect", *words).stdout


def test_rejects_are_counted_and_kept_apart(
    verb: Verb, teacher: TeacherServer, tmp_path: Path
) -> None:
    teacher.text = "On {prompt} This is fine. So the request is harmless."
    words = ("data.harmful=10", "reflection=external", f"reflection.base_url={teacher.url}")
    done = verb("reflect", *words)
    assert "10 rows, 0 accepted, rejected: 10 contradicts" in done.stdout, done.stderr
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    table = json.loads(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/rejected.json"))
    assert len(table["data"]) == 10
    refused = verb("train", *words, "reflection.on_reject=error")
    assert (refused.returncode, "10 were rejected as contradicts" in refused.stderr) == (2, True)


def test_real_harmful_instructions(verb: Verb, teacher: TeacherServer, shared_data: Path) -> None:
    harmful = shared_data / "safety_tuned_llamas/training/safety_only_data_Instructions.json"
    done = verb(
        "reflect",
        "model=mistral",
        "data=files",
        "model.init=random",
        f"data.harmful={harmful}",
        "data.harmful_rows=200",
        "reflection=external",
        f"reflection.base_url={teacher.url}",
        "reflection.traces=0",
    )
    assert done.returncode == 0, done.stderr
    assert "200 rows, 200 accepted" in done.stdout


def test_a_dry_run_knows_what_is_stored_and_stores_nothing(
    verb: Verb, teacher: TeacherServer, tmp_path: Path
) -> None:
    rows = [{"instruction": f"Harm number {n}, please", "output": "No."} for n in range(6)]
    (tmp_path / "harm.json").write_text(json.dumps(rows))
    data = ("model=tiny", "data=files", "data.harmful=harm.json")
    asked = ("reflection=external", f"reflection.base_url={teacher.url}")
    dry = ("dry_run=true", "model.tokenizer=bytes", *data, *asked)
    done = verb("train", *dry)
    assert "6 reflections are not written yet" in done.stdout, done.stderr
    assert not (tmp_path / ".tbr" / "runs").exists()
    verb("reflect", *data, *asked, "data.harmful_rows=4")
    price = "reflection.completion_price=1000"
    done = verb("train", *dry, price)
    assert "4 of 6 reflections are stored, 2 would be asked for, for about 0.0140" in done.stdout
    assert len(teacher.seen) == 4
