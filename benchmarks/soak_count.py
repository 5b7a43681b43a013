"""What there is after a soak, what is missing of it and what is there twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import optuna
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

Found = dict[str, dict[str, int]]


def _found(there: int, lost: int, doubled: int) -> dict[str, int]:
    return {"there": there, "lost": lost, "doubled": doubled}


def logged_models(uri: str) -> list[Any]:
    """Return the models of a tracker that are ready."""
    client = MlflowClient(uri, uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = client.search_logged_models(experiments, max_results=1000)
    return [one for one in found if str(one.status).endswith("READY")]


def count(
    uri: str, done: int, study: Path, *, trials: int, steps: int, evaluate: list[str]
) -> Found:
    """Count in the tracker, and in the sweep's storage.

    Args:
        uri: Of the tracker.
        done: Number of trainings whose command said that it had ended well.
        study: File with the study's trials.
        trials: Of the study.
        steps: Of each training, which each give a point.
        evaluate: Words of the trials' evaluations.
    """
    client = MlflowClient(uri, uri)
    experiments = [one.experiment_id for one in client.search_experiments()]

    def runs(stage: str, more: str = "") -> Sequence[Run]:
        wanted = f"tags.`tbr.stage` = '{stage}'{more}"
        return client.search_runs(experiments, wanted, max_results=1000)

    trainings = runs("train", f" and params.`trainer.max_steps` = '{steps}'")
    finished = [run for run in trainings if run.info.status == "FINISHED"]
    left = sum(run.info.status == "RUNNING" for run in trainings)
    points, expected = Counter[str](), set(range(1, steps + 1))
    for run in finished:
        there = [one.step for one in client.get_metric_history(run.info.run_id, "train/loss")]
        points["there"] += len(there)
        points["lost"] += len(expected - set(there))
        points["doubled"] += len(there) - len(set(there))
    models = Counter(one.source_run_id for one in logged_models(uri))
    of_finished = [models[run.info.run_id] for run in finished]
    complete = _complete(study)
    return {
        "runs": _found(
            len(finished),
            max(0, done - len(finished)) + left,
            max(0, len(finished) - done),
        ),
        "points": _found(points["there"], points["lost"], points["doubled"]),
        "models": _found(
            sum(of_finished), of_finished.count(0), sum(max(0, one - 1) for one in of_finished)
        ),
        "trials": _found(complete, max(0, trials - complete), max(0, complete - trials)),
        "rows": _rows(uri, runs("evaluate"), evaluate),
    }


def _complete(study: Path) -> int:
    if not study.is_file():
        return 0
    storage = f"sqlite:///{study}"
    states = [
        trial.state.name
        for name in optuna.get_all_study_names(storage)
        for trial in optuna.load_study(study_name=name, storage=storage).trials
    ]
    return states.count("COMPLETE")


def _rows(uri: str, evaluations: Sequence[Run], words: list[str]) -> dict[str, int]:
    """Count the answers of the trials' evaluations that finished."""
    from tbr_lightning.config.compose import compose_verb
    from tbr_lightning.evaluation.suites import load_suite

    suite: Any = compose_verb("evaluate", ["model=models:/any", *words]).config.suite
    expected = {prompt.id for prompt in load_suite(suite)}
    mlflow.set_tracking_uri(uri)
    there = lost = doubled = 0
    for run in evaluations:
        if run.info.status != "FINISHED" or run.data.params.get("suite.half") != "dev":
            continue  # the winner's and a promotion's are of the other half
        table = json.loads(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/responses.json"))
        ids = [row[table["columns"].index("id")] for row in table["data"]]
        there += len(ids)
        lost += len(expected - set(ids))
        doubled += len(ids) - len(set(ids))
    return _found(there, lost, doubled)
