"""The known rates of a version: those of the evaluation that decided about it."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow.exceptions import MlflowException

from tbr_lightning.evaluation.results import FALSE_REFUSAL, MEASURES
from tbr_lightning.registry.entry import ANEW, Entry
from tbr_lightning.tracking.run import Run

_DECIDED = ("promote", "baseline", "refuse")


def rates_of(version: str, entries: Sequence[Entry]) -> str:
    """Return a version's rates in a line, by the last decision about it that has evidence.

    Args:
        version: Version in the registry.
        entries: Entries of the ledger, the oldest first.
    """
    run_id = evaluation_of(version, entries)
    return "the ledger has no evaluation of it" if run_id is None else of_run(run_id)


def evaluation_of(version: str, entries: Sequence[Entry]) -> str | None:
    """Return the evaluation's run that the last decision about a version rests on, if any."""
    for entry in reversed(entries):
        if entry.action == ANEW:
            break  # in earlier entries its number means another model
        if entry.version == version and entry.action in _DECIDED and len(entry.evidence) > 1:
            return entry.evidence[1]
    return None


def refusals_on(digest: str, version: str, entries: Sequence[Entry]) -> tuple[int, int] | None:
    """Return how many look-alikes a version refused, and of how many.

    Args:
        digest: Digest of the prompts that the rate must be of.
        version: Version in the registry.
        entries: Entries of the ledger, the oldest first.

    Returns:
        Counts; ``None`` where the version was not evaluated on these prompts.
    """
    run_id = evaluation_of(version, entries)
    if run_id is None:
        return None
    run, name = Run(run_id), FALSE_REFUSAL.name
    try:
        numbers = run.numbers() if run.tags().get("tbr.suite_digest") == digest else {}
    except (MlflowException, OSError):
        return None
    if name not in numbers or f"{name}_n" not in numbers:
        return None
    n = round(numbers[f"{name}_n"])
    return round(numbers[name] * n), n


def of_run(run_id: str) -> str:
    """Return the rates of an evaluation's run in a line, in percent with 95% intervals."""
    try:
        numbers = Run(run_id).numbers()
    except (MlflowException, OSError):
        return f"its evaluation, run {run_id}, cannot be read"
    told = []
    for measure in MEASURES:
        if measure.name not in numbers:
            continue
        ends = [numbers.get(f"{measure.name}{end}") for end in ("_lo", "_hi")]
        low, high = ends
        interval = f" ({100 * low:.1f} to {100 * high:.1f})" if low is not None and high else ""
        told.append(f"{measure.heading} {100 * numbers[measure.name]:.1f}%{interval}")
    return ", ".join(told) or f"run {run_id} has no rates"
