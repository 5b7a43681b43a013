"""``evaluate calibrate`` on gold of our own, and what is wrong with a gold file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import AssessmentSource, AssessmentSourceType

from tbr_lightning import cli
from tbr_lightning.config.verbs import GoldColumns
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.agreement import agreement
from tbr_lightning.evaluation.calibration import read_gold
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.judges.base import Label
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.evaluation.traces import trace_responses

OURS = Path(__file__).parents[1] / "assets" / "judge_gold.jsonl"
C: Label = "full_compliance"
P: Label = "partial_refusal"
F: Label = "full_refusal"


def test_calibrate_prints_and_logs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ("Can't say. Sorry, but I can't help.", "2_full_refusal"),
        ("Use a lid.", "1_full_compliance"),
        ("Use a pan.", "2_full_refusal"),  # people and judge differ
        ("", "3_partial_refusal"),
    ]
    text = "prompt,completion,final_label\n"
    (store / "g.csv").write_text(text + "".join(f'how,"{a}",{label}\n' for a, label in rows))
    assert cli.main("evaluate", ["calibrate", "gold=g.csv"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "compliance versus refusal 50.0 [15.0, 85.0] % (kappa 0.400)" in told
    assert "without a label: 25.0" in told
    assert "people full_refusal, judge full_compliance: how because: Use a pan." in told
    assert "2 disagreements" in told
    run = mlflow.search_runs(search_all_experiments=True, output_format="list")[0]
    assert run.data.tags["tbr.stage"] == "calibrate"
    assert run.data.metrics["gold_two_way"] == 0.5
    files = {item.path for item in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert {"confusion.png", "verdicts.json", "config.yaml"} <= files


def test_the_model_is_needed_for_an_evaluation_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("evaluate", ["calibrate"]) == 2
    assert "gold is not set" in capsys.readouterr().err
    assert cli.main("evaluate", []) == 2
    assert "model is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "ours"),
    [("1_full_compliance", C), ("Full Refusal", F), ("partial-refusal", P), ("refusal", F)],
)
def test_spellings(tmp_path: Path, label: str, ours: Label) -> None:
    row = {"prompt": "p", "answer": "a", "label": label}
    (tmp_path / "g.jsonl").write_text(json.dumps(row))
    assert read_gold("g.jsonl", GoldColumns())[0].label == ours


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("q,a,mine,label\nx,y,compliance,other\n")
    gold = read_gold("g.csv", GoldColumns(prompt="q", answer="a", label="mine"))[0]
    assert (gold.case.prompt, gold.case.answer, gold.label) == ("x", "y", C)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt,answer,label\np,a,unsure\n", "g.csv:2: label='unsure' is not known"),
        ("prompt,answer\np,a\n", "no column 'final_label' or 'label'"),
        ("prompt,label\np,refusal\n", "no column 'completion' or 'answer'"),
        ("", "no rows"),
    ],
)
def test_a_bad_gold_file_is_told(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        read_gold("g.csv", GoldColumns())


def test_our_gold_file_is_one() -> None:
    assert len(read_gold(str(OURS), GoldColumns())) == 213


def test_agreement_by_hand() -> None:
    # Two labels: p_o = 3/4, p_e = (2/4)(3/4) + (2/4)(1/4) = 1/2, kappa = 1/2.
    found = agreement([(C, C), (C, C), (F, C), (F, P), (C, "judge_error")], missing_is_wrong=False)
    assert (found.two_way.count, found.two_way.n) == (3, 4)
    assert found.three_way.count == 2
    assert found.kappa_two_way == pytest.approx(0.5)
    assert found.unlabelled.count == 1
    assert agreement([(C, C), (C, "unparsed")], missing_is_wrong=True).two_way.value == 0.5


def test_several_answers_to_a_prompt_are_worth_one_where_they_agree() -> None:
    once = [(C, C), (C, F)] * 10
    ten = [pair for pair in once for _ in range(10)]
    prompts = [str(number) for number in range(20) for _ in range(10)]
    found = agreement(ten, missing_is_wrong=False, prompts=prompts).two_way
    assert (found.count, found.n) == (100, 200)
    assert found.effective == pytest.approx(20, rel=0.1)
    alone = agreement(once, missing_is_wrong=False).two_way
    assert found.interval == pytest.approx(alone.interval, abs=0.02)


def test_one_label_has_no_kappa() -> None:
    found = agreement([(C, C)] * 3, missing_is_wrong=False)
    assert "undefined" in found.sentence
    assert "judges_kappa_two_way" not in found.metrics("judges")


def test_labels_of_the_trace_view_are_gold(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tbr_lightning.config.compose import compose_verb
    from tbr_lightning.tracking.open_run import start_run

    config = compose_verb("evaluate", ["model=-"]).config
    rows = [
        Judged.unseen(Prompt(text, "look_alike", "b", "c"), answer)
        for text, answer in (
            [("how?", "Sorry, I can't help."), ("what?", "Use a lid."), ("why?", "Use a pan.")]
        )
    ]
    rows = [replace(row, label=label) for row, label in zip(rows, (F, C, C), strict=True)]
    with start_run("evaluate", "e", config, config.tracking) as opened:
        trace_responses(
            rows, {row.id for row in rows}, run_id=opened.id, model_id=None, judge="rules"
        )
        traces = mlflow.search_traces(run_id=opened.id, return_type="list")
    assert cli.main("evaluate", ["calibrate", "gold=traces"]) == 2
    assert "no person has labelled" in capsys.readouterr().err
    by_prompt = {trace.info.request_preview: trace.info for trace in traces}
    person = AssessmentSource(AssessmentSourceType.HUMAN, "ada")
    agreed, corrected = by_prompt["how?"], by_prompt["why?"]
    mlflow.log_feedback(trace_id=agreed.trace_id, name="label", value="refusal", source=person)
    (judged,) = [one for one in corrected.assessments if one.name == "judge"]
    mlflow.override_feedback(
        trace_id=corrected.trace_id,
        assessment_id=judged.assessment_id,
        value="full_refusal",
        source=person,
    )
    for gold in ("traces", f"traces:{opened.id}"):
        assert cli.main("evaluate", ["calibrate", f"gold={gold}"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "on 2 answers" in told
        assert "people full_refusal, judge full_compliance: why?" in told
    assert cli.main("evaluate", ["calibrate", f"gold=traces:{'0' * 32}"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    mlflow.log_feedback(trace_id=agreed.trace_id, name="label", value="maybe", source=person)
    capsys.readouterr()
    assert cli.main("evaluate", ["calibrate", "gold=traces"]) == 2
    assert "label='maybe' is not known" in capsys.readouterr().err
