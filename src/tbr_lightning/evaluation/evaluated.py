"""What an evaluation of one model, and of several, leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbr_lightning.evaluation.comparison import Difference
    from tbr_lightning.evaluation.results import Judged
    from tbr_lightning.reports.page import Drawn


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation leaves.

    Attributes:
        run_id: MLflow run.
        rows: Every prompt with answer and verdict.
        subject: Identity of the model.
        model_id: Of the model in MLflow, if it is there.
        traces: Answers traced.
        label: What people call the model.
        report: Where its page lies on this machine; ``None`` if it lies in MLflow alone.
        figures: What an explanation drew for the page.
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
    """What an evaluation of several models leaves.

    Attributes:
        run_id: MLflow run of the comparison, the parent of the models' own.
        models: Each model's evaluation, by the name that was given.
        differences: Of every model to the first.
        traces: Answers traced.
        report: Where its page lies on this machine; ``None`` if it lies in MLflow alone.
    """

    run_id: str
    models: dict[str, EvaluateResult]
    differences: list[Difference] = field(default_factory=list)
    traces: int = 0
    report: Path | None = None
