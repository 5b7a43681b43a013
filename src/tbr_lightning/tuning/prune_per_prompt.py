"""The answers to each prompt as numbers, for a pruner that compares prompt by prompt."""

from __future__ import annotations

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.pipeline import RESPONSES
from tbr_lightning.evaluation.results import MEASURES, from_table
from tbr_lightning.tracking.run import Run


def outcomes(run_id: str, metric: str) -> list[float]:
    """Return 1 for each prompt of an evaluation that counts for a rate, 0 for each that does not.

    The order is that of the prompts' ids, so that it is the same in every trial. A prompt without
    a verdict counts as the worse case of neither: 0.5.

    Args:
        run_id: Of the evaluation.
        metric: Name of a rate.

    Raises:
        UserError: The metric is not a rate over prompts.
    """
    measure = next((one for one in MEASURES if one.name == metric), None)
    if measure is None:
        raise UserError(
            f"objectives.{metric} is not a rate over prompts: leave pruner=wilcoxon out"
        )
    rows = [row for row in from_table(Run(run_id).text(RESPONSES)) if row.kind == measure.kind]
    rows.sort(key=lambda row: row.id)
    return [float(measure.hit(row)) if measure.counts(row) else 0.5 for row in rows]
