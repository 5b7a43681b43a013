"""Labels that a person gives to answers on the page: assessments of their MLflow traces."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import mlflow
from mlflow.entities import AssessmentSource, AssessmentSourceType

from tbr_lightning.serving.traces import Answered, TraceLog, write_trace

_MOST, _LONGEST = 256, 65_536  # replies that are remembered, and characters of one

NAME = "handled_rightly"
"""Name of the assessment, the same as an evaluation's: one filter of the UI finds both."""


class Answers:
    """The newest replies by their request's id, in memory only: most are never labelled.

    A label names a reply that this server gave, so that nobody can put words into a model's mouth.
    """

    def __init__(self, traces: TraceLog) -> None:
        self._traces = traces
        self._replies: OrderedDict[str, Answered] = OrderedDict()
        self._labels: dict[str, tuple[str, str]] = {}  # IDs of trace and assessment
        self._writing = asyncio.Lock()

    def keep(self, reply: Answered) -> None:
        """Remember a reply, and forget the oldest; one that is very long is not remembered."""
        if len(reply.prompt) + len(reply.reflection or "") + len(reply.answer) > _LONGEST:
            return
        self._replies[reply.number] = reply
        while len(self._replies) > _MOST:
            oldest, _ = self._replies.popitem(last=False)
            self._labels.pop(oldest, None)

    def __contains__(self, number: str) -> bool:
        return number in self._replies

    async def label(self, number: str, *, right: bool) -> str:
        """Write a label to MLflow, in place of an earlier one of the same reply.

        Args:
            number: Id of a reply that is remembered.
            right: Whether the model handled the question rightly.

        Returns:
            The trace's ID.

        Raises:
            MlflowException: The store does not accept it.
        """
        reply = self._replies[number]
        async with self._writing:  # two quick labels of one reply are one trace
            before = self._labels.get(number)
            trace = before[0] if before else self._traces.trace_of(number)
            if trace is None:
                trace = await asyncio.to_thread(write_trace, reply)
            assessment = await asyncio.to_thread(_assess, trace, before, right=right)
        if number in self._replies:
            self._labels[number] = (trace, assessment)
        return trace


def _assess(trace: str, before: tuple[str, str] | None, *, right: bool) -> str:
    source = AssessmentSource(AssessmentSourceType.HUMAN, "chat page")
    if before is None:
        found = mlflow.log_feedback(trace_id=trace, name=NAME, value=right, source=source)
    else:
        found = mlflow.override_feedback(
            trace_id=trace, assessment_id=before[1], value=right, source=source
        )
    return str(found.assessment_id)
