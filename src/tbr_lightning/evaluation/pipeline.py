"""From models and a suite to judged answers, rates and comparisons."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tbr_lightning.config.verbs import EvaluateConfig
from tbr_lightning.evaluation.evaluation_result import (
    CONTAMINATION,
    LABEL,
    RESPONSES,
    ComparisonResult,
    EvaluateResult,
)
from tbr_lightning.progress import wrapped

if TYPE_CHECKING:
    from tbr_lightning.evaluation.judged_response import Judged
    from tbr_lightning.evaluation.questions import Question
    from tbr_lightning.evaluation.respond import EvaluatedModel
    from tbr_lightning.evaluation.suites import Prompt
    from tbr_lightning.reports.page import Drawn
    from tbr_lightning.tracking.run import Run


Explain = Callable[
    ["EvaluatedModel", "list[Prompt]", "list[Judged]", EvaluateConfig, "Run"], "list[Drawn]"
]
"""Adds to the run of an evaluation while it is open, e.g. an attribution of its refusals.

It returns figures for the evaluation's page.
"""

COMPARISON = "comparison.json"
"""Artifact that holds the differences between models."""


Tell = Callable[[str], None]
"""Takes a notice about an evaluation's numbers."""


def _print(notice: str) -> None:
    print("\n".join(wrapped(f"evaluate: {notice}", 2, sys.stderr)), file=sys.stderr)


def run(
    config: EvaluateConfig,
    explain: Explain | None = None,
    tell: Tell = _print,
    *,
    figures: bool = True,
) -> EvaluateResult:
    """Evaluate one model on a suite.

    Args:
        config: Config of the command.
        explain: May add to the run while it is open.
        tell: Takes what a reader must know of the numbers; by default it is printed.
        figures: Whether to draw; ``mlflow_logging.draw`` does it later.
    """
    from tbr_lightning.evaluation import prompt_logging, suites
    from tbr_lightning.evaluation.comparison_key import (
        cue_of,
        evaluation_key,
        other_settings,
        token_limit,
    )
    from tbr_lightning.evaluation.endpoint_model import HostedModel
    from tbr_lightning.evaluation.questions import prepare
    from tbr_lightning.evaluation.respond import load_model, with_mitigation
    from tbr_lightning.evaluation.verdicts import check_judges
    from tbr_lightning.models.precision import name_of
    from tbr_lightning.tracking.store import connect

    prompts = suites.load_suite(config.suite)
    questions = prepare(config.suite)
    check_judges([prompt.kind for prompt in prompts], config.judge, config.second_judge)
    _check_mitigation(config)
    connect(config.tracking)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    (model,) = config.models
    wanted = config.generation
    subject = load_model(model, config.paths, config.endpoint, wanted.arm, wanted.dtype)
    subject = replace(with_mitigation(subject, config), arm=wanted.arm)
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
    key = evaluation_key(
        digest,
        config.judge,
        wanted,
        limit,
        mitigation,
        dtype=dtype,
        cue=cue_of(subject.model.think_format, wanted),
        repeats=config.repeats,
        others=other_settings(config),
    )
    wanted_key = prompt_logging.key_of(config, subject, prompts, questions, key)
    if config.reuse and (found := _earlier(config, subject, wanted_key, key, limit, tell=tell)):
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
        LABEL: subject.label,
        "tbr.suite": config.suite.name,
        "tbr.half": config.suite.half,
        "tbr.suite_digest": digest,
        "tbr.evaluation_key": key,
        prompt_logging.TAG: wanted_key,
        "tbr.arm": config.generation.arm,
        **config.tags,
    }
    if not hosted:
        tags["tbr.dtype"] = dtype
    if config.mitigated:
        tags["tbr.mitigation"] = config.mitigation.name
    tags |= _made_by(subject)
    return _evaluate(
        config,
        subject,
        prompts,
        questions,
        tags=tags,
        limit=limit,
        explain=explain,
        tell=tell,
        figures=figures,
    )


def _made_by(subject: EvaluatedModel) -> dict[str, str]:
    """Return tags with the training run of a logged model, and the digest of an adapter's base."""
    from tbr_lightning.models.digest import BASE_RECORDED

    if subject.logged is None:
        return {}
    base = subject.logged.tags.get(BASE_RECORDED)
    return {"tbr.trained_by": subject.logged.run_id} | ({BASE_RECORDED: base} if base else {})


def _check_mitigation(config: EvaluateConfig) -> None:
    if config.mitigated:
        config.mitigation.check(config)


def _mitigation_identity(config: EvaluateConfig) -> str:
    """Return the identity of a mitigation: its settings, and the prompts it is found on."""
    if not config.mitigated:
        return ""
    from tbr_lightning.data.cache import content_key
    from tbr_lightning.evaluation import suites

    identity: str = config.mitigation.identity
    if not config.mitigation.uses_dev:
        return identity
    found_on = suites.load_suite(replace(config.suite, half="dev"))
    return content_key(identity, suites.digest(found_on))


def _earlier(
    config: EvaluateConfig, subject: EvaluatedModel, asked: str, key: str, limit: int, *, tell: Tell
) -> EvaluateResult | None:
    """Return the stored evaluation of a logged model; files in a folder may have changed since.

    Raises:
        UserError: Too little of it has a label, by the limits of this config: its own may have
            been wider.
    """
    from tbr_lightning.evaluation import mlflow_logging, prompt_logging
    from tbr_lightning.evaluation.attestation import Subject, attested
    from tbr_lightning.evaluation.judged_response import from_table
    from tbr_lightning.evaluation.label_coverage import check_limits
    from tbr_lightning.reports.page import FILE
    from tbr_lightning.tracking.run import Run
    from tbr_lightning.tracking.search import find_run

    if subject.logged is None:
        return None
    tags = {"tbr.stage": "evaluate", "tbr.subject": subject.name, prompt_logging.TAG: asked}
    run_id = find_run(tags)
    if run_id is None:
        return None
    run = Run(run_id)
    signed = attested(run, Subject(subject.logged.model_id, subject.digest, key), config.paths)
    if signed is None:
        print(
            f"evaluate: run {run_id} is not signed by this machine's key as an evaluation of these "
            f"files, or was changed since: {subject.name} is evaluated anew",
            file=sys.stderr,
        )
        return None
    rows = from_table(signed[RESPONSES])
    check_limits(rows, config, limit, run)
    if told := run.tags().get(CONTAMINATION):
        tell(told)
    # An earlier version left no page.
    page = (
        run.place(FILE)
        if run.has(FILE)
        else mlflow_logging.log_page(run, config, subject.titles, rows, told=told or "")
    )
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
    tell: Tell,
    figures: bool,
) -> EvaluateResult:
    from tbr_lightning.evaluation import (
        contamination,
        general,
        mlflow_logging,
        prompt_logging,
        traces,
    )
    from tbr_lightning.evaluation.agreement import judges_agree
    from tbr_lightning.evaluation.attestation import Subject, attest
    from tbr_lightning.evaluation.comparison_key import seed_of
    from tbr_lightning.evaluation.judged_response import table_rows
    from tbr_lightning.evaluation.label_coverage import check_limits
    from tbr_lightning.evaluation.respond import open_store, respond
    from tbr_lightning.evaluation.results import HEADLINE, metrics
    from tbr_lightning.tracking.open_run import start_run

    name = config.run_name or f"evaluate {subject.label} {config.suite.name}/{config.suite.half}"
    model_id = subject.model_id
    traced, told = 0, ""
    numbers: dict[str, float] = {}
    with start_run("evaluate", name, config, config.tracking, tags) as opened:
        prompt_logging.log(opened, config, prompts)
        if subject.logged is not None:
            shares, told = contamination.log(opened, subject.logged, prompts)
            numbers |= shares
        if told:
            opened.set_tags({CONTAMINATION: told})
            tell(told)
        rows: list[Judged] = []
        stored = open_store(subject, config.generation, config.paths)
        start = time.monotonic()
        for repeat in range(config.repeats):
            what = name if config.repeats == 1 else f"{name}, {repeat + 1} of {config.repeats}"
            once = respond(
                subject.model,
                prompts,
                config.judge,
                replace(config.generation, seed=seed_of(config.generation.seed, repeat)),
                what,
                second_judge=config.second_judge,
                store=stored,
            )
            rows += [replace(row, repeat=repeat) for row in once]
        if stored is not None:
            numbers["responses_reused"] = stored.reused
        if stored is None or not stored.reused:  # else it does not measure the model
            numbers["answer_seconds"] = time.monotonic() - start
        # Wrong answers first: readers look for them.
        wrong_first = sorted(rows, key=lambda row: row.handled_rightly is not False)
        opened.log_table(table_rows(wrong_first), RESPONSES)
        numbers |= metrics(rows)
        if config.second_judge is not None:
            numbers |= judges_agree(rows).metrics("judges")
        opened.log_numbers(numbers, HEADLINE, model_id)
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
            key = tags["tbr.evaluation_key"]
            of = Subject(subject.logged.model_id, subject.digest, key)
            attest(opened, of, config.paths)
        drawn = [] if explain is None else explain(subject, prompts, rows, config, opened)
        kept = mlflow_logging.log_evaluation(
            opened, config, subject, rows, told=told, drawn=drawn, figures=figures
        )
        check_limits(rows, config, limit, opened)
        if config.traces:
            picked = traces.chosen([rows], config.traces)
            traced = traces.trace_responses(
                rows, picked, run_id=opened.id, model_id=model_id, judge=config.judge.name
            )
    return EvaluateResult(
        opened.id,
        rows,
        subject.name,
        model_id,
        traced,
        label=subject.label,
        report=kept,
        figures=drawn,
    )


def compare(config: EvaluateConfig, explain: Explain | None = None) -> ComparisonResult:
    """Evaluate several models, each in a run of its own below one that compares them."""
    from tbr_lightning.evaluation import comparison, contamination, mlflow_logging, suites, traces
    from tbr_lightning.tracking.open_run import start_run
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
        alone = replace(config, run_name=None, traces=0)
        # Before and after: what the first refuses wrongly is asked of the last.
        against = config.attribution_against or config.models[-1]
        done = {
            model: run(
                replace(
                    alone,
                    model_uri=model,
                    attribution_against=against
                    if config.attribution and model != against
                    else None,
                ),
                explain,
            )
            for model in config.models
        }
        rows = {model: one.rows for model, one in done.items()}
        if differ := contamination.different_rows({m: one.model_id for m, one in done.items()}):
            opened.set_tags({"tbr.trained_rows_differ": differ})
            _print(differ)
        differences = comparison.compare(rows)
        if differences:
            opened.log_table([comparison.as_row(one) for one in differences], COMPARISON)
        told = comparison.metrics(differences, config.models)
        opened.log_numbers(told, comparison.headline(told))
        kept = mlflow_logging.log_comparison(opened, config, done, differences)
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
