"""MLflow traces of calls to a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlflow


@contextmanager
def traced_call(
    messages: Sequence[dict[str, Any]], model: str, run_id: str | None
) -> Iterator[Callable[[str], None]]:
    """Trace one call: request, reply and time; the body hands over the reply.

    Args:
        messages: Messages of the request.
        model: Name of the teacher.
        run_id: Run that the trace belongs to; ``None`` traces nothing. Passed, since calls are made
            in threads of their own, where no run is open.
    """
    if run_id is None:
        yield lambda text: None
        return
    with mlflow.start_span(name="reflection", span_type="CHAT_MODEL") as span:
        mlflow.update_current_trace(metadata={"mlflow.sourceRun": run_id})
        span.set_inputs({"model": model, "messages": list(messages)})
        yield lambda text: span.set_outputs({"content": text})
