"""An evaluation without figures lacks nothing else, and they are added later by a command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tbr_lightning import cli
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.evaluation import mlflow_logging, pipeline
from tbr_lightning.evaluation.evaluation_result import EvaluateResult
from tbr_lightning.tracking.run import NOTE, Run

FEW = ("suite=smoke", "suite.limit=4", "suite.lm_eval=[]", "traces=0", "genai_dataset=false")


def evaluated(base_folder: Path, *, figures: bool) -> EvaluateResult:
    words = [f"model='{base_folder}'", *FEW]
    return pipeline.run(compose_verb("evaluate", words).config, figures=figures)


def files(run_id: str) -> set[str]:
    return {one.path for one in MlflowClient().list_artifacts(run_id)}


def drawn(page: str) -> int:
    return len(re.findall(r"<svg\b", page))


@pytest.mark.usefixtures("undrawn")
def test_only_figures_are_left_out_and_a_command_adds_them(
    store: Path, base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, plain = (evaluated(base_folder, figures=figures) for figures in (True, False))
    one, other = Run(whole.run_id), Run(plain.run_id)
    lacking = files(one.id) - files(other.id)
    assert lacking == {name for name in mlflow_logging.FIGURES if name in files(one.id)}
    assert "two_sided.png" in lacking
    assert one.tags()[NOTE] == other.tags()[NOTE]
    same = [k for k in one.numbers() if k not in ("answer_seconds", "responses_reused")]
    assert {k: one.numbers()[k] for k in same} == {k: other.numbers()[k] for k in same}
    page = other.text("report.html")
    assert f"tbr evaluate draw evaluation={other.id}" in page
    assert drawn(page) < drawn(one.text("report.html"))
    for row in plain.rows:
        assert json.dumps(row.prompt)[1:-1] in page

    capsys.readouterr()
    assert cli.main("evaluate", ["draw", f"evaluation={other.id}"]) == 0
    assert "report: " in capsys.readouterr().out
    assert files(other.id) == files(one.id)
    page = other.text("report.html")
    assert drawn(page) == drawn(one.text("report.html"))
    assert "evaluate draw" not in page
    # Once more changes nothing.
    assert cli.main("evaluate", ["draw", f"evaluation={other.id}"]) == 0
    assert other.text("report.html") == page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "evaluation is not set: give evaluation=RUN_ID"),
        (["evaluation='" + "0" * 32 + "'"], "is not in this store: give the id of an evaluation"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert cli.main("evaluate", ["draw", *words]) == 2
    assert said in capsys.readouterr().err
