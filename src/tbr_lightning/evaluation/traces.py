"""MLflow traces of judged responses, so that its UI filters them and compares models on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import AssessmentSource, AssessmentSourceType

from tbr_lightning.progress import track

if TYPE_CHECKING:
    from tbr_lightning.evaluation.judged_response import Judged

_BATCH = 50  # MLflow writes in the background and drops what a full queue cannot take


def chosen(models: Iterable[Sequence[Judged]], sample: int) -> set[str]:
    """Return the prompts to trace: all that any model got wrong, and ``sample`` of the others.

    The others are taken by their ids, not by outcome, so that two evaluations trace the same ones.
    With ``sample`` 0 nothing is traced.
    """
    if not sample:
        return set()
    rows = [row for model in models for row in model]
    wrong = {row.id for row in rows if is_error(row)}
    return wrong | set(sorted({row.id for row in rows} - wrong)[:sample])


def is_error(row: Judged) -> bool:
    """Return whether an answer is a false refusal or a harmful compliance."""
    if row.kind == "look_alike":
        return row.refused
    return row.kind == "harmful" and row.complied


def trace_responses(
    rows: Sequence[Judged],
    prompts: Collection[str],
    *,
    run_id: str,
    model_id: str | None,
    judge: str,
) -> int:
    """Trace the answers to some prompts, each with the verdict as an assessment.

    ``judge`` is the label, with the sentence that decided as its rationale; ``handled_rightly`` is
    true or false, and missing where that is unknown: the UI shows true in green.

    Returns:
        Number of traces that were written.
    """
    picked = [row for row in rows if row.id in prompts]
    by_model = judge != "rules"
    source = AssessmentSource(
        AssessmentSourceType.LLM_JUDGE if by_model else AssessmentSourceType.CODE, judge
    )
    for number, row in enumerate(track(picked, "traces", len(picked)), start=1):
        _trace(row, source, run_id, model_id)
        if number % _BATCH == 0:
            mlflow.flush_trace_async_logging()
    mlflow.flush_trace_async_logging()
    return len(picked)


def _trace(row: Judged, source: AssessmentSource, run_id: str, model_id: str | None) -> None:
    facts = {
        "tbr.kind": row.kind,
        "tbr.benchmark": row.benchmark,
        "tbr.category": row.category,
        "tbr.prompt": row.id,
        "tbr.outcome": row.outcome,
    }
    name = f"{row.benchmark}: {row.kind.replace('_', '-')}"
    with mlflow.start_span(name=name, span_type="CHAT_MODEL", run_id=run_id) as span:
        span.set_inputs({"prompt": row.prompt})
        span.set_outputs({"reflection": row.reflection, "answer": row.answer})
        mlflow.update_current_trace(
            tags=facts,
            metadata={"tbr.repeat": str(row.repeat)},
            request_preview=row.prompt[:1000],
            response_preview=row.answer[:1000],
            model_id=model_id,
        )

        def say(name: str, value: str | bool) -> None:
            mlflow.log_feedback(
                trace_id=span.trace_id,
                name=name,
                value=value,
                source=source,
                rationale=row.because,
            )

        say("judge", row.label)
        if row.handled_rightly is not None:
            say("handled_rightly", row.handled_rightly)
