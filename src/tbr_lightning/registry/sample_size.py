"""What a suite can show: sample sizes and the margins that they support."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tbr_lightning.config.gate import GateConfig
from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.power import CHURN, chance_below, pairs_for
from tbr_lightning.evaluation.statistics import smallest_margin, tango_bound
from tbr_lightning.registry.answers import Answers
from tbr_lightning.registry.rules import wilson_bound

_FALL = 0.1  # fall of false refusal whose power is stated
_ENOUGH = 0.8  # power below which the number of prompts that would reach it is reported


@dataclass(frozen=True)
class Sizes:
    """The numbers of prompts.

    Attributes:
        look_alike: Number of prompts of each look-alike benchmark.
        harmful: Number of prompts of each harmful benchmark.
        general: Number of prompts or multiple-choice questions of each general task.
        chances: Accuracy of guessing for each task with options.
    """

    look_alike: Mapping[str, int]
    harmful: Mapping[str, int]
    general: Mapping[str, int] = field(default_factory=dict)
    chances: Mapping[str, float] = field(default_factory=dict)


def sizes_of(evaluation: Answers) -> Sizes:
    """Return the sizes of an existing evaluation."""
    counts = Counter((row.kind, row.benchmark) for row in evaluation.rows)
    parts: dict[str, dict[str, int]] = {"look_alike": {}, "harmful": {}, "general": {}}
    for (kind, benchmark), count in counts.items():
        parts[kind][benchmark] = count
    parts["general"] |= {task: len(answers) for task, answers in evaluation.choices.items()}
    return Sizes(**parts, chances=evaluation.chances)


def check_one_answer_each(candidate: Answers, champion: Answers | None) -> None:
    """Refuse evaluations that are not of the same prompts, each answered once.

    Raises:
        UserError: They are not; the message says how.
    """
    for what, one in (("candidate", candidate), ("champion", champion)):
        if one is not None and len({row.id for row in one.rows}) < len(one.rows):
            raise UserError(
                f"the {what}'s evaluation has several answers to a prompt, which are not "
                "independent: give the gate an evaluation with repeats=1"
            )
    if champion is None:
        return
    ours, theirs = ({row.id for row in one.rows} for one in (candidate, champion))
    if ours != theirs:
        raise UserError(
            f"the evaluations differ in {len(ours ^ theirs)} prompts: evaluate both on one suite"
        )
    asked = {task: set(answers) for task, answers in candidate.choices.items()}
    if asked != {task: set(answers) for task, answers in champion.choices.items()}:
        raise UserError(
            "the evaluations differ in their multiple-choice questions: evaluate both with one "
            "suite.lm_eval and suite.limit"
        )


def check_support(sizes: Sizes, config: GateConfig, *, paired: bool) -> str:
    """Refuse a gate that the suite cannot support; return what it can show.

    Args:
        sizes: Sizes of the suite.
        config: Config of the gate.
        paired: Whether there is a champion to compare with.

    Raises:
        UserError: There are too few prompts, or a margin or ceiling is below what they can show.
    """
    problems: list[str] = []
    told: list[str] = []
    groups = [
        ("look-alike", sizes.look_alike, "false_refusal_margin", ("max_false_refusal",)),
        (
            "harmful",
            sizes.harmful,
            "harmful_compliance_margin",
            ("max_harmful_compliance", "max_reflection_leaks"),
        ),
    ]
    for what, parts, margin, ceilings in groups:
        n = sum(parts.values())
        limits = [*ceilings, *([margin] if paired else [])]
        problems += _problems(what, n, limits, config)
        told.append(_told(what, n, config))
        if paired and len(parts) > 1 and config.benchmark_margin is not None:
            few = [b for b, n in parts.items() if _least(n, config) > config.benchmark_margin]
            if few:
                told.append(f"too few to be judged alone: {', '.join(few)}")
    if paired and not sizes.general and config.general_accuracy_margin is not None:
        problems.append(
            "the suite measures no general ability: add suite.lm_eval=[mmlu] or another suite with "
            "general prompts, or do without, with gate.general_accuracy_margin=null"
        )
    for task, n in sizes.general.items():
        with_margin = paired and config.general_accuracy_margin is not None
        problems += _problems(task, n, ["general_accuracy_margin"] if with_margin else [], config)
        told.append(_told(task, n, config))
    problems += _floor_problems(sizes, config)
    n = sum(sum(p.values()) for p in (sizes.look_alike, sizes.harmful, sizes.general))
    if n >= config.min_prompts or not problems:  # else each kind's message names what is too few
        problems += _problems("", n, ["max_answer_leaks"], config)
    if problems:
        raise UserError("\n".join(problems))
    shown = f"what the suite can show at {100 * (1 - config.alpha):g}%: " + "; ".join(told)
    return "\n".join([shown, *floors(sizes, config), *(power(sizes, config) if paired else [])])


def no_room(refused: int, n: int, config: GateConfig) -> str | None:
    """Return that false refusal cannot be shown to be lower than the champion's, if it is so.

    Args:
        refused: Number of look-alikes that the champion refused.
        n: Number of look-alikes that it was asked.
        config: Config of the gate.

    Returns:
        A sentence; ``None`` where a candidate that refuses none would be shown to be better.
    """

    def is_shown(fewer: int) -> bool:
        return tango_bound(0, fewer, n, alpha=config.alpha, side="upper") < 0

    if not config.require_superiority or not n or is_shown(refused):
        return None
    needed = next((fewer for fewer in range(refused + 1, n + 1) if is_shown(fewer)), n)
    return (
        f"no candidate can be shown to be better: the champion refuses {refused} of {n} "
        f"look-alikes ({100 * refused / n:.1f}%), and a fall by fewer than {needed} cannot be told "
        "from chance: use a larger suite, or gate.require_superiority=false"
    )


def floors(sizes: Sizes, config: GateConfig) -> list[str]:
    """Return in words what each general task must reach, one line per task."""
    lines = []
    for task, n in sizes.general.items():
        chance = sizes.chances.get(task)
        limit, needed = config.floor(task, chance), _needed(n, config.floor(task, chance), config)
        guessing = "" if chance is None else f" (guessing gets {100 * chance:.1f}%)"
        lines.append(
            f"floor of {task}: {100 * limit:.1f}%{guessing}, which takes {needed} of {n} right, "
            f"{100 * needed / n:.1f}%"
        )
    return lines


def _needed(n: int, limit: float, config: GateConfig) -> int:
    """Return the smallest number of right answers whose lower bound reaches a limit, or n + 1."""
    counts = range(n + 1)
    return bisect_left(
        counts, True, key=lambda count: wilson_bound(count, n, config.alpha, upper=False) >= limit
    )


def _floor_problems(sizes: Sizes, config: GateConfig) -> list[str]:
    problems = [
        f"gate.task_floors names {task}, and the suite measures "
        f"{', '.join(sizes.general) or 'no general ability'}: name one of its tasks"
        for task in config.task_floors
        if task not in sizes.general
    ]
    for task, n in sizes.general.items():
        chance = sizes.chances.get(task)
        limit = config.floor(task, chance)
        if n >= config.min_prompts and _needed(n, limit, config) > n:
            problems.append(
                f"{config.setting_of_floor(task, chance)}: a floor of {limit:.4f} cannot be shown "
                f"with {n} {task} prompts, even if all are right: lower it or use a larger suite"
            )
    return problems


def power(sizes: Sizes, config: GateConfig) -> list[str]:
    """Return the power of the gate in words, one line per question."""
    look_alike, harmful = (sum(part.values()) for part in (sizes.look_alike, sizes.harmful))
    lines = []
    if config.require_superiority:
        fall = f"a fall of false refusal by {100 * _FALL:g} points is shown"
        fall = f"with {look_alike} look-alike prompts {fall}"
        lines.append(_found(fall, look_alike, -_FALL, 0.0, config))
    kinds = (
        ("look-alike", "false refusal", look_alike, config.false_refusal_margin),
        ("harmful", "harmful compliance", harmful, config.harmful_compliance_margin),
    )
    for kind, what, n, margin in kinds:
        same = f"an unchanged {what} keeps the margin of {100 * margin:g} points"
        lines.append(_found(f"with {n} {kind} prompts {same}", n, 0.0, margin, config))
        rise = min(2 * margin, (1 + margin) / 2)
        stopped = 100 * (1 - chance_below(n, rise, margin, config.alpha))
        lines.append(f"and a rise by {100 * rise:g} points is stopped in {stopped:.0f} of 100")
    head = f"power, if {CHURN:.0%} of the answers also change each way by chance:"
    return [head, *(f"  {line}" for line in lines)]


def _found(what: str, n: int, difference: float, limit: float, config: GateConfig) -> str:
    chance = chance_below(n, difference, limit, config.alpha)
    told = f"{what} in {100 * chance:.0f} of 100 cases"
    if chance >= _ENOUGH:
        return told
    needed = pairs_for(_ENOUGH, difference, limit, config.alpha)
    ask = "no suite is large enough" if needed is None else f"ask for {needed}"
    return f"{told} ({ask} for {100 * _ENOUGH:.0f})"


def _problems(what: str, n: int, limits: list[str], config: GateConfig) -> list[str]:
    prompts = f"{what} prompts".strip()
    if n < config.min_prompts:
        return [
            f"the suite has {n} {prompts}, fewer than gate.min_prompts={config.min_prompts}: use a "
            "larger suite or lower gate.min_prompts"
        ]
    least = _least(n, config)
    return [
        f"gate.{limit}={value} cannot be shown with {n} {prompts}: the smallest that they support "
        f"is {least:.4f}, so raise it or use a larger suite"
        for limit in limits
        if (value := getattr(config, limit)) < least
    ]


def _told(what: str, n: int, config: GateConfig) -> str:
    return f"{n} {what} prompts, a margin of {100 * _least(n, config):.1f} points"


def _least(n: int, config: GateConfig) -> float:
    return smallest_margin(n, config.alpha) if n else 1.0
