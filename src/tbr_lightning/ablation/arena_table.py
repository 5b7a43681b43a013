"""The arena's end: each rival on the test half, the table, the figure, and the gate's verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException

from tbr_lightning.ablation.arena_plan import Arena, Bout, Rival, Tried, evaluate_config
from tbr_lightning.config.compose import compose_verb
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.errors import UserError, in_one_line
from tbr_lightning.evaluation import comparison, findings, general, pages
from tbr_lightning.evaluation import pipeline as evaluating
from tbr_lightning.evaluation.comparison import Difference
from tbr_lightning.evaluation.judged_response import Judged
from tbr_lightning.evaluation.questions import identity
from tbr_lightning.evaluation.report import probability
from tbr_lightning.evaluation.results import MEASURES, Measure
from tbr_lightning.evaluation.statistics import Estimate, Rate, over_seeds
from tbr_lightning.registry import gate
from tbr_lightning.registry.answers import Answers
from tbr_lightning.reports import names as naming
from tbr_lightning.reports import plane
from tbr_lightning.reports.page import FILE, render
from tbr_lightning.tracking.run import Run
from tbr_lightning.tuning.space import overrides_of

MARKDOWN, TABLE, FIGURE = "arena.md", "arena.json", "arena.png"
"""Artifacts of the arena's run, and files of the folder that it was started in."""

_COSTLY = 40.0  # area of a point in points squared, for the control's seconds an answer


@dataclass(frozen=True)
class RivalResult:
    """The row of a rival.

    Attributes:
        name: Name of the rival.
        about: One-line description.
        chosen: The point that dev chose, as overrides.
        tried: Number of points on dev, and the seconds they took.
        answers: Answers on the test half; ``None`` where it could not be tested.
        others: Judged answers of the models of further seeds.
        why_not: Reason why it could not be tested.
        run_id: ID of the test's run.
        trained: Supervised tokens and seconds of the training of the model that is asked.
        seconds: Seconds per answer, decoded in batches.
        choices: Accuracy of general ability by task of lm-eval, in [0, 1].
        verdict: The gate's decision against the control, in a word or sentence.
        label: Display name of the model that was asked, as an evaluation has it.
        asked: Which prompts it was asked and who judged, in words.
    """

    name: str
    about: str
    chosen: str = ""
    tried: tuple[int, float] = (0, 0.0)
    answers: Answers | None = None
    others: tuple[Sequence[Judged], ...] = ()
    why_not: str = ""
    run_id: str = ""
    trained: tuple[float, float] = (0.0, 0.0)
    seconds: float = math.nan
    choices: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""
    label: str = ""
    asked: str = ""

    @property
    def called(self) -> str:
        """The name in figures and pages: that of an arm every figure knows, else the rival's."""
        arm = naming.arm_in(self.label)
        own = self.name.replace("look_alike", "look-alike").replace("_", " ")
        return arm if arm in naming.KNOWN else own

    @property
    def rows(self) -> Sequence[Judged]:
        """The judged answers."""
        return self.answers.rows if self.answers else ()

    def rate(self, measure: Measure) -> Rate | Estimate:
        """Return a rate over prompts, and over seeds where there are several."""
        found = [measure.rate(rows) for rows in (self.rows, *self.others)]
        return over_seeds(found) if len(found) > 1 and found[0].n else found[0]

    @property
    def tokens(self) -> float:
        """Mean number of tokens per answer, reflection included."""
        return sum(row.new_tokens for row in self.rows) / len(self.rows) if self.rows else math.nan


def test(
    bout: Bout,
    named: tuple[str, Rival],
    tried: Sequence[Tried],
    best: Tried | None,
    control: RivalResult | None,
) -> RivalResult:
    """Evaluate a rival's chosen point on the test half, and let the gate judge it."""
    (name, rival), arena, config = named, bout.arena, bout.config
    took = (len(tried), sum(one.seconds for one in tried))
    if best is None:
        return RivalResult(name, rival.about, tried=took, why_not=tried[0].why_not)
    chosen = " ".join(overrides_of(best.point))
    title, tags = f"evaluate {name}, test half", {"tbr.arena_rival": name}
    done = []
    try:
        for model in best.models:
            asked = evaluate_config(arena, rival, best.point, config, half="test", model=model)
            # Written anew, so that their seconds can be measured.
            anew = replace(asked.generation, reuse=False)
            done.append(evaluating.run(replace(asked, generation=anew, run_name=title, tags=tags)))
    except UserError as error:
        return RivalResult(name, rival.about, chosen, took, why_not=in_one_line(error))
    numbers = Run(done[0].run_id).numbers()
    trained = Run(best.train_run).metrics() if best.train_run else {}
    marks, guessed = _choices(done[0].run_id)
    answers = Answers(
        done[0].rows,
        marks,
        contamination=numbers.get("contamination"),
        chances=general.chances(guessed),
    )
    found = RivalResult(
        name,
        rival.about,
        chosen,
        took,
        answers,
        run_id=done[0].run_id,
        trained=(
            trained.get("train/supervised_tokens", 0.0),
            trained.get("train/seconds", 0.0),
        ),
        seconds=numbers.get("answer_seconds", math.nan) / len(done[0].rows),
        others=tuple(one.rows for one in done[1:]),
        choices={task: sum(right.values()) / len(right) for task, right in marks.items() if right},
        label=done[0].label,
        asked=findings.asked_of(asked.suite, asked.judge, done[0].rows),
    )
    return replace(found, verdict=_verdict(found, control, config))


def artifact(run_id: str, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table among a run's artifacts; none where it is not there."""
    try:
        table = json.loads(Run(run_id).text(name))
    except (MlflowException, OSError):
        return []
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def _choices(
    run_id: str,
) -> tuple[dict[str, dict[str, bool]], dict[str, dict[str, float | None]]]:
    """Return for each task which questions were right, and what guessing gets of each."""
    found: dict[str, dict[str, bool]] = {}
    guessed: dict[str, dict[str, float | None]] = {}
    for row in artifact(run_id, general.CHOICES):
        if row["right"] is not None:
            question = identity(row["task"], row["question"], row["options"], row.get("how"))
            found.setdefault(row["task"], {})[question] = bool(row["right"])
            guessed.setdefault(row["task"], {})[question] = row.get("chance")
    return found, guessed


def _verdict(found: RivalResult, control: RivalResult | None, config: SweepConfig) -> str:
    """Return the gate's verdict on a rival against the control, on the prompts of both."""
    if control is None or control.answers is None or found.answers is None:
        return "the control"
    asked = compose_verb("promote", [], config.sweep.config_dir).config.gate
    theirs, ours = control.answers, found.answers
    if ours.choices.keys() != theirs.choices.keys():
        # Its answers are decoded by a guide, which scores of choices do not know.
        ours, theirs = replace(ours, choices={}), replace(theirs, choices={})
    try:
        verdict = gate.judge(ours, theirs, asked)
    except UserError as error:
        return f"cannot decide: {in_one_line(error)}"
    failed = ", ".join(rule.name for rule in verdict.rules if not rule.passed)
    return "promoted" if verdict.promoted else f"not promoted: {failed}"


def line(result: RivalResult) -> str:
    """Return a rival's rates in a line for the terminal."""
    if result.answers is None:
        return f"{result.name}: not tested: {result.why_not}"
    shares = ", ".join(
        f"{measure.heading} {100 * rate.value:.1f}"
        for measure in MEASURES
        if (rate := measure.rate(result.rows)).n
    )
    return f"{result.name}: {shares}; gate: {result.verdict}"


def log(opened: Run, arena: Arena, results: Mapping[str, RivalResult], stem: str) -> None:
    """Log table and figure on the arena's run, write them here as STEM.…, and print the table."""
    tested = {name: one for name, one in results.items() if one.answers is not None}
    differences = comparison.compare({name: one.rows for name, one in tested.items()})
    text = markdown(arena, results, differences)
    drawn = figure(tested, differences, f"{arena.about or 'arena'}, {arena.model}")
    opened.log_text(text, MARKDOWN)
    opened.log_figure(drawn, FIGURE)
    opened.log_table(_records(results, differences), TABLE)
    for name, one in tested.items():
        opened.log_metrics(
            {
                f"{name}/{measure.name}": rate.value
                for measure in MEASURES
                if (rate := one.rate(measure)).n
            }
        )
    opened.describe(text)
    facts = [("model", arena.model), ("run", opened.id)]
    rows = {one.called: one.rows for one in tested.values()}
    facts += [(pages.ASKED, next(iter(tested.values())).asked)] if tested else []
    told = [
        replace(d, model=tested[d.model].called, against=tested[d.against].called)
        for d in differences
    ]
    page = opened.log_page(render(pages.comparison_page(rows, told, facts)), FILE)
    here = [Path(name.replace("arena", stem, 1)) for name in (MARKDOWN, TABLE, FIGURE)]
    here[0].write_text(text, encoding="utf-8")
    records = _records(results, differences)
    here[1].write_text(json.dumps(_plain(records), indent=1) + "\n", encoding="utf-8")
    drawn.savefig(here[2])
    names = ", ".join(map(str, here))
    print(f"\n{text}\nrun {opened.id}: its artifacts {MARKDOWN}, {TABLE}, {FIGURE}; here: {names}")
    print(f"report: {page or f'the artifact {FILE}'}")


def _plain(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return records as JSON has them: what is not a number is null."""
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in one.items()}
        for one in records
    ]


def markdown(
    arena: Arena, results: Mapping[str, RivalResult], differences: Sequence[Difference]
) -> str:
    """Return the table of an arena as Markdown."""
    heads = ["rival", *(f"{measure.heading}, %" for measure in MEASURES)]
    tasks = list(dict.fromkeys(task for one in results.values() for task in one.choices))
    heads += [f"{task}, %" for task in tasks]
    heads += ["Δ false refusal (p)", "Δ harm (p)", "training", "answer", "tried", "gate"]
    rows = [heads, ["---"] * len(heads)]
    told = _overall(differences)
    for name, one in results.items():
        called = f"`{name}`: {one.about}" + (f" ({one.chosen})" if one.chosen else "")
        if one.answers is None:
            rows.append([called, f"not tested: {one.why_not}", *[""] * (len(heads) - 2)])
            continue
        cells = [called]
        for measure in MEASURES:
            rate = one.rate(measure)
            low, high = rate.interval
            share = f"{100 * rate.value:.1f} ({100 * low:.0f} to {100 * high:.0f})"
            cells.append(share if rate.n else "–")
        cells += [f"{100 * one.choices[t]:.1f}" if t in one.choices else "–" for t in tasks]
        for measure in MEASURES[:2]:
            cells.append(_difference(told.get((name, measure.name))))
        tokens, seconds = one.trained
        cells.append(f"{tokens / 1000:.0f}k tokens, {seconds:.0f} s" if tokens else "none")
        cells.append(f"{one.tokens:.1f} tokens, {1000 * one.seconds:.0f} ms")
        cells.append(f"{one.tried[0]} in {one.tried[1]:.0f} s")
        rows.append([*cells, one.verdict])
    lines = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    several = arena.seeds > 1
    note = (
        f"Test half, 95% intervals (Wilson). Each rival was tuned on the dev half within "
        f"{arena.trials} points, to the least false refusal with harmful compliance at most "
        f"{100 * arena.max_harm:g} points above the control's and general accuracy at most "
        f"{100 * arena.max_loss:g} below; where no point keeps that, the nearest is shown. "
        f"Differences to `{arena.control}` in points, with Tango's interval and McNemar's exact p, "
        "Holm-adjusted over the rivals"
        + (f", of the first of {arena.seeds} seeds; rates are means over all." if several else ".")
        + " Training: of the model that is asked, its control's where "
        "the rival trains nothing. Answer: new tokens, and time in batches on this machine."
    )
    return f"# {arena.about or 'Arena'} ({arena.model})\n\n" + "\n".join(lines) + f"\n\n{note}\n"


def _overall(differences: Sequence[Difference]) -> dict[tuple[str, str], Difference]:
    """Return each model's difference over all benchmarks: of a single one there is no other."""
    found: dict[tuple[str, str], Difference] = {}
    for one in differences:
        key = (one.model, one.measure)
        if one.benchmark == comparison.ALL or key not in found:
            found[key] = one
    return found


def _difference(one: Difference | None) -> str:
    if one is None:
        return "–"
    low, high = one.interval
    p = probability(one.p_holm)
    return f"{100 * one.value:+.1f} ({100 * low:.0f} to {100 * high:.0f}; {p})"


def _records(
    results: Mapping[str, RivalResult], differences: Sequence[Difference]
) -> list[dict[str, Any]]:
    told = _overall(differences)
    records = []
    for name, one in results.items():
        record: dict[str, Any] = {"rival": name, "about": one.about, "chosen": one.chosen}
        for measure in MEASURES:
            rate = one.rate(measure)
            low, high = rate.interval if rate.n else (math.nan, math.nan)
            value = rate.value if rate.n else math.nan
            record |= {measure.name: value, f"{measure.name}_lo": low, f"{measure.name}_hi": high}
            difference = told.get((name, measure.name))
            record[f"{measure.name}_difference"] = difference.value if difference else math.nan
            record[f"{measure.name}_p_holm"] = difference.p_holm if difference else math.nan
        record |= {
            "train_tokens": one.trained[0],
            "train_seconds": one.trained[1],
            "tokens_per_answer": one.tokens,
            "seconds_per_answer": one.seconds,
            "dev_points": one.tried[0],
            "dev_seconds": one.tried[1],
            "gate": one.verdict,
            "why_not": one.why_not,
            "run": one.run_id,
        }
        records.append(record)
    return records


def figure(
    results: Mapping[str, RivalResult], differences: Sequence[Difference], about: str
) -> Figure:
    """Return false refusal against harmful compliance, one point per rival.

    The area of a point is its seconds per answer.

    Args:
        results: Rivals that were tested, the control first.
        differences: Differences to the control.
        about: What the arena is about.
    """
    unit = next(iter(results.values())).seconds if results else math.nan
    points: list[plane.Point] = []
    costs: list[float] = []
    for one in results.values():
        refused, complied = (one.rate(measure) for measure in MEASURES[:2])
        if not (refused.n and complied.n):
            continue
        costs += [one.seconds] if math.isfinite(one.seconds) else []
        size = _diameter(one.seconds, unit)
        points.append(plane.Point(one.called, 100 * complied.value, 100 * refused.value, size=size))
    rows = {one.called: one.rows for one in results.values()}
    told = [
        replace(d, model=results[d.model].called, against=results[d.against].called)
        for d in differences
    ]
    title = findings.compared(rows, told) if rows else "No rival was tested"
    asked = next((one.asked for one in results.values() if one.asked), "")
    front = "dashes: Pareto front" if plane.has_front(points) else ""
    caption = "; ".join(filter(None, [asked, front]))
    ends = sorted({min(costs), max(costs)}) if costs else []
    sizes = [(f"{1000 * cost:.3g} ms an answer", _diameter(cost, unit)) for cost in ends]
    return plane.draw(points, title, caption, about=about, sizes=sizes)


def _diameter(seconds: float, unit: float) -> float:
    """Return the diameter of a point in points: its area grows with the seconds an answer."""
    cost = seconds / unit
    return math.sqrt(_COSTLY * cost if math.isfinite(cost) else _COSTLY)
