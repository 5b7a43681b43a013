"""Limits on answers without a label, beyond which an evaluation is refused."""

from __future__ import annotations

from collections.abc import Sequence

from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import rates, worst_part
from tbr_lightning.tracking.run import Run


def check_limits(rows: Sequence[Judged], config: EvaluateConfig, limit: int, run: Run) -> None:
    """Refuse an evaluation in which too few answers have a label.

    Raises:
        UserError: More answers lack one than ``judge.max_unparsed`` or ``judge.max_errors`` allow.
    """
    judge = config.judge
    where, of_part, share = worst_part([row for row in rows if row.label != "judge_error"])
    if share > judge.max_unparsed:
        lost = sum(not row.parsed for row in of_part)
        filtered = sum(row.filtered for row in of_part)
        by_filter = f" ({filtered} are filtered by the endpoint)" if filtered else ""
        raise UserError(
            f"{lost} of {len(of_part)} answers{where} are empty or cut off within their "
            f"reflection{by_filter}, more than judge.max_unparsed={judge.max_unparsed} allows: "
            f"raise generation.max_new_tokens ({limit}) or judge.max_unparsed; the responses "
            f"are kept in run {run.id}"
        )
    overall = rates(rows)
    if overall.judge_error.value > judge.max_errors:
        first = next(row.because for row in rows if row.label == "judge_error")
        raise UserError(
            f"judge={judge.name} failed on {overall.judge_error.count} of {len(rows)} "
            f"answers, more than judge.max_errors={judge.max_errors} allows, the first "
            f"time with '{first}': fix that or raise the limit; the responses are kept in "
            f"run {run.id}"
        )
