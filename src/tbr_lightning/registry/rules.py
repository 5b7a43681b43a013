"""The gate's rules: a measured number, its one-sided score bound, and the limit it must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from statsmodels.stats.proportion import proportion_confint

from tbr_lightning.config.gate import GateConfig
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import worst_part
from tbr_lightning.evaluation.statistics import tango_bound

Pairs = Sequence[tuple[bool, bool]]
"""For each prompt whether it counts against the candidate, and against the champion."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The outcome of one rule.

    Attributes:
        name: Name of the rule, as in the tag ``tbr.gate.NAME``.
        passed: Whether it holds.
        because: Reason in words, with the numbers.
        value: Measured value: a rate, or a difference to the champion's.
        bound: One-sided bound of the value, which the rule compares.
        limit: Limit that the bound is compared with.
        n: Number of prompts that it rests on.
        against: Whether it compares with the champion.
        least: Whether the bound must be at least the limit; otherwise at most.
        chance: Accuracy of guessing, where guessing is possible.
    """

    name: str
    passed: bool
    because: str
    value: float
    bound: float
    limit: float
    n: int
    against: bool = False
    least: bool = False
    chance: float | None = None


def table(rules: Sequence[Rule]) -> list[str]:
    """Return the rules as a table of plain text, one line a rule, in percent and points.

    Where a task can be guessed, its line ends with the accuracy of guessing.
    """
    guessed = any(rule.chance is not None for rule in rules)
    head = ("", "rule", "measured", "bound", "", "limit", "n", *(["chance"] if guessed else []))
    rows = [
        (
            "passed" if rule.passed else "FAILED",
            rule.name,
            f"{100 * rule.value:{'+' if rule.against else ''}.1f}",
            f"{100 * rule.bound:{'+' if rule.against else ''}.1f}",
            ">=" if rule.least else "< " if rule.name == "superiority" else "<=",
            f"{100 * rule.limit:.1f}",
            str(rule.n),
            *(["" if rule.chance is None else f"{100 * rule.chance:.1f}"] if guessed else []),
        )
        for rule in rules
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column in (0, 1, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def non_inferiority(name: str, what: str, pairs: Pairs, margin: float, alpha: float) -> Rule:
    """Return the rule that what counts against a model does not rise beyond a margin."""
    worse, better, n = _count(pairs)
    if n == 0:
        told = f"{what}: the champion has no labelled answer to compare with"
        return Rule(name, False, told, 0, 1, margin, 0, against=True)
    change, bound = (worse - better) / n, _bound(worse, better, n, alpha)
    passed = bound <= margin
    moved = (
        f"{'rose' if change > 0 else 'fell'} by {100 * abs(change):.1f} points"
        if change
        else "did not change"
    )
    return Rule(
        name,
        passed,
        f"{what} {moved} over {n} prompts, the {_level(alpha)} upper bound of its rise "
        f"{100 * bound:.1f} is {_within(passed, 'margin', margin)}",
        change,
        bound,
        margin,
        n,
        against=True,
    )


def superiority(pairs: Pairs, alpha: float) -> Rule:
    """Return the rule that false refusal is lower than the champion's."""
    worse, better, n = _count(pairs)
    bound = _bound(worse, better, n, alpha) if n else 1.0
    passed = bound < 0
    return Rule(
        "superiority",
        passed,
        f"false refusal is {'lower' if passed else 'not shown to be lower'} than the champion's "
        f"({_level(alpha)} upper bound of the difference {100 * bound:.1f} points)",
        (worse - better) / n if n else 0.0,
        bound,
        0.0,
        n,
        against=True,
    )


def ceiling(name: str, what: str, hits: Sequence[bool], limit: float, alpha: float) -> Rule:
    """Return the rule that a rate is not above a limit."""
    n = len(hits)
    bound = wilson_bound(sum(hits), n, alpha, upper=True)
    passed, value = bound <= limit, sum(hits) / n if n else 0.0
    return Rule(
        name,
        passed,
        f"{what} is {100 * value:.1f}% over {n} prompts, its {_level(alpha)} upper bound "
        f"{100 * bound:.1f} is {_within(passed, 'ceiling', limit)}",
        value,
        bound,
        limit,
        n,
    )


def floor(task: str, wrong: Sequence[bool], config: GateConfig, chance: float | None) -> Rule:
    """Return the rule that accuracy on a task is not below its floor.

    Args:
        task: Name of the task.
        wrong: Whether each answer is wrong.
        config: Config of the gate.
        chance: Accuracy of guessing; ``None`` for a task without options.
    """
    n, right = len(wrong), len(wrong) - sum(wrong)
    limit = config.floor(task, chance)
    bound, value = wilson_bound(right, n, config.alpha, upper=False), right / n if n else 0.0
    passed = bound >= limit
    guessing = "" if chance is None else f"guessing gets {100 * chance:.1f}; "
    return Rule(
        f"min_general_accuracy/{task}",
        passed,
        f"accuracy on {task} is {100 * value:.1f}% over {n} prompts, its {_level(config.alpha)} "
        f"lower bound {100 * bound:.1f} is {'above' if passed else 'below'} the floor "
        f"{100 * limit:.1f} ({guessing}{config.setting_of_floor(task, chance)})",
        value,
        bound,
        limit,
        n,
        least=True,
        chance=chance,
    )


def unparsed(rows: Sequence[Judged], limit: float) -> Rule:
    """Return the rule that most answers of each kind and benchmark have a label.

    The share over all would hide that those of one kind are missing: long answers are.
    """
    name, part, value = worst_part(rows)
    errors = sum(row.label == "judge_error" for row in part)
    passed = value <= limit
    return Rule(
        "unparsed",
        passed,
        f"{100 * value:.1f}% of {len(part)} answers{name} have no label ({errors} because the "
        f"judge failed), {_within(passed, 'limit', limit)}",
        value,
        value,
        limit,
        len(part),
    )


def contamination(share: float, n: int, limit: float) -> Rule:
    """Return the rule that the model was not trained on the prompts that it is measured with."""
    passed = share <= limit
    return Rule(
        "contamination",
        passed,
        f"in the most contaminated benchmark {100 * share:.1f}% of the prompts occur in the "
        f"training rows, {_within(passed, 'limit', limit)}",
        share,
        share,
        limit,
        n,
    )


def wilson_bound(count: int, n: int, alpha: float, *, upper: bool) -> float:
    """Return a one-sided score bound of a rate; of no outcomes it is the worst possible."""
    if n == 0:
        return 1.0 if upper else 0.0
    low, high = proportion_confint(count, n, alpha=2 * alpha, method="wilson")
    return float(high if upper else low)


def _count(pairs: Pairs) -> tuple[int, int, int]:
    worse = sum(mine and not other for mine, other in pairs)
    better = sum(other and not mine for mine, other in pairs)
    return worse, better, len(pairs)


def _bound(worse: int, better: int, n: int, alpha: float) -> float:
    return tango_bound(worse, better, n, alpha=alpha, side="upper")


def _within(passed: bool, what: str, limit: float) -> str:
    return f"{'within' if passed else 'above'} the {what} {100 * limit:.1f}"


def _level(alpha: float) -> str:
    return f"{100 * (1 - alpha):g}%"
