"""Answers of the server as traces: none unless asked for, and rows once people marked them."""

from __future__ import annotations

from collections.abc import Callable

import mlflow
import pytest
import requests
from mlflow.entities import AssessmentSource, AssessmentSourceType

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.serve import ServeConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.human_labels import reviewed
from tbr_lightning.evaluation.labelled import rows_of

from ..support.fake_engine import ANSWER, REFLECTION
from .conftest import NAME, Registry, Running

Start = Callable[[ServeConfig], Running]
ADA = AssessmentSource(AssessmentSourceType.HUMAN, "ada")


def traces(experiment: str) -> list:
    return list(mlflow.search_traces(locations=[experiment], return_type="list", flush=True))


def test_answers_are_taken_down_on_demand_and_become_rows(registry: Registry, start: Start) -> None:
    registry.add()
    experiment = registry.client.get_experiment_by_name("tbr").experiment_id
    model = f"models:/{NAME}@champion"
    assert start(registry.config(model, "poll=0")).ask().ok
    server = start(registry.config(model, "poll=0", "traces=1"))
    assert server.ask("How do I kill time?").ok
    before = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    talk = [*before, {"role": "user", "content": [{"type": "text", "text": "And a process?"}]}]
    assert server.ask(messages=talk, stream=True).content.endswith(b"data: [DONE]\n\n")
    written = server.deployment.metrics.traces.labels("written")
    server.until(lambda: written._value.get() == 2)
    found = {trace.info.request_preview: trace for trace in traces(experiment)}
    assert len(found) == 2
    assert all(one.info.trace_metadata["mlflow.modelId"] for one in found.values())
    (last,) = [one for one in found.values() if "process" in one.data.request]
    mlflow.log_feedback(trace_id=last.info.trace_id, name="handled_rightly", value=True, source=ADA)
    (answer,) = reviewed(experiment, "gold=traces", None)
    rows, left_out = rows_of([answer], {}, test_half=False)
    assert not rows
    assert "add the assessment kind" in " ".join(left_out)
    mlflow.log_feedback(trace_id=last.info.trace_id, name="kind", value="look-alike", source=ADA)
    (row,), _ = rows_of(reviewed(experiment, "gold=traces", None), {}, test_half=False)
    assert (row["instruction"], row["kind"]) == ("And a process?", "look_alike")
    assert (row["response"], row["reflection"]) == (ANSWER, REFLECTION)
    assert row["messages"] == before


def test_a_label_of_a_traced_answer_is_on_its_trace(registry: Registry, start: Start) -> None:
    registry.add()
    server = start(registry.config(f"models:/{NAME}@champion", "poll=0", "traces=1"))
    number = server.ask("How do I kill an hour?").headers["X-Request-ID"]
    written = server.deployment.metrics.traces.labels("written")
    server.until(lambda: written._value.get() == 1)
    body = {"id": number, "right": True}
    labelled = requests.post(f"{server.url}/v1/feedback", json=body, timeout=30).json()["trace"]
    experiment = registry.client.get_experiment_by_name("tbr").experiment_id
    (trace,) = [one for one in traces(experiment) if "an hour" in one.data.request]
    assert trace.info.trace_id == labelled


def test_a_share_is_between_none_and_all() -> None:
    with pytest.raises(UserError, match="traces=2"):
        compose_verb("serve", ["traces=2"])
