"""A study's runs in a real MLflow store: true while it goes on and whatever ends it."""

from __future__ import annotations

import copy
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.store import connect
from tbr_lightning.training.trial_pruning_channel import Pruned
from tbr_lightning.tuning import mlflow_sync
from tbr_lightning.tuning import pareto_front as fronts
from tbr_lightning.tuning.storage import open_study
from tbr_lightning.tuning.study import Study

from .conftest import filled, made_trial, make_study, opened_of, storage_of

HEAD = """
import sys, time
from pathlib import Path
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.tracking.open_run import start_run
from tbr_lightning.tuning import mlflow_sync
from tbr_lightning.tuning.storage import open_study
from tbr_lightning.tuning.study import read_study
config = compose_verb("sweep").config
"""


def script(text: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + text, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")},
    )


@pytest.fixture
def config(store: Path) -> Any:
    mlflow_sync._shown.clear()
    return copy.deepcopy(_config())


@functools.cache
def _config() -> Any:
    return compose_verb("sweep").config


def status(run_id: str) -> str:
    return MlflowClient().get_run(run_id).info.status


def tags(run_id: str) -> dict[str, str]:
    return dict(MlflowClient().get_run(run_id).data.tags)


def table(run_id: str) -> list[dict[str, Any]]:
    found = json.loads(Run(run_id).text(mlflow_sync.FRONT))
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def test_a_study_has_one_run_that_is_opened_again(config: Any, two: Study) -> None:
    there = storage_of(two)
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as first:
        assert status(first) == "RUNNING"
    assert status(first) == "FINISHED"
    assert there.user_attrs["mlflow_run"] == first
    with (
        pytest.raises(KeyboardInterrupt),
        mlflow_sync.parent_run(two, config, opened_of(two, there)) as again,
    ):
        raise KeyboardInterrupt
    assert again == first
    assert status(first) == "KILLED"
    with pytest.raises(RuntimeError), mlflow_sync.parent_run(two, config, opened_of(two, there)):
        raise RuntimeError("5 trials failed in a row")
    assert status(first) == "FAILED"
    assert "5 trials failed" in tags(first)["tbr.failure"]
    with mlflow_sync.parent_run(two, config, opened_of(two, there)):
        pass
    assert status(first) == "FINISHED"
    assert "tbr.failure" not in tags(first)
    assert tags(first)["tbr.stage"] == "sweep"
    assert tags(first)["tbr.study"] == two.key
    assert "false_refusal_rate: minimize" in Run(first).text("study.yaml")


def test_a_run_of_another_store_or_a_deleted_one_is_made_anew(config: Any, two: Study) -> None:
    there = storage_of(two)
    there.set_user_attr("mlflow_run", "0" * 32)
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as first:
        pass
    MlflowClient().delete_run(first)
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as second:
        pass
    assert len({first, second, "0" * 32}) == 3


def test_no_password_reaches_the_run(config: Any, two: Study) -> None:
    config.storage = "postgresql://someone:hidden@127.0.0.1/studies"
    with mlflow_sync.parent_run(two, config, opened_of(two, storage_of(two))) as run_id:
        pass
    run = MlflowClient().get_run(run_id)
    assert "hidden" not in str(run.data.params) + Run(run_id).text("config.yaml")
    assert "127.0.0.1" in run.data.params["storage"]


@pytest.mark.slow
def test_two_runners_that_begin_at_once_share_one_run(config: Any, two: Study) -> None:
    Path("mlflow.db").unlink()  # as in a fresh clone
    url = f"sqlite:///{Path.cwd()}/studies.db"
    Path("made.yaml").write_text(str(json.dumps(dict(two.settings))))
    open_study(two, url)
    text = """
url, name = sys.argv[1:]
study = read_study("made", "made.yaml", Path("made.yaml").read_text())
opened = open_study(study, url)
Path(name).touch()
while not (Path("one").exists() and Path("two").exists()):
    time.sleep(0.01)
with mlflow_sync.parent_run(study, config, opened) as run_id:
    time.sleep(0.5)
print(run_id)
"""
    both = [script(text, url, name) for name in ("one", "two")]
    found = {one.communicate(timeout=400)[0].strip() for one in both}
    assert [one.returncode for one in both] == [0, 0]
    experiment = connect(config.tracking)
    there = MlflowClient().search_runs([experiment])
    assert found == {run.info.run_id for run in there}
    assert len(there) == 1
    assert status(found.pop()) == "FINISHED"


@pytest.mark.slow
def test_a_trial_killed_in_its_own_process_is_closed(config: Any, two: Study) -> None:
    there = storage_of(two)
    text = """
with mlflow_sync.trial_run(sys.argv[1], sys.argv[2], 7, {"optimizer.lr": 0.001}, config) as run_id:
    with start_run("train", "seed 0", config, config.tracking) as beneath:
        print(run_id, beneath.id, flush=True)
        time.sleep(300)
"""
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as parent:
        process = script(text, parent, two.key)
        assert process.stdout is not None
        child, beneath = process.stdout.readline().split()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (status(child), status(beneath)) == ("RUNNING", "RUNNING")
        mlflow_sync.close_child(parent, 7, "FAILED", "the process was killed")
        assert (status(child), status(beneath)) == ("FAILED", "FAILED")
        assert status(parent) == "RUNNING"
    assert tags(child)["mlflow.parentRunId"] == parent
    assert tags(beneath)["mlflow.parentRunId"] == child
    assert tags(child)["tbr.failure"] == "the process was killed"
    assert tags(child)["tbr.trial"] == "7"
    assert tags(child)["tbr.study"] == two.key
    run = MlflowClient().get_run(child)
    assert run.data.params == {"optimizer.lr": "0.001"}
    assert run.info.run_name == "trial 7"


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (None, "FINISHED"),
        (Pruned("pruned at step 4"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (FloatingPointError("the loss is NaN"), "FAILED"),
    ],
)
def test_a_trial_ends_as_what_it_came_to(
    config: Any, two: Study, error: BaseException | None, ends: str
) -> None:
    with mlflow_sync.parent_run(two, config, opened_of(two, storage_of(two))) as parent:
        try:
            with mlflow_sync.trial_run(parent, two.key, 0, {}, config) as child:
                assert mlflow.active_run().info.run_id == child
                if error is not None:
                    raise error
        except BaseException as caught:  # the test's own, of four kinds
            assert caught is error
        assert status(child) == ends
        assert mlflow.active_run().info.run_id == parent
        mlflow_sync.close_child(parent, 0, "KILLED", "pruned at step 4")
        assert status(child) == "KILLED"


def test_of_a_trial_run_twice_only_the_last_attempt_gets_the_verdict(
    config: Any, two: Study
) -> None:
    with mlflow_sync.parent_run(two, config, opened_of(two, storage_of(two))) as parent:
        with mlflow_sync.trial_run(parent, two.key, 3, {}, config) as first:
            pass
        MlflowClient().update_run(first, status="RUNNING")  # as a killed process leaves it
        with mlflow_sync.trial_run(parent, two.key, 3, {}, config) as second:
            pass
        mlflow_sync.close_child(parent, 3, "FINISHED")
    assert (status(first), status(second)) == ("FAILED", "FINISHED")


def test_what_a_killed_runner_left_open_is_ended_on_the_next_start(config: Any, two: Study) -> None:
    there = storage_of(two)
    there.add_trial(made_trial([0.1, 0.1]))
    there.ask()  # trial 1 runs in another runner
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as parent:
        left = []
        for number in (0, 1, 2):
            with mlflow_sync.trial_run(parent, two.key, number, {}, config) as child:
                left.append(child)
            MlflowClient().update_run(child, status="RUNNING")
    with mlflow_sync.parent_run(two, config, opened_of(two, there)):
        assert [status(child) for child in left] == ["FINISHED", "RUNNING", "KILLED"]


def test_the_state_of_a_study_stands_on_its_run(config: Any) -> None:
    study = make_study(constraints=["harmful_compliance_rate <= 0.3"])
    intervals = {"false_refusal_rate": [0.1, 0.3]}
    there, _ = filled(
        study,
        [
            made_trial([0.2, 0.2], [-0.1], harmful=150, intervals=intervals),
            made_trial([0.0, 0.4], [0.1]),
            made_trial(None, state=TrialState.FAIL),
            made_trial(None, state=TrialState.PRUNED),
        ],
    )
    with mlflow_sync.parent_run(study, config, opened_of(study, there)) as run_id:
        mlflow_sync.refresh(there, study, run_id)
        found = tags(run_id)
        assert found["tbr.trials_finished"] == "2"
        assert (found["tbr.trials_failed"], found["tbr.trials_pruned"]) == ("1", "1")
        assert found["tbr.front"] == "0"
        assert found["tbr.best"].startswith("trial 0: false_refusal_rate 20.0% [10.0%, 30.0%]")
        (row,) = table(run_id)
        assert row["false_refusal_rate_hi"] == 0.3
        assert row["data.harmful"] == 150
        there.add_trial(made_trial([0.1, 0.3], [0.0]))
        mlflow_sync.refresh(there, study, run_id)
        assert [row["trial"] for row in table(run_id)] == [4, 0]
        history = MlflowClient().get_metric_history(run_id, "trial/false_refusal_rate")
        assert {(point.step, point.value) for point in history} == {(0, 0.2), (1, 0.0), (4, 0.1)}
        assert json.loads(tags(run_id)["mlflow.loggedArtifacts"]) == [
            {"path": mlflow_sync.FRONT, "type": "table"}
        ]


def test_after_a_restart_only_what_is_missing_is_sent(config: Any, two: Study) -> None:
    there, _ = filled(two, [made_trial([0.1 * i, 0.1]) for i in range(5)])
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as run_id:
        mlflow_sync.refresh(there, two, run_id)
        mlflow_sync._shown.clear()
        there.add_trial(made_trial([0.6, 0.1]))
        mlflow_sync.refresh(there, two, run_id)
    history = MlflowClient().get_metric_history(run_id, "trial/false_refusal_rate")
    assert sorted(point.step for point in history) == [0, 1, 2, 3, 4, 5]


def test_only_new_trials_are_looked_at(
    config: Any, two: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, _ = filled(two, [made_trial([0.1 * i, 0.1]) for i in range(9)])
    seen: list[int] = []
    real = fronts.finished

    def counting(trials: Any) -> Any:
        trials = list(trials)
        seen.append(len(trials))
        return real(trials)

    monkeypatch.setattr(fronts, "finished", counting)
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as run_id:
        mlflow_sync.refresh(there, two, run_id)
        assert set(seen) == {9}
        seen.clear()
        there.add_trial(made_trial([0.0, 0.0]))
        mlflow_sync.refresh(there, two, run_id)
        assert set(seen) == {1}
    assert tags(run_id)["tbr.front"] == "9"


def test_a_tracker_that_does_not_answer_stops_nothing(
    config: Any, two: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there, _ = filled(two, [made_trial([0.1, 0.1])])
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as run_id:

        def refuse(*_: object, **__: object) -> None:
            raise MlflowException("no route to host")

        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, "log_batch", refuse)
            patched.setattr(MlflowClient, "search_runs", refuse)
            mlflow_sync.refresh(there, two, run_id)
            mlflow_sync.close_child(run_id, 0, "FINISHED")
        assert "no route to host" in capsys.readouterr().err
        mlflow_sync.refresh(there, two, run_id)
    history = MlflowClient().get_metric_history(run_id, "trial/false_refusal_rate")
    assert [point.step for point in history] == [0]


def test_a_run_that_another_runner_has_ended_runs_again(config: Any, two: Study) -> None:
    there = storage_of(two)
    with mlflow_sync.parent_run(two, config, opened_of(two, there)) as run_id:
        MlflowClient().set_terminated(run_id, "KILLED")
        mlflow_sync.refresh(there, two, run_id)
        assert status(run_id) == "RUNNING"
    assert status(run_id) == "FINISHED"
