"""An earlier evaluation is taken only where it would stand by the limits that are asked now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.schema import TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation import pipeline, prompt_logging
from tbr_lightning.evaluation.attestation import Subject, attest
from tbr_lightning.evaluation.evaluation_result import RESPONSES
from tbr_lightning.evaluation.judged_response import Judged, table_rows
from tbr_lightning.evaluation.respond import EvaluatedModel
from tbr_lightning.evaluation.suites import Prompt
from tbr_lightning.models.logged import LoggedModel
from tbr_lightning.tracking.open_run import start_run

WORDS = ("model=models:/m-1", "suite=smoke")


@dataclass
class Config:
    about: str = "made"


def stored(store: Path, label: Any) -> EvaluatedModel:
    """Leave an evaluation of ten answers, three of which have this label."""
    rows = []
    for number in range(10):
        row = Judged.unseen(Prompt(f"request {number}", "look_alike", "made", ""), "x")
        object.__setattr__(row, "label", label if number < 3 else "full_compliance")
        object.__setattr__(row, "because", "said so")
        rows.append(row)
    tracking = TrackingConfig(
        uri=f"sqlite:///{store}/mlflow.db", artifacts=str(store / "artifacts")
    )
    tags = {"tbr.subject": "m-1", prompt_logging.TAG: "asked"}
    with start_run("evaluate", "earlier", Config(), tracking, tags) as opened:
        opened.log_table(table_rows(rows), RESPONSES)
        opened.log_page("<p>page</p>", "report.html")
        paths = compose_verb("evaluate", WORDS).config.paths
        attest(opened, Subject("m-1", "", "key"), paths)
    model: Any = None
    return EvaluatedModel(model, LoggedModel("m-1", "r", {}))


@pytest.mark.parametrize(
    ("label", "limit", "says"),
    [
        ("unparsed", "judge.max_unparsed", "3 of 10 answers are empty or cut off"),
        ("judge_error", "judge.max_errors", "judge=rules failed on 3 of 10 answers"),
    ],
)
def test_a_wider_limit_of_before_is_not_taken_over(
    store: Path, label: str, limit: str, says: str
) -> None:
    subject = stored(store, label)
    lenient = compose_verb("evaluate", [*WORDS, f"{limit}=0.3"]).config
    found = pipeline._earlier(lenient, subject, "asked", "key", 64, tell=print)
    assert found is not None and len(found.rows) == 10
    strict = compose_verb("evaluate", [*WORDS, f"{limit}=0.2"]).config
    with pytest.raises(UserError, match=says):
        pipeline._earlier(strict, subject, "asked", "key", 64, tell=print)
