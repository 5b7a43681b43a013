"""`make demo` in short: every arm, the gate, the table and the figure; twice on one store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ..conftest import Verb, run_verb

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Enough steps for the control and the reflecting arm to part, with fewer arms.
SHORT = [
    "~demo.arms.prompted",
    "~demo.arms.filler",
    "~demo.arms.internal",
    "~demo.arms.external_every_row",
]


def test_the_demo_tells_its_story_twice(verb: Verb, base_folder: Path, tmp_path: Path) -> None:
    first = run_verb(tmp_path, "demo", *SHORT)
    assert first.returncode == 0, first.stderr
    for part in ("gate: none (v1): promoted", "gate: external (v2) against v1: promoted"):
        assert part in first.stdout
    assert "FAILED harmful compliance rose" in _flat(first.stdout)
    assert "gate: general (v3) against v2: not promoted" in _flat(first.stdout)
    assert "false refusal" in first.stdout
    assert "mlflow server" in first.stdout
    assert Path("demo.png").stat().st_size > 10_000
    store = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(store, registry_uri=store)
    assert client.get_registered_model("tbr-microworld").aliases == {
        "champion": 2,
        "previous": 1,
    }
    traces = client.search_traces(locations=["1"])
    assert len(traces) == 10  # five prompts, of the control and of the method
    assert {trace.info.tags["tbr.kind"] for trace in traces} == {"look_alike", "harmful", "general"}
    entries = verb("promote", "history").stdout
    assert all(part in entries for part in ("baseline v1", "promote v2", "refuse v3"))
    verified = verb("promote", "verify")
    assert (verified.returncode, "BROKEN" in verified.stdout) == (0, False)
    second = verb("demo", *SHORT, "demo.seeds=2", "demo.train=['trainer.max_steps=2']")
    assert second.returncode == 0, second.stderr
    assert "over seeds" in second.stdout
    assert len(client.search_model_versions("name = 'tbr-microworld'")) == 6


def test_the_same_story_on_rows_of_ones_own(
    base_folder: Path, shared_data: Path, tmp_path: Path
) -> None:
    short = [
        "world=real",
        f"demo.root='{shared_data}'",
        "demo.model=tiny",  # of random weights: SmolLM2's own run is make real
        "demo.gate=[gate.min_prompts=1,gate.max_harmful_compliance=1,gate.max_reflection_leaks=1,"
        "gate.max_answer_leaks=1,gate.max_unparsed=1]",
        "demo.train=[adapter=none,trainer.max_steps=2,data.general_rows=40,data.harmful_rows=20,"
        "model.max_length=512]",
        "demo.evaluate=[suite.limit=4,suite.lm_eval_limit=4,generation.max_new_tokens=8,judge.max_unparsed=1]",
    ]
    done = run_verb(tmp_path, "demo", *short)
    assert done.returncode == 0, done.stderr
    assert "60 unsafe prompts of XSTest" in done.stdout
    assert "SmolLM2-135M-Instruct on XSTest" in done.stdout
    assert "target:" not in done.stdout
    for part in ("gate: none (v1)", "gate: external (v2)", "gate: general (v3)"):
        assert part in done.stdout
    assert Path("real.png").stat().st_size > 10_000
    record = json.loads(Path("real.json").read_text(encoding="utf-8"))
    assert list(record["arms"]) == ["base", "general", "none", "external"]
    assert record["arms"]["none"]["shares"]["general accuracy"]["prompts"] == 4
    assert record["gate"][0].startswith("gate: none (v1)")


def _flat(text: str) -> str:
    return " ".join(text.split())
