"""Labels that a person gives to answers on the page: MLflow traces with a human assessment."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import mlflow
from mlflow.entities import AssessmentSource, AssessmentSourceType

_MOST, _LONGEST = 256, 65_536  # replies that are remembered, and characters of one

NAME = "handled_rightly"
"""Of the assessment: the same as an evaluation's, so that one filter of the UI finds both."""


@dataclass(frozen=True)
class Answered:
    """A reply that can be labelled.

    Attributes:
        prompt: Text of the last message.
        reflection: What came before the answer, or ``None``.
        answer: What the model said.
        title: Name and version of the model.
        model_id: MLflow's id of it.
    """

    prompt: str
    reflection: str | None
    answer: str
    title: str
    model_id: str


class Answers:
    """The newest replies by their request's id, in memory only: most are never labelled.

    A label names a reply that this server gave, so that nobody can put words into a model's mouth.
    """

    def __init__(self) -> None:
        self._replies: OrderedDict[str, Answered] = OrderedDict()
        self._traces: dict[str, tuple[str, str]] = {}
        self._writing = asyncio.Lock()

    def keep(self, number: str, reply: Answered) -> None:
        """Remember a reply, and forget the oldest; one that is very long is not remembered."""
        if len(reply.prompt) + len(reply.reflection or "") + len(reply.answer) > _LONGEST:
            return
        self._replies[number] = reply
        while len(self._replies) > _MOST:
            oldest, _ = self._replies.popitem(last=False)
            self._traces.pop(oldest, None)

    def __contains__(self, number: str) -> bool:
        return number in self._replies

    async def label(self, number: str, *, right: bool) -> str:
        """Write a label to MLflow, in place of an earlier one of the same reply.

        Args:
            number: Id of a reply that is remembered.
            right: The model handled the question rightly.

        Returns:
            The trace's id.

        Raises:
            MlflowException: The store does not take it.
        """
        reply = self._replies[number]
        async with self._writing:  # two quick labels of one reply are one trace
            written = await asyncio.to_thread(_write, reply, self._traces.get(number), right=right)
        if number in self._replies:
            self._traces[number] = written
        return written[0]


def _write(reply: Answered, before: tuple[str, str] | None, *, right: bool) -> tuple[str, str]:
    source = AssessmentSource(AssessmentSourceType.HUMAN, "chat page")
    if before is not None:
        trace_id, assessment_id = before
        found = mlflow.override_feedback(
            trace_id=trace_id, assessment_id=assessment_id, value=right, source=source
        )
        return trace_id, str(found.assessment_id)
    with mlflow.start_span(name=f"chat: {reply.title}", span_type="CHAT_MODEL") as span:
        span.set_inputs({"prompt": reply.prompt})
        span.set_outputs({"reflection": reply.reflection, "answer": reply.answer})
        mlflow.update_current_trace(
            tags={"tbr.stage": "serve", "tbr.model": reply.title},
            request_preview=reply.prompt[:1000],
            response_preview=reply.answer[:1000],
            model_id=reply.model_id,
        )
        trace_id = span.trace_id
    mlflow.flush_trace_async_logging()
    found = mlflow.log_feedback(trace_id=trace_id, name=NAME, value=right, source=source)
    return trace_id, str(found.assessment_id)
