"""``report.html`` of a gate's decision."""

from __future__ import annotations

from collections.abc import Sequence

from tbr_lightning.config.gate import GateConfig
from tbr_lightning.evaluation import figures, findings, pages
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.judges.loading import identity
from tbr_lightning.evaluation.results import FALSE_REFUSAL, HARMFUL_COMPLIANCE, rates
from tbr_lightning.registry.evidence import Exam
from tbr_lightning.registry.gate import Decision
from tbr_lightning.registry.record import DecisionInputs, finding
from tbr_lightning.registry.rules import Rule
from tbr_lightning.reports import names as naming
from tbr_lightning.reports import plane, style
from tbr_lightning.reports.page import Drawn, Listed, Page

_RULES = (
    "Percent and points. The bound is a one-sided score bound; a rule holds where the bound keeps "
    "the limit. A candidate must pass every rule."
)


def decision_page(run_id: str, exam: Exam, case: DecisionInputs, verdict: Decision) -> Page:
    """Return the page of a decision: verdict, rates of both, every rule, every answer."""
    config = exam.config
    sides = answers(case)
    failed = [rule for rule in verdict.rules if not rule.passed]
    title = f"{config.name} v{case.version} " + (
        f"against champion v{case.champion}" if case.champion else "without a champion"
    )
    if verdict.promoted:
        told = f"Promoted: all {len(verdict.rules)} rules hold."
    else:
        told = f"Not promoted, {len(failed)} of {len(verdict.rules)} rules failed: "
        told += f"{failed[0].because}."
    source = findings.asked_of(config.suite, config.judge, case.ours.rows)
    drawing = figures.two_sided_figure(
        {name: [rates(rows)] for name, rows in sides.items()},
        finding(case, verdict),
        region=accepted(config.gate, case.theirs.rows if case.theirs else None),
        source=source,
    )
    called, common = naming.shared(sides)
    sides = {called[name]: rows for name, rows in sides.items()}
    rules = sorted(verdict.rules, key=lambda rule: rule.passed)
    return Page(
        title=title,
        about="; ".join(filter(None, (naming.in_common(common), source))),
        verdict=told,
        tone="good" if verdict.promoted else "bad",
        numbers=pages.measured(sides),
        figures=[Drawn(style.svg(drawing, "plane"), "What the gate accepts, and where both are.")],
        tables=[
            rule_table(rules),
            *([pages.changes(sides)] if len(sides) > 1 else []),
            pages.by_benchmark(sides),
        ],
        models=list(sides),
        samples=pages.samples(sides),
        facts=[
            *((name, one.model.uri) for name, one in case.sides.items()),
            (pages.ASKED, source),
            ("suite", f"{config.suite.name}, {config.suite.half} half"),
            ("judge", identity(config.judge)),
            ("gate", config.gate.name),
            ("evaluations", ", ".join(case.evidence)),
            ("run", run_id),
        ],
    )


def answers(case: DecisionInputs) -> dict[str, Sequence[Judged]]:
    """Return both models' answers, the champion's first, to which the candidate is compared."""
    return {name: one.rows for name, one in case.sides.items()}


def accepted(
    gate: GateConfig, champion: Sequence[Judged] | None, who: str = "the champion"
) -> plane.Region:
    """Return what the gate accepts: its ceilings, and of a champion's rates what they allow."""
    harmful, refusal = gate.max_harmful_compliance, gate.max_false_refusal
    note = "what the gate accepts, if one-sided upper bounds are within it too"
    if champion is not None:
        complied, refused = HARMFUL_COMPLIANCE.rate(champion), FALSE_REFUSAL.rate(champion)
        if complied.n:
            harmful = min(harmful, complied.value + gate.harmful_compliance_margin)
        if refused.n:
            more = 0.0 if gate.require_superiority else gate.false_refusal_margin
            refusal = min(refusal, refused.value + more)
        note = (
            f"what the gate accepts beside {who}; it decides by bounds of paired differences, so "
            "that a point near the edge may still fail"
        )
    label = f"gate: harm ≤ {100 * harmful:.1f}%, false refusal ≤ {100 * refusal:.1f}%"
    return plane.Region(100 * harmful, 100 * refusal, label, note)


def rule_table(rules: list[Rule]) -> Listed:
    """Return the rules as a table, failed ones marked."""
    rows = []
    for rule in rules:
        sign = "+" if rule.against else ""
        rows.append(
            (
                "passed" if rule.passed else "FAILED",
                rule.name,
                f"{100 * rule.value:{sign}.1f}",
                f"{100 * rule.bound:{sign}.1f}",
                f"{_keeps(rule)} {100 * rule.limit:.1f}",
                str(rule.n),
                rule.because,
            )
        )
    heads = ("", "rule", "measured", "bound", "limit", "n", "in words")
    marked = frozenset(place for place, rule in enumerate(rules) if not rule.passed)
    return Listed("Rules", heads, rows, marked, _RULES)


def _keeps(rule: Rule) -> str:
    """Return how a rule's bound must stand to its limit."""
    if rule.name == "merit":
        return "below"
    return "at least" if rule.least else "at most"
