"""Runs that this process opens: their settings and surroundings, and an honest final status."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.credentials import hidden, without_credentials
from tbr_lightning.errors import UserError, disk_full, first_line
from tbr_lightning.tracking.abandoned import PROCESS, close_abandoned, fail_pending, mark
from tbr_lightning.tracking.provenance import git_state, hardware, package_versions
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.store import connect


@contextmanager
def start_run(
    stage: str,
    name: str,
    config: Any,
    tracking: TrackingConfig,
    tags: Mapping[str, str] | None = None,
    *,
    run_id: str | None = None,
) -> Iterator[Run]:
    """Open a run of one command, as a child of the run that is open, if any.

    With ``run_id`` an interrupted run is resumed; its config and params are logged already. Else it
    logs the resolved config (as ``config.yaml`` and as flat params), code and package versions
    and the machine. The status ends as FINISHED, KILLED after an interruption, or FAILED with the
    error's words in the tag ``tbr.failure``.

    Raises:
        MlflowException: The tracker does not take that a command's run is finished: given again,
            the command ends it.
    """
    experiment_id = connect(tracking)
    facts = {"tbr.stage": stage, **git_state(), **dict(tags or {})}
    nested = mlflow.active_run() is not None
    if not nested:
        close_abandoned(experiment_id)
    if stage != "sweep":  # which several processes may have open
        facts[PROCESS] = mark()
    if run_id is None:
        active = mlflow.start_run(
            experiment_id=experiment_id,
            run_name=name,
            nested=nested,
            tags=facts,
            log_system_metrics=tracking.system_metrics,
        )
    else:
        active = _continue(run_id, nested=nested, system_metrics=tracking.system_metrics)
    with _true_status(must_finish=not nested):
        if run_id is not None and PROCESS in facts:
            mlflow.set_tag(PROCESS, facts[PROCESS])
        if run_id is None:
            _log_settings(config)
        yield Run(active.info.run_id, name)


@contextmanager
def child_run(
    parent: Run,
    stage: str,
    name: str,
    tracking: TrackingConfig,
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> Iterator[Run]:
    """Open a run beneath another that may be open in another process.

    What is opened within nests beneath it. It ends as FINISHED, as KILLED after an interruption, or
    as FAILED with the error's words in the tag ``tbr.failure``.
    """
    experiment_id = connect(tracking)
    active = mlflow.start_run(
        experiment_id=experiment_id,
        run_name=name,
        nested=True,
        tags={"tbr.stage": stage, **tags},
        log_system_metrics=False,
    )
    # A forked process takes over which run is open from the process that it was forked from.
    mlflow.set_tag(MLFLOW_PARENT_RUN_ID, parent.id)
    with _true_status():
        mlflow.log_params({k: str(value)[:MAX_PARAM_VAL_LENGTH] for k, value in params.items()})
        yield Run(active.info.run_id, name)


@contextmanager
def _true_status(*, must_finish: bool = False) -> Iterator[None]:
    """End the open run with the block, with a status that tells the truth.

    With ``must_finish`` a run that cannot be ended as finished is an error. Else it stays open,
    which is reported: what surrounds it goes on.
    """
    status = "FINISHED"
    try:
        yield
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException as error:
        status = "FAILED"
        with _tolerant():
            mlflow.set_tag("tbr.failure", hidden(f"{type(error).__name__}: {error}")[:500])
        raise
    finally:
        active = mlflow.active_run()
        if status != "FINISHED" and active is not None:
            with _tolerant():
                fail_pending(active.info.experiment_id, active.info.run_id)
        strict = must_finish and status == "FINISHED"
        with nullcontext() if strict else _tolerant():
            mlflow.end_run(status)


@contextmanager
def _tolerant() -> Iterator[None]:
    """Report that the tracker is gone, instead of hiding the error that ended the run."""
    try:
        yield
    except MlflowException as error:
        why = disk_full(error) or f"the tracker rejected it or is down ({first_line(error)})"
        print(f"the run's final status could not be saved: {why}", file=sys.stderr)


def _continue(run_id: str, *, nested: bool, system_metrics: bool) -> Any:
    try:
        active = mlflow.start_run(run_id=run_id, nested=nested, log_system_metrics=system_metrics)
    except MlflowException as error:
        raise UserError(
            f"resume={run_id}: that run is not in this MLflow store: give the tracking.uri that it "
            "was started with"
        ) from error
    if "tbr.failure" in active.data.tags:
        mlflow.delete_tag("tbr.failure")
    mlflow.set_tag("tbr.resumed", str(int(active.data.tags.get("tbr.resumed", "0")) + 1))
    return active


def _log_settings(config: Any) -> None:
    settings = without_credentials(asdict(config))
    mlflow.log_dict(settings, "config.yaml")
    mlflow.log_dict(_environment(), "environment.json")
    params = {key: str(value) for key, value in flatten(settings).items()}
    # The artifact has no limit.
    mlflow.log_params({k: v for k, v in params.items() if len(v) <= MAX_PARAM_VAL_LENGTH})


@lru_cache
def _environment() -> dict[str, dict[str, str]]:
    return {"packages": package_versions(), "hardware": hardware()}


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
