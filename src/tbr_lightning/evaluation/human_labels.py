"""What people said of traced answers in MLflow's trace view."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import AssessmentSourceType
from mlflow.exceptions import MlflowException

from tbr_lightning.errors import first_line
from tbr_lightning.outages import refused
from tbr_lightning.progress import track

LABELS = ("judge", "label")
"""Assessments that hold a label: the judge's, corrected by a person, or one of a person's own."""

_RUN = "mlflow.sourceRun"
_MODEL = "mlflow.modelId"


@dataclass(frozen=True)
class Mark:
    """What a person said, under one name.

    Attributes:
        value: The value as it was given: a text, a number, true or false.
        by: Who said it, as MLflow has it.
        time: Milliseconds since 1970.
        rationale: Why, in the person's words; or empty.
    """

    value: Any
    by: str
    time: int
    rationale: str


@dataclass(frozen=True)
class Reviewed:
    """A traced answer that a person looked at.

    Attributes:
        prompt: Prompt that was answered.
        messages: The whole conversation, where the trace holds it.
        answer: Answer without the reflection.
        reflection: The reflection, or empty.
        marks: The newest mark of each name.
        tags: Tags of the trace.
        trace_id: ID of the trace.
        run_id: Run of the evaluation; empty for an answer of the server.
        model_id: ID of the logged model that answered, or empty.
    """

    prompt: str
    messages: list[dict[str, str]]
    answer: str
    reflection: str
    marks: Mapping[str, Mark]
    tags: Mapping[str, str]
    trace_id: str
    run_id: str
    model_id: str

    @property
    def where(self) -> str:
        """The trace, for messages."""
        return f"trace {self.trace_id}"

    def newest(self, names: Iterable[str]) -> Mark | None:
        """Return the newest mark under one of some names."""
        given = [self.marks[name] for name in names if name in self.marks]
        return max(given, key=lambda one: one.time, default=None)


def reviewed(experiment_id: str, given: str, run_id: str | None) -> list[Reviewed]:
    """Return the traced answers of an experiment that a person marked in some way.

    Args:
        experiment_id: MLflow experiment whose traces are searched.
        given: How the traces were named on the command line, for messages.
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
        raise refused(error, f"{given} cannot be read: {first_line(error)}") from error
    return list(_reviewed(traces))


def _reviewed(traces: list[Any]) -> Iterator[Reviewed]:
    for trace in track(traces, "traces", len(traces)):
        asked = json.loads(trace.data.request or "{}")
        said = json.loads(trace.data.response or "{}")
        marks = _marks(trace.info.assessments)
        if not marks or not isinstance(asked, dict) or not isinstance(said, dict):
            continue
        yield Reviewed(
            prompt=str(asked.get("prompt", "")),
            messages=list(asked.get("messages") or []),
            answer=str(said.get("answer", "")),
            reflection=str(said.get("reflection") or ""),
            marks=marks,
            tags=dict(trace.info.tags),
            trace_id=str(trace.info.trace_id),
            run_id=str(trace.info.trace_metadata.get(_RUN, "")),
            model_id=str(trace.info.trace_metadata.get(_MODEL, "")),
        )


def _marks(assessments: Iterable[Any]) -> dict[str, Mark]:
    found: dict[str, Mark] = {}
    for one in assessments:
        if one.valid is False or one.source.source_type != AssessmentSourceType.HUMAN:
            continue
        mark = Mark(
            one.value,
            str(one.source.source_id),
            one.last_update_time_ms or 0,
            one.rationale or "",
        )
        if one.name not in found or found[one.name].time <= mark.time:
            found[one.name] = mark
    return found
