"""Labels that people gave to answers in MLflow's trace view."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import AssessmentSourceType
from mlflow.exceptions import MlflowException

from tbr_lightning.errors import UserError
from tbr_lightning.progress import track

NAMES = ("judge", "label")
"""Assessments that are read: the judge's, corrected by a person, or one of a person's own."""


@dataclass(frozen=True)
class HumanLabel:
    """A person's label of an answer.

    Attributes:
        prompt: Prompt that was answered.
        answer: Answer without the reflection.
        label: Label as it was typed.
        where: The trace, for messages.
    """

    prompt: str
    answer: str
    label: str
    where: str


def human_labels(experiment_id: str, run_id: str | None) -> list[HumanLabel]:
    """Return the newest label of each traced answer that a person labelled.

    Args:
        experiment_id: MLflow experiment whose traces are searched.
        run_id: Run of an evaluation, or ``None`` for all.

    Raises:
        UserError: There is no such run.
    """
    try:
        traces: list[Any] = mlflow.search_traces(
            locations=[experiment_id], run_id=run_id, return_type="list", flush=True
        )
    except MlflowException as error:
        if run_id is None:
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"gold=traces:{run_id} cannot be read: {reason}") from error
    return list(_labels(traces))


def _labels(traces: list[Any]) -> Iterator[HumanLabel]:
    for trace in track(traces, "traces", len(traces)):
        given = [
            one
            for one in trace.info.assessments
            if one.name in NAMES
            and one.valid is not False
            and one.source.source_type == AssessmentSourceType.HUMAN
        ]
        asked = json.loads(trace.data.request or "{}")
        said = json.loads(trace.data.response or "{}")
        if not given or not isinstance(asked, dict) or not isinstance(said, dict):
            continue
        newest = max(given, key=lambda one: one.last_update_time_ms or 0)
        yield HumanLabel(
            str(asked.get("prompt", "")),
            str(said.get("answer", "")),
            str(newest.value),
            f"trace {trace.info.trace_id}",
        )
