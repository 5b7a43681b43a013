"""Small studies of real training runs: resumed to exactly their budget, pruned, never doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from ..conftest import Verb, environment, put_store

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STUDY = """
about: a short one
fixed: [model=tiny, data=microworld, trainer.max_steps=3, data.general=40]
space:
  reflection: {choices: [none, external]}
  optimizer.lr: {low: 1e-4, high: 1e-3, log: true, when: {reflection: external}}
evaluate: [suite=smoke, suite.half=dev, suite.limit=6]
objectives: {false_refusal_rate: minimize, harmful_compliance_rate: minimize}
sampler: random
trials: 4
"""

PRUNED = """
about: a single objective, two ranks, a pruner
fixed: [model=tiny, data=microworld, reflection=none, data.general=40, data.harmful=40,
  trainer=ddp, trainer.max_steps=12, trainer.batch_size=2, trainer.eval_every=2,
  data.validation=0.2]
space: {optimizer.lr: {choices: [1e-3, 1e-9]}}
evaluate: [suite=smoke, suite.half=dev, suite.limit=4]
objectives: {train/loss: minimize}
pruner: {name: median, metric: validation/loss, n_startup_trials: 1}
sampler: grid
"""


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{folder}/.tbr/runs/studies.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def runs_of(folder: Path, stage: str) -> list[object]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tbr").experiment_id
    return list(client.search_runs([experiment], f"tags.`tbr.stage` = '{stage}'"))


def test_a_killed_study_is_resumed_to_its_budget_and_nothing_is_run_twice(
    verb: Verb, base_folder: Path, tmp_path: Path
) -> None:
    put_store(tmp_path)
    Path("short.yaml").write_text(STUDY)
    first = subprocess.Popen(
        [sys.executable, "-m", "tbr_lightning.sweep", "study=short.yaml"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 200
    while not list(tmp_path.glob(".tbr/runs/sweeps/*/1/log.txt")):
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    second = verb("sweep", "study=short.yaml")
    assert second.returncode == 0, second.stderr
    assert "of 4 trials are there (a short one)" in second.stdout
    assert "4 of 4 trials finished" in second.stdout
    assert "Pareto front" in second.stdout
    trials = trials_of(tmp_path)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    plain = [t for t in trials if t.params["reflection"] == "none"]
    for trial in trials:
        (run,) = trial.user_attrs["runs"]
        assert run["seed"] == 0
        # A point that was there already is taken, not run again.
        assert run["reused"] == (trial in plain[1:])
        assert trial.user_attrs["intervals"]["false_refusal_rate"][0] <= trial.values[0]
    assert len({t.user_attrs["config_key"] for t in plain}) == 1
    trained = [run for run in runs_of(tmp_path, "train") if run.info.status == "FINISHED"]
    assert len(trained) == len({t.user_attrs["config_key"] for t in trials})
    assert all("mlflow.parentRunId" in run.data.tags for run in trained)
    assert not any(run.info.status == "RUNNING" for run in runs_of(tmp_path, "train"))


def test_a_pruned_trial_of_two_ranks_ends_all_of_them(store: Path, base_folder: Path) -> None:
    from tbr_lightning.config.compose import compose_verb
    from tbr_lightning.processes import identity_of
    from tbr_lightning.tuning import mlflow_sync, runner
    from tbr_lightning.tuning.plan import make_plan
    from tbr_lightning.tuning.space import active
    from tbr_lightning.tuning.storage import open_study
    from tbr_lightning.tuning.trial import TrialContext

    Path("pruned.yaml").write_text(PRUNED)
    config = compose_verb("sweep", ["study=pruned.yaml"]).config
    plan = make_plan(config)
    opened = open_study(plan.study, config.storage)
    # A trial that was better from the first measurement on.
    opened.study.add_trial(
        optuna.create_trial(
            params={"optimizer.lr": 1e-3},
            distributions=active(plan.study.space, {}),
            values=[0.1],
            user_attrs={"draw": 0, "owner": "released", "seconds": 1.0},
            intermediate_values=dict.fromkeys(range(2, 12, 2), 0.1),
        )
    )
    me, processes = identity_of(), set()

    def watch(running: Mapping[int, float], changed: bool) -> None:
        processes.update(psutil.Process().children(recursive=True))

    around = TrialContext(config.tracking, config.paths, me.pid, me.started)
    with mlflow_sync.parent_run(plan.study, config, opened) as run_id:
        hooks = runner.Hooks(
            prepare=lambda claim, slot: plan.spec(claim, slot, run_id),
            ended=lambda number, status, why: mlflow_sync.close_child(run_id, number, status, why),
            tick=watch,
        )
        runner.run(plan.study, opened, plan.limits, around, hooks)
    _, hopeless = opened.study.trials
    assert hopeless.state is TrialState.PRUNED, hopeless.user_attrs
    assert list(hopeless.intermediate_values) == [2]
    assert hopeless.user_attrs["reason"]
    (trained,) = runs_of(store, "train")
    assert trained.info.status == "KILLED"
    assert trained.data.metrics["validation/loss"] > 0.1
    # The trial, its ranks and their helpers were seen, and none of them is left.
    assert len(processes) >= 3
    words = ("tbr_lightning.tuning.trial", "spawn_main")
    assert not [one for one in processes if any(word in _command(one) for word in words)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("optimizer.lr:", "optimizer.lrr:", "did you mean 'optimizer.lr'"),
        ("low: 1e-4", "low: 1", "space.optimizer.lr"),
        ("false_refusal_rate", "false_refusals", "objectives.false_refusals"),
        ("suite.half=dev, ", "", "suite.half=dev"),
    ],
)
def test_a_wrong_study_is_told_before_the_first_trial(
    verb: Verb, old: str, new: str, says: str
) -> None:
    Path("wrong.yaml").write_text(STUDY.replace(old, new))
    done = verb("sweep", "study=wrong.yaml")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("mlflow.db").exists()
    assert not list(Path().glob(".tbr/runs/studies.db"))


def test_a_dry_run_says_what_it_would_take_and_runs_nothing(
    verb: Verb, base_folder: Path, tmp_path: Path
) -> None:
    Path("short.yaml").write_text(STUDY)
    done = verb("sweep", "study=short.yaml", "dry_run=true", "sweep.trials=12")
    assert done.returncode == 0, done.stderr
    assert "3 distinct configs at the corners" in done.stdout
    assert "12 trials of 1 training run" in done.stdout
    assert "rows a run: 340" in done.stdout
    assert "nothing was run" in done.stdout
    assert not Path("mlflow.db").exists()
    assert not list(tmp_path.glob(".tbr/runs/sweeps"))
