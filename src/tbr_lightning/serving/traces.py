"""Answers of the server as MLflow traces, so that people can mark them: off unless asked for."""

from __future__ import annotations

import logging
import random
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import AssessmentSource, AssessmentSourceType

from tbr_lightning.errors import first_line
from tbr_lightning.evaluation.judges.rules import rules

if TYPE_CHECKING:
    from tbr_lightning.serving.metrics import Metrics
    from tbr_lightning.serving.replica import Replica
    from tbr_lightning.serving.request import ChatRequest
    from tbr_lightning.serving.response import ReplyStats

log = logging.getLogger(__name__)

_MOST_WAITING = 256  # traces in memory while the store is slow; further ones are dropped
_JUDGE = AssessmentSource(AssessmentSourceType.CODE, "rules")


@dataclass(frozen=True)
class Answered:
    """A reply of the server.

    Attributes:
        number: Id of the request.
        prompt: Text of the last message.
        messages: The whole conversation.
        answer: Answer without the reflection.
        reflection: Text before the answer, or ``None``.
        cut: Whether the token limit ended it.
        policy: What happened to the reflection.
        title: Name and version of the model.
        model_id: ID of the logged model.
        began: Nanoseconds since 1970 when the request arrived.
        ended: Nanoseconds since 1970 when the reply was whole.
    """

    number: str
    prompt: str
    messages: list[dict[str, str]]
    answer: str
    reflection: str | None
    cut: bool
    policy: str
    title: str
    model_id: str
    began: int
    ended: int


def answered(ask: ChatRequest, facts: ReplyStats, replica: Replica, seconds: float) -> Answered:
    """Return a whole reply as it is remembered and traced."""
    now = time.time_ns()
    return Answered(
        number=ask.number,
        prompt=ask.prompt,
        messages=ask.messages,
        answer=facts.answer,
        reflection=facts.reflection,
        cut=facts.cut,
        policy=ask.policy,
        title=replica.served.title,
        model_id=replica.served.release.model.model_id,
        began=now - int(seconds * 1e9),
        ended=now,
    )


class TraceLog:
    """Writes a share of the answers as traces, in a thread of its own: no request waits for it."""

    def __init__(self, share: float, metrics: Metrics) -> None:
        self._share, self._metrics = share, metrics
        self._writer = ThreadPoolExecutor(1, "traces") if share else None
        self._waiting = 0
        self._ids: OrderedDict[str, str] = OrderedDict()
        self._draw = random.Random()

    def offer(self, answer: Answered) -> None:
        """Queue a whole answer, if it is drawn; called from the server's loop alone."""
        if self._writer is None or self._draw.random() >= self._share:
            return
        if self._waiting >= _MOST_WAITING:
            self._metrics.traces.labels("dropped").inc()
            return
        self._waiting += 1
        self._writer.submit(self._write, answer)

    def trace_of(self, number: str) -> str | None:
        """Return the ID of the trace of a request, if it is one of the newest that were traced."""
        return self._ids.get(number)

    def _write(self, answer: Answered) -> None:
        try:
            self._ids[answer.number] = write_trace(answer)
            while len(self._ids) > _MOST_WAITING:
                self._ids.popitem(last=False)
            self._metrics.traces.labels("written").inc()
        except Exception as error:  # the tracker is away: no reason not to answer
            self._metrics.traces.labels("failed").inc()
            log.warning("an answer could not be traced: %s", first_line(error))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            self._writer.shutdown(wait=True)
            mlflow.flush_trace_async_logging()


def write_trace(answer: Answered) -> str:
    """Write a reply as a trace with the rule judge's label, and return the trace's ID.

    Raises:
        MlflowException: The store does not accept it.
    """
    span = mlflow.start_span_no_context(
        name="served",
        span_type="CHAT_MODEL",
        inputs={"prompt": answer.prompt, "messages": answer.messages},
        tags={"tbr.served": answer.title, "tbr.policy": answer.policy},
        metadata={"mlflow.modelId": answer.model_id, "tbr.request": answer.number},
        start_time_ns=answer.began,
    )
    outputs = {"reflection": answer.reflection, "answer": answer.answer}
    span.end(outputs=outputs, end_time_ns=answer.ended)
    mlflow.flush_trace_async_logging()
    verdict = rules(answer.answer, cut=answer.cut, prompt=answer.prompt)
    mlflow.log_feedback(
        trace_id=span.trace_id,
        name="judge",
        value=verdict.label,
        source=_JUDGE,
        rationale=verdict.because,
    )
    return str(span.trace_id)
