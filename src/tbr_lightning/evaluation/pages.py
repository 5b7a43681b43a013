"""The contents of ``report.html`` of an evaluation and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tbr_lightning.evaluation import figures, findings, report
from tbr_lightning.evaluation.comparison import Difference
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.results import (
    FALSE_REFUSAL,
    HARMFUL_COMPLIANCE,
    MEASURES,
    by_name,
    rates,
)
from tbr_lightning.evaluation.statistics import Estimate, Rate
from tbr_lightning.reports import names as naming
from tbr_lightning.reports import style
from tbr_lightning.reports.page import Drawn, Listed, Measured, Number, Page, Tone

_ABOUT = {
    "false_refusal_rate": "of harmless look-alikes were refused; lower is more helpful",
    "harmful_compliance_rate": "of harmful requests got what they ask for; lower is safer",
    "general_accuracy": "of general prompts were answered rightly; higher is better",
    "look_alike_accuracy": "of look-alikes were answered rightly; higher is better",
}
ASKED = "asked"
"""Name of the fact which prompts were asked and who judged."""

_OF_PROMPT = ("id", "prompt", "kind", "benchmark", "category", "reference", "repeat")
_CHANGES = (
    ("refused, now answered", "look_alike", True, False),
    ("answered, now refused", "look_alike", False, True),
    ("complied with, now withheld", "harmful", True, False),
    ("withheld, now complied with", "harmful", False, True),
)


def evaluation_page(
    name: str,
    rows: Sequence[Judged],
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
    *,
    figures: bool = True,
) -> Page:
    """Return the page of one model's evaluation.

    Args:
        name: Display name of the model.
        rows: Judged answers of the model.
        facts: Pairs (name, value) on where the numbers come from.
        notes: Sentences for readers.
        figures: Whether to draw its figures, which takes most of the time.
    """
    return Page(
        title=f"Evaluation of {name}",
        about=dict(facts).get(ASKED, ""),
        verdict=verdict(name, rows),
        numbers=measured({name: rows}),
        figures=drawn({name: rows}, (), dict(facts).get(ASKED, "")) if figures else [],
        tables=[by_benchmark({name: rows})],
        models=[name],
        samples=samples({name: rows}),
        facts=facts,
        notes=[note for note in notes if note],
    )


def comparison_page(
    models: Mapping[str, Sequence[Judged]],
    differences: Sequence[Difference],
    facts: Sequence[tuple[str, str]],
) -> Page:
    """Return the page of a comparison.

    Args:
        models: Judged answers by the name that is shown.
        differences: Differences of every model to the first, by the names that are shown.
        facts: Pairs (name, value) on where the numbers come from.
    """
    called, common = naming.shared(models)
    told, tone = difference_verdict(models, differences)
    asked = dict(facts).get(ASKED, "")
    drawings = drawn(models, differences, asked)
    models = {called[name]: rows for name, rows in models.items()}
    differences = [
        replace(d, model=called.get(d.model, d.model), against=called.get(d.against, d.against))
        for d in differences
    ]
    names = list(models)
    title = f"{names[-1] if len(names) < 3 else f'{len(names) - 1} models'} against {names[0]}"
    if len(names) == 2:  # the title names both already
        told = findings.told_of(findings.of_differences(differences, names[1]), bounds=True)
        told = f"{findings.capital(told)}."
    return Page(
        title=findings.capital(title),
        about="; ".join(filter(None, (naming.in_common(common), asked))),
        verdict=told,
        tone=tone,
        numbers=measured(models),
        figures=drawings,
        tables=[
            *([difference_table(differences)] if differences else []),
            *([changes(models)] if len(models) > 1 else []),
            by_benchmark(models),
        ],
        models=names,
        samples=samples(models),
        facts=facts,
    )


def verdict(name: str, rows: Sequence[Judged]) -> str:
    """Return the result of an evaluation in one line."""
    parts = []
    refused, complied = FALSE_REFUSAL.rate(rows), HARMFUL_COMPLIANCE.rate(rows)
    if refused.n:
        parts.append(f"refuses {_percent(refused)} of {refused.n} harmless look-alikes")
    if complied.n:
        parts.append(f"complies with {_percent(complied)} of {complied.n} harmful requests")
    judged = [row for row in rows if row.kind != "general"]
    if parts and (unlabelled := sum(not row.parsed for row in judged)):
        parts.append(f"{unlabelled} of its {len(judged)} answers to them have no label")
    general = rates(rows).general_accuracy
    if general.n:
        parts.append(f"answers {_percent(general)} of {general.n} general prompts correctly")
    return f"{name} {', '.join(parts) if parts else 'has no answer with a label'}."


def difference_verdict(
    models: Mapping[str, Sequence[Judged]], differences: Sequence[Difference]
) -> tuple[str, Tone]:
    """Return in a line how models differ from the first, and whether that is good."""
    base, *others = models
    if not others:
        return verdict(base, models[base]), "plain"
    if len(others) > 1:
        return f"{findings.compared(models, differences)}.", "plain"
    short, _ = naming.shared(models)
    found = findings.of_differences(differences, others[0])
    tone: Tone = "plain"
    if any(one.direction > 0 for one in found.values()):
        tone = "bad"
    elif any(one.direction < 0 for one in found.values()):
        tone = "good"
    return f"{findings.pair(short[base], short[others[0]], found, bounds=True)}.", tone


def measured(models: Mapping[str, Sequence[Judged]]) -> list[Measured]:
    """Return the numbers at the top, without those that no model has prompts for."""
    found = []
    for measure in MEASURES:
        of = {name: number(measure.rate(rows)) for name, rows in models.items()}
        if any(one.known for one in of.values()):
            found.append(Measured(measure.heading, _ABOUT[measure.name], of))
    return found


def number(rate: Rate | Estimate) -> Number:
    """Return a share as a page shows it."""
    low, high = rate.interval
    return Number(rate.value, low, high, rate.n)


def drawn(
    models: Mapping[str, Sequence[Judged]], differences: Sequence[Difference], source: str
) -> list[Drawn]:
    """Return the figures: the two-sided plane, categories, reflections."""
    sides = {name: [rates(rows)] for name, rows in models.items()}
    title = findings.compared(models, differences)
    found = [
        Drawn(
            style.svg(figures.two_sided_figure(sides, title, source=source), "plane"),
            "Down and left is better.",
        )
    ]
    if (categories := figures.category_figure(models, source)) is not None:
        told = "Each category of prompts, sorted by rate, with the number of its prompts."
        found.append(Drawn(style.svg(categories, "categories"), told))
    reflecting = any(row.reflection is not None for rows in models.values() for row in rows)
    if reflecting:
        drawing = figures.reflection_figure(models, source)
        told = "How often each kind of prompt triggers a reflection, and how long reflections are."
        found.append(Drawn(style.svg(drawing, "reflections"), told))
    return found


def by_benchmark(models: Mapping[str, Sequence[Judged]]) -> Listed:
    """Return the rates of each model by benchmark."""
    rows = [
        (line.measure, line.benchmark, line.model, _percent(line.rate), _ends(line.rate),
         str(line.rate.n))
        for line in report.lines(models)
    ]  # fmt: skip
    heads = ("measure", "benchmark", "model", "share", "95% interval", "n")
    return Listed("By benchmark", heads, rows, note=report.NOTE)


def difference_table(differences: Sequence[Difference]) -> Listed:
    """Return the differences to the first model."""
    headings = {measure.name: measure.heading for measure in MEASURES}
    rows = [
        (
            headings.get(one.measure, one.measure),
            one.benchmark,
            one.model,
            f"{100 * one.rate_against:.1f} → {100 * one.rate:.1f}",
            f"{100 * one.value:+.1f}",
            f"{100 * one.interval[0]:+.1f} to {100 * one.interval[1]:+.1f}",
            report.probability(one.p),
            report.probability(one.p_holm),
            str(one.n),
        )
        for one in differences
    ]
    heads = ("measure", "benchmark", "model", "percent", "points", "95% interval", "p", "Holm", "n")
    return Listed(f"Differences to {differences[0].against}", heads, rows, note=report.PAIRED)


def changes(models: Mapping[str, Sequence[Judged]]) -> Listed:
    """Return how many prompts changed sides between the first model and each other."""
    (first, base), *others = models.items()
    before = {(row.id, row.repeat): row for row in base}
    rows = []
    for name, answers in others:
        pairs = [(before[key], row) for row in answers if (key := (row.id, row.repeat)) in before]
        for what, kind, was, now in _CHANGES:
            both = [(a, b) for a, b in pairs if a.kind == kind and a.parsed and b.parsed]
            hits = [(_hit(a), _hit(b)) for a, b in both]
            if both:
                rows.append((name, what, str(hits.count((was, now))), str(len(both))))
    heads = ("model", "prompts", "changed", "of")
    return Listed(f"What changed from {first}", heads, rows)


def _hit(row: Judged) -> bool:
    return row.complied if row.kind == "harmful" else row.refused


def samples(models: Mapping[str, Sequence[Judged]]) -> list[dict[str, Any]]:
    """Return every prompt with each model's answer to it, ``None`` where it has none.

    ``key`` names the row in links. All else is what the judged answers hold, so that they can be
    restored from it.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for place, rows in enumerate(models.values()):
        for row in rows:
            values = asdict(row)
            of_prompt = {name: values.pop(name) for name in _OF_PROMPT}
            key = row.id if not row.repeat else f"{row.id}.{row.repeat}"
            sample = found.setdefault(
                (row.id, row.repeat),
                {"key": key, **of_prompt, "answers": [None] * len(models)},
            )
            sample["answers"][place] = {
                **values,
                "outcome": row.outcome,
                "handled_rightly": row.handled_rightly,
                "refused": row.refused,
                "parsed": row.parsed,
            }
    # Wrong answers first: readers look for them.
    return sorted(found.values(), key=lambda sample: not any(map(_is_wrong, sample["answers"])))


def _is_wrong(answer: Mapping[str, Any] | None) -> bool:
    return answer is not None and answer["handled_rightly"] is False


def _percent(rate: Rate | Estimate) -> str:
    return f"{100 * rate.value:.1f}%" if rate.n else "–"


def _ends(rate: Rate | Estimate) -> str:
    low, high = rate.interval
    return f"{100 * low:.1f} to {100 * high:.1f}" if rate.n else ""


def benchmarks_of(rows: Sequence[Judged]) -> str:
    """Return the benchmarks with how many prompts each has."""
    parts = by_name(rows, lambda row: row.benchmark)
    return ", ".join(f"{name} ({len({row.id for row in part})})" for name, part in parts.items())
