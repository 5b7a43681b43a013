"""Results of an evaluation of one model, and of several."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbr_lightning.evaluation.comparison import Difference
    from tbr_lightning.evaluation.judged_response import Judged
    from tbr_lightning.reports.page import Drawn

RESPONSES = "responses.json"
"""Artifact that holds every prompt, reflection, answer and verdict."""

CONTAMINATION = "tbr.contamination"
"""Tag: which prompts occur in the model's training rows, where those are known."""

LABEL = "tbr.label"
"""Tag: display name of the evaluated model."""


@dataclass(frozen=True)
class EvaluateResult:
    """The result of an evaluation of one model.

    Attributes:
        run_id: ID of the MLflow run.
        rows: Every prompt with answer and verdict.
        subject: Identity of the model.
        model_id: ID of the model in MLflow, if it is there.
        traces: Number of answers traced.
        label: Display name of the model.
        report: Local path of its page; ``None`` if the page is in MLflow alone.
        figures: Figures of an explanation, for the page.
    """

    run_id: str
    rows: list[Judged]
    subject: str
    model_id: str | None = None
    traces: int = 0
    label: str = ""
    report: Path | None = None
    figures: list[Drawn] = field(default_factory=list)


@dataclass(frozen=True)
class ComparisonResult:
    """The result of an evaluation of several models.

    Attributes:
        run_id: ID of the MLflow run of the comparison, the parent of the models' own.
        models: Each model's evaluation, by the name that was given.
        differences: Differences of every model to the first.
        traces: Number of answers traced.
        report: Local path of its page; ``None`` if the page is in MLflow alone.
    """

    run_id: str
    models: dict[str, EvaluateResult]
    differences: list[Difference] = field(default_factory=list)
    traces: int = 0
    report: Path | None = None
