"""From models and a suite to judged answers, rates and comparisons."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.evaluation.comparison import Difference
    from tbr_lightning.evaluation.general import Question
    from tbr_lightning.evaluation.respond import EvaluatedModel
    from tbr_lightning.evaluation.results import Judged
    from tbr_lightning.evaluation.suites import Prompt
    from tbr_lightning.tracking.run import Run


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
    """

    run_id: str
    rows: list[Judged]
    subject: str
    model_id: str | None = None
    traces: int = 0
    label: str = ""
    report: Path | None = None


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


Explain = Callable[["EvaluatedModel", "list[Prompt]", "list[Judged]", EvaluateConfig, "Run"], None]
"""Adds to the run of an evaluation while it is open, e.g. an attribution of its refusals."""

RESPONSES = "responses.json"
"""Artifact that holds every prompt, reflection, answer and verdict."""

CONTAMINATION = "tbr.contamination"
"""Tag: which prompts stand in the rows that the model was trained on, where those are known."""

PAGE = "report.html"
"""Artifact that holds the page of an evaluation or comparison, for a browser without a server."""

COMPARISON = "comparison.json"
"""Artifact that holds the differences between models."""


def run(config: EvaluateConfig, explain: Explain | None = None) -> EvaluateResult:
    """Evaluate one model on a suite; ``explain`` may add to the run while it is open."""
    from tbr_lightning.evaluation import general, suites
    from tbr_lightning.evaluation.hosted import HostedModel
    from tbr_lightning.evaluation.respond import (
        evaluation_key,
        load_model,
        token_limit,
        with_mitigation,
    )
    from tbr_lightning.evaluation.verdicts import check_judges
    from tbr_lightning.models.precision import name_of
    from tbr_lightning.tracking.store import connect

    prompts = suites.load_suite(config.suite)
    questions = general.prepare(config.suite)
    check_judges([prompt.kind for prompt in prompts], config.judge, config.second_judge)
    connect(config.tracking)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    (model,) = config.models
    wanted = config.generation
    subject = load_model(model, config.paths, config.endpoint, wanted.arm, wanted.dtype)
    subject = with_mitigation(subject, config)
    if config.attribution:
        subject.backbone  # noqa: B018 - says at once that an endpoint has none
    if isinstance(subject.model, HostedModel):
        if questions:
            print(
                f"{subject.name} is behind an endpoint, which gives no scores of tokens: "
                f"suite.lm_eval=[{','.join(config.suite.lm_eval)}] is not measured",
                file=sys.stderr,
            )
        questions = []
    elif not subject.model.has_own_template:
        print(
            f"the tokenizer of {subject.name} has no chat template: '### User:' and "
            "'### Assistant:' before each turn are used",
            file=sys.stderr,
        )
    digest = suites.digest(prompts)
    limit = token_limit(subject.model.think_format, config.generation)
    hosted = isinstance(subject.model, HostedModel)
    dtype = "float32" if hosted else name_of(subject.backbone.model.dtype)
    mitigation = _mitigation_identity(config)
    key = evaluation_key(digest, config.judge, wanted, limit, mitigation, dtype=dtype)
    if config.repeats > 1:
        key += f"-{config.repeats}"
    asked = _all_that_is_asked(config, subject, prompts, questions, key)
    if config.reuse and (found := _earlier(config, subject, asked)) is not None:
        return found
    if config.mitigated:
        subject = replace(subject, model=config.mitigation.apply(subject.backbone, config))
        if questions and subject.backbone.guide is not None:
            print(
                f"mitigation={config.mitigation.name} takes part in decoding, and answers of "
                f"suite.lm_eval=[{','.join(config.suite.lm_eval)}] are scored, not decoded: they "
                "are not measured",
                file=sys.stderr,
            )
            questions = []
    tags = {
        "tbr.subject": subject.name,
        "tbr.suite": config.suite.name,
        "tbr.half": config.suite.half,
        "tbr.suite_digest": digest,
        "tbr.evaluation_key": key,
        ASKED: asked,
        "tbr.arm": config.generation.arm,
        **config.tags,
    }
    if not hosted:
        tags["tbr.dtype"] = dtype
    if config.mitigated:
        tags["tbr.mitigation"] = config.mitigation.name
    if subject.logged is not None:
        tags["tbr.trained_by"] = subject.logged.run_id
    return _evaluate(config, subject, prompts, questions, tags=tags, limit=limit, explain=explain)


def _mitigation_identity(config: EvaluateConfig) -> str:
    """Return what tells a mitigation from others: its settings, and the prompts it is found on."""
    if not config.mitigated:
        return ""
    from tbr_lightning.data.cache import content_key
    from tbr_lightning.evaluation import suites

    identity: str = config.mitigation.identity
    if not config.mitigation.uses_dev:
        return identity
    found_on = suites.load_suite(replace(config.suite, half="dev"))
    return content_key(identity, suites.digest(found_on))


ASKED = "tbr.asked"
"""Tag: the hash of all that an evaluation was asked for, and of the files that it is of."""


def _all_that_is_asked(
    config: EvaluateConfig,
    subject: EvaluatedModel,
    prompts: list[Prompt],
    questions: list[Question],
    key: str,
) -> str:
    """Return the hash by which an earlier evaluation leaves what this one would leave."""
    from importlib.metadata import version

    from tbr_lightning.data.cache import content_key
    from tbr_lightning.evaluation.judge import identity

    explained = {k: v for k, v in asdict(config).items() if k.startswith("attribution")}
    return content_key(
        key,
        subject.digest,
        [(prompt.id, prompt.benchmark, prompt.category) for prompt in prompts],
        [version("lm_eval"), [question.id for question in questions]],
        identity(config.second_judge) if config.second_judge else None,
        explained if config.attribution else None,
    )


def _earlier(config: EvaluateConfig, subject: EvaluatedModel, asked: str) -> EvaluateResult | None:
    """Return the stored evaluation of a logged model; files in a folder may have changed since."""
    from tbr_lightning.evaluation.results import from_table
    from tbr_lightning.tracking.run import Run, find_run

    if subject.logged is None:
        return None
    tags = {"tbr.stage": "evaluate", "tbr.subject": subject.name, ASKED: asked}
    run_id = find_run(tags)
    if run_id is None:
        return None
    run = Run(run_id)
    rows = from_table(run.text(RESPONSES))
    if told := run.tags().get(CONTAMINATION):
        print(f"evaluate: {told}", file=sys.stderr)
    # An earlier version left no page.
    page = run.place(PAGE) if run.has(PAGE) else _log_page(run, config, subject, rows, told or "")
    return EvaluateResult(
        run_id, rows, subject.name, subject.model_id, label=subject.label, report=page
    )


def _evaluate(
    config: EvaluateConfig,
    subject: EvaluatedModel,
    prompts: list[Prompt],
    questions: list[Question],
    *,
    tags: dict[str, str],
    limit: int,
    explain: Explain | None,
) -> EvaluateResult:
    from tbr_lightning.evaluation import (
        contamination,
        figures,
        general,
        report,
        suites,
        table_export,
        traces,
    )
    from tbr_lightning.evaluation.agreement import judges_agree
    from tbr_lightning.evaluation.attestation import attest
    from tbr_lightning.evaluation.respond import open_store, respond
    from tbr_lightning.evaluation.results import metrics, rates, table_rows
    from tbr_lightning.tracking.run import Run, start_run

    name = config.run_name or f"evaluate {subject.label} {config.suite.name}/{config.suite.half}"
    model_id = subject.model_id
    traced, told = 0, ""
    with start_run("evaluate", name, config, config.tracking, tags) as opened:
        opened.log_dataset(
            [{"id": p.id, "kind": p.kind, "prompt": p.conversation} for p in prompts],
            f"{config.suite.name}-{config.suite.half}",
            "evaluation",
        )
        opened.log_table(suites.facts(config.suite, prompts), "suite.json")
        if subject.logged and (seen := contamination.of_run(Run(subject.logged.run_id), prompts)):
            opened.log_metrics(contamination.metrics(seen))
            told = contamination.sentence(seen)
            opened.set_tags({CONTAMINATION: told})
            print(f"evaluate: {told}", file=sys.stderr)
        rows: list[Judged] = []
        stored = open_store(subject, config.generation, config.paths)
        start = time.monotonic()
        for repeat in range(config.repeats):
            what = name if config.repeats == 1 else f"{name}, {repeat + 1} of {config.repeats}"
            once = respond(
                subject.model,
                prompts,
                config.judge,
                replace(config.generation, seed=config.generation.seed + repeat),
                what,
                second_judge=config.second_judge,
                store=stored,
            )
            rows += [replace(row, repeat=repeat) for row in once]
        if stored is not None:
            opened.log_metrics({"responses_reused": stored.reused})
        if stored is None or not stored.reused:  # else it is no measure of the model
            opened.log_metrics({"answer_seconds": time.monotonic() - start})
        opened.log_table(table_rows(rows), RESPONSES)
        opened.log_metrics(metrics(rows), model_id)
        if config.second_judge is not None:
            opened.log_metrics(judges_agree(rows).metrics("judges"), model_id)
        if questions:
            general.log(
                opened,
                subject.backbone,
                config.suite,
                questions,
                config.generation.batch_size,
                model_id=model_id,
            )
        if subject.logged is not None:
            files = (RESPONSES, general.CHOICES)
            attest(opened, subject.logged.model_id, subject.digest, files, config.paths)
        overall = rates(rows)
        source = _source(config)
        opened.log_figure(
            figures.two_sided_figure({subject.label: [overall]}, subject.label, source=source),
            "two_sided.png",
        )
        _log_figures(opened, {subject.label: rows}, subject.label, source)
        table = report.lines({subject.label: rows})
        opened.describe(f"{table_export.markdown(table)}\n\n{report.caveats(table)}".strip())
        kept = _log_page(opened, config, subject, rows, told)
        if explain is not None:
            explain(subject, prompts, rows, config, opened)
        _check_limits(rows, config, limit, opened)
        if config.traces:
            picked = traces.chosen([rows], config.traces)
            traced = traces.trace_responses(
                rows, picked, run_id=opened.id, model_id=model_id, judge=config.judge.name
            )
    return EvaluateResult(
        opened.id, rows, subject.name, model_id, traced, label=subject.label, report=kept
    )


def _log_page(
    run: Run, config: EvaluateConfig, subject: EvaluatedModel, rows: Sequence[Judged], told: str
) -> Path | None:
    """Log the page of one model's evaluation; return where it lies on this machine."""
    from tbr_lightning.evaluation import pages, report
    from tbr_lightning.reports.page import render

    facts = _facts(config, rows, {"model": subject.name, "run": run.id})
    notes = (told, report.caveats(report.lines({subject.label: rows})))
    return run.log_page(render(pages.evaluation_page(subject.label, rows, facts, notes)), PAGE)


def _source(config: EvaluateConfig) -> str:
    return f"suite {config.suite.name}, {config.suite.half} half, judge {config.judge.name}"


def _facts(
    config: EvaluateConfig, rows: Sequence[Judged], more: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return where an evaluation's numbers come from, for its page."""
    from tbr_lightning.evaluation import pages
    from tbr_lightning.evaluation.judge import identity

    return [
        ("suite", _source(config)),
        ("prompts", pages.benchmarks_of(rows)),
        ("judge", identity(config.judge)),
        ("answers to a prompt", str(config.repeats)),
        *more.items(),
    ]


def _check_limits(rows: list[Judged], config: EvaluateConfig, limit: int, run: Run) -> None:
    """Refuse an evaluation of which too little has a label.

    Raises:
        UserError: It is more than ``judge.max_unparsed`` or ``judge.max_errors`` allow.
    """
    from tbr_lightning.evaluation.results import rates, worst_part

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


def _log_figures(run: Run, models: dict[str, list[Judged]], title: str, source: str) -> None:
    from tbr_lightning.evaluation import figures

    dots = figures.category_figure(models, title, source)
    if dots is not None:
        run.log_figure(dots, "categories.png")
    run.log_figure(figures.reflection_figure(models, title, source), "reflections.png")


def compare(config: EvaluateConfig, explain: Explain | None = None) -> ComparisonResult:
    """Evaluate several models, each in a run of its own below one that compares them."""
    from tbr_lightning.evaluation import (
        comparison,
        figures,
        pages,
        report,
        suites,
        table_export,
        traces,
    )
    from tbr_lightning.evaluation.results import rates
    from tbr_lightning.reports.page import render
    from tbr_lightning.tracking.run import start_run
    from tbr_lightning.tracking.store import connect

    digest = suites.digest(suites.load_suite(config.suite))
    connect(config.tracking)
    title = f"{config.suite.name}, {config.suite.half} half"
    name = config.run_name or f"compare {len(config.models)} models, {title}"
    tags = {
        "tbr.comparison": str(len(config.models)),
        "tbr.suite": config.suite.name,
        "tbr.half": config.suite.half,
        "tbr.suite_digest": digest,
        **config.tags,
    }
    traced = 0
    with start_run("evaluate", name, config, config.tracking, tags) as opened:
        # Traces come last, once it is known which prompts any of the models gets wrong.
        done = {
            model: run(replace(config, model_uri=model, run_name=None, traces=0), explain)
            for model in config.models
        }
        rows = {model: one.rows for model, one in done.items()}
        differences = comparison.compare(rows)
        if differences:
            opened.log_table([comparison.as_row(one) for one in differences], COMPARISON)
        opened.log_metrics(comparison.metrics(differences, config.models))
        called = labels(done)
        named = {called[model]: one for model, one in rows.items()}
        shown = [
            replace(one, model=called[one.model], against=called[one.against])
            for one in differences
        ]
        sides = {model: [rates(one)] for model, one in named.items()}
        versus, source = " and ".join(named), _source(config)
        opened.log_figure(figures.two_sided_figure(sides, versus, source=source), "two_sided.png")
        _log_figures(opened, named, versus, source)
        table = report.lines(named, shown)
        for form in ("md", "latex", "csv"):
            opened.log_text(table_export.pasted(table, form) + "\n", f"table.{form}")
        opened.describe(table_export.markdown(table))
        more = {called[model]: f"{one.subject}, run {one.run_id}" for model, one in done.items()}
        facts = _facts(config, rows[config.models[0]], {**more, "run": opened.id})
        kept = opened.log_page(render(pages.comparison_page(named, shown, facts)), PAGE)
        if config.traces:
            picked = traces.chosen(rows.values(), config.traces)
            for one in done.values():
                traced += traces.trace_responses(
                    one.rows,
                    picked,
                    run_id=one.run_id,
                    model_id=one.model_id,
                    judge=config.judge.name,
                )
    return ComparisonResult(opened.id, done, differences, traced, kept)


def labels(models: Mapping[str, EvaluateResult]) -> dict[str, str]:
    """Return what people call each model; where two would be the same, with what tells them apart.

    Args:
        models: Evaluations by the name that was given.
    """
    from tbr_lightning.evaluation import report

    called = {name: one.label or name for name, one in models.items()}
    short = report.short_names(list(models))
    shared = {label for label in called.values() if list(called.values()).count(label) > 1}
    return {
        name: f"{label} ({short[name]})" if label in shared else label
        for name, label in called.items()
    }
