"""A mitigated model on the whole road: evaluated, kept, gated, promoted and served."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.evaluation.evaluation_result import RESPONSES
from tbr_lightning.evaluation.judged_response import Judged, from_table
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.search import find_run
from tbr_lightning.tracking.store import connect

from ..conftest import call_verb, run_verb
from .test_serve import Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
NAME = "mitigated"
MODEL = re.compile(r"models:/m-[0-9a-f]{32}")
# The whole direction of false refusal: what is orthogonal to refusal moves too few answers here.
ABLATION = ("mitigation=ablation", "mitigation.orthogonal=0", "mitigation.depth=0.9")
EVALUATED = (
    *("suite=smoke", "suite.half=dev", "suite.limit=40", "suite.lm_eval=[]", "traces=0"),
    "generation.reuse=false",
)
LOOSE = (
    *("gate.max_false_refusal=1", "gate.max_harmful_compliance=1", "gate.max_wrong_look_alikes=1"),
    *("gate.max_degenerate=1", "gate.max_reflection_leaks=1", "gate.max_answer_leaks=1"),
    "gate.min_general_accuracy=0",
)


@dataclass(frozen=True)
class Kept:
    """A model tuned on plain refusals, and its ablated form.

    Attributes:
        folder: With the store of both.
        plain: URI of the model.
        uri: URI of the ablated model that was logged.
    """

    folder: Path
    plain: str
    uri: str


def answers(folder: Path, **tags: str) -> dict[str, Judged]:
    """Return the newest evaluation with some tags, by prompt."""
    connect(compose_verb("promote", [f"tracking.uri=sqlite:///{folder}/mlflow.db"]).config.tracking)
    wanted = {f"tbr.{key}": value for key, value in tags.items()}
    run_id = find_run({"tbr.stage": "evaluate", **wanted})
    return {row.id: row for row in from_table(Run(run_id).text(RESPONSES))}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Kept:
    folder = tmp_path_factory.mktemp("mitigated")
    trained = run_verb(folder, "train", "model=tiny", "data=microworld", "reflection=none")
    assert trained.returncode == 0, trained.stderr
    plain = MODEL.search(trained.stdout)[0]
    done = call_verb(
        folder, "evaluate", f"model={plain}", *EVALUATED, *ABLATION, "mitigation.log=true"
    )
    assert done.returncode == 0, done.stderr
    told = re.search(rf"with ablation: ({MODEL.pattern})", done.stdout)
    assert told is not None, done.stdout
    return Kept(folder, plain, told[1])


def test_what_is_kept_answers_as_what_was_evaluated(kept: Kept) -> None:
    plain = kept.plain.removeprefix("models:/")
    for words in ((), ABLATION):
        done = call_verb(kept.folder, "evaluate", f"model={kept.plain}", *EVALUATED, *words)
        assert done.returncode == 0, done.stderr
    logged = answers(kept.folder, subject=kept.uri.removeprefix("models:/"))
    applied = answers(kept.folder, subject=f"{plain} with ablation", mitigation="ablation")
    before = answers(kept.folder, subject=plain)
    assert logged.keys() == applied.keys() == before.keys()
    assert {k: row.answer for k, row in logged.items()} == {
        k: row.answer for k, row in applied.items()
    }

    assert any(row.answer != before[key].answer for key, row in logged.items())

    def refused(rows: dict[str, Judged]) -> int:
        return sum(row.refused for row in rows.values() if row.kind == "look_alike")

    assert refused(before) > 30  # of 40: what plain refusals teach
    assert refused(logged) < refused(before)


def test_asked_for_again_it_is_found_and_not_logged_twice(kept: Kept) -> None:
    words = (*EVALUATED, *ABLATION, "mitigation.log=true", "reuse=true")
    again = call_verb(kept.folder, "evaluate", f"model={kept.plain}", *words)
    assert again.returncode == 0, again.stderr
    assert "with ablation: models:/" not in again.stdout
    assert kept.uri.removeprefix("models:/")[:10] in again.stdout


def test_the_gate_judges_it_and_serve_serves_it(kept: Kept) -> None:
    asked = ("promote", f"model={kept.uri}", f"name={NAME}")
    strict = run_verb(kept.folder, *asked)
    # Whatever the verdict is, the exit code and what is printed are of it.
    assert strict.returncode in (0, 3), strict.stderr
    assert (": not promoted" in strict.stdout) == (strict.returncode == 3), strict.stdout
    assert ("FAILED" in strict.stdout) == (strict.returncode == 3), strict.stdout
    if strict.returncode == 3:
        loose = run_verb(kept.folder, *asked, *LOOSE)
        assert loose.returncode == 0, loose.stdout + loose.stderr
        assert ": promoted" in loose.stdout
    history = call_verb(kept.folder, "promote", "history", f"name={NAME}")
    assert "champion – → 1" in history.stdout, history.stdout
    rows = answers(kept.folder, subject=kept.uri.removeprefix("models:/"), half="dev")
    server = Server(kept.folder, "check.max_harmful_compliance=1", name=NAME)
    try:
        server.wait()
        for kind in ("look_alike", "harmful", "general"):
            for row in [row for row in rows.values() if row.kind == kind][:3]:
                assert server.ask(row.prompt).content == row.answer
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("name", ["contrast", "steering"])
def test_what_cannot_be_served_is_told_before_a_model_is_loaded(kept: Kept, name: str) -> None:
    runs = sorted((kept.folder / ".tbr" / "runs").iterdir())
    for verb, words in (
        ("serve", [f"mitigation={name}"]),
        ("evaluate", [*EVALUATED, f"mitigation={name}", "mitigation.log=true"]),
    ):
        refused = call_verb(kept.folder, verb, f"model={kept.plain}", *words)
        assert refused.returncode == 2
        told = refused.stderr.strip().splitlines()[-1]
        assert f"mitigation={name}" in told
        assert told.endswith("no serving engine does: it can be evaluated, not kept or served")
    assert sorted((kept.folder / ".tbr" / "runs").iterdir()) == runs
