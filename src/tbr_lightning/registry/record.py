"""What a decision leaves in MLflow: on the promotion's run, and on the version."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tbr_lightning.config.verbs import PromoteConfig
from tbr_lightning.evaluation import figures, findings
from tbr_lightning.evaluation.judges.loading import identity
from tbr_lightning.evaluation.results import rates
from tbr_lightning.models.logged import LoggedModel, called
from tbr_lightning.registry import aliases
from tbr_lightning.registry.evidence import Evidence, Exam
from tbr_lightning.registry.gate import Decision
from tbr_lightning.registry.sample_size import check_support
from tbr_lightning.reports import names as naming
from tbr_lightning.reports.plane import Region
from tbr_lightning.tracking.run import Run


@dataclass(frozen=True)
class DecisionInputs:
    """The subject of a decision.

    Attributes:
        version: The candidate's version.
        ours: The candidate's evaluation.
        champion: The champion's version, or ``None``.
        theirs: The champion's evaluation, or ``None``.
        digest: Digest of the candidate's artifacts.
    """

    version: str
    ours: Evidence
    champion: str | None
    theirs: Evidence | None
    digest: str

    @cached_property
    def sides(self) -> dict[str, Evidence]:
        """Both evaluations by name and role, the champion's first, to which the other is compared.

        The names ask MLflow.
        """
        roles = [(f"candidate v{self.version}", self.ours)]
        if self.theirs is not None:
            roles.insert(0, (f"champion v{self.champion}", self.theirs))
        return {naming.with_role(role, called(one.model)): one for role, one in roles}

    @property
    def evidence(self) -> list[str]:
        """IDs of the evaluations' runs."""
        return [one.run_id for one in (self.ours, self.theirs) if one is not None]


def log_verdict(
    run: Run, exam: Exam, case: DecisionInputs, verdict: Decision, *, attempt: int, region: Region
) -> None:
    """Log the decision on the run, and every fact it rests on as tags of the version.

    Args:
        run: Run of the promotion.
        exam: Prompts and settings of both evaluations.
        case: Subject of the decision.
        verdict: The decision.
        attempt: 1, or more if another promotion was faster.
        region: Region that the gate accepts, for the figure.
    """
    config, suffix = exam.config, "" if attempt == 1 else f"_{attempt}"
    sides = {name: [rates(one.rows)] for name, one in case.sides.items()}
    run.log_used_models([one.model.model_id for one in case.sides.values()])
    table = [
        {
            "rule": rule.name,
            "passed": rule.passed,
            "because": rule.because,
            "value": rule.value,
            "bound": rule.bound,
            "limit": rule.limit,
            "n": rule.n,
            "chance": rule.chance,
        }
        for rule in verdict.rules
    ]
    run.log_table(table, f"verdict{suffix}.json")
    told = check_support(exam.sizes, config.gate, paired=case.theirs is not None)
    run.log_text(told + "\n", f"power{suffix}.txt")
    figure = figures.two_sided_figure(
        sides,
        finding(case, verdict),
        region=region,
        source=findings.asked_of(config.suite, config.judge, case.ours.rows),
    )
    run.log_figure(figure, f"gate{suffix}.png")
    run.describe(markdown(config, case, verdict))
    facts = _facts(run.id, exam, case, verdict)
    decided = "promoted" if verdict.promoted else "refused"
    run.set_tags(
        {
            **facts,
            "mlflow.runName": f"{decided} v{case.version}: {called(case.ours.model)}",
            "tbr.candidate": case.version,
            "tbr.verdict": verdict.sentence[:4900],
            "tbr.promoted": str(verdict.promoted).lower(),
        }
    )
    aliases.tag_version(config.name, case.version, facts)


def finding(case: DecisionInputs, verdict: Decision) -> str:
    """Return the verdict with how the candidate differs from the champion."""
    word = "Promoted" if verdict.promoted else "Not promoted"
    if case.theirs is None:
        (name,) = case.sides
        return f"{word}: {findings.single(name, case.ours.rows)}"
    short, _ = naming.shared(map(naming.without_role, case.sides))
    champion, candidate = (naming.without_role(name) for name in case.sides)
    if champion == candidate:
        short = {}
    changes = findings.of_pair(case.theirs.rows, case.ours.rows)
    told = findings.pair(
        short.get(champion, f"v{case.champion}"), short.get(candidate, f"v{case.version}"), changes
    )
    return f"{word}: {told[0].lower() if short else told[0]}{told[1:]}"


def markdown(config: PromoteConfig, case: DecisionInputs, verdict: Decision) -> str:
    """Return the decision as the run's page shows it."""
    against = f"champion v{case.champion}" if case.champion else "no champion"
    title = "promoted" if verdict.promoted else "not promoted"
    head = "| rule | outcome | value | bound | limit | n |\n|---|---|---:|---:|---:|---:|\n"
    lines = [
        f"| {rule.name} | {'passed' if rule.passed else '**FAILED**'} | {100 * rule.value:.1f} "
        f"| {100 * rule.bound:.1f} | {100 * rule.limit:.1f} | {rule.n} |"
        for rule in verdict.rules
    ]
    return (
        f"**{config.name} v{case.version} against {against}: {title}**\n\n"
        + "\n".join(f"- {line}" for line in verdict.failures)
        + f"\n\n{head}"
        + "\n".join(lines)
        + f"\n\nPercent and points; one-sided score bounds at {100 * (1 - config.gate.alpha):g}%. "
        f"Evaluations: {', '.join(f'`{one}`' for one in case.evidence)}.\n"
    )


def _facts(run_id: str, exam: Exam, case: DecisionInputs, verdict: Decision) -> dict[str, str]:
    config = exam.config
    facts = {
        "tbr.promote_run": run_id,
        "tbr.suite": f"{config.suite.name}/{config.suite.half}",
        "tbr.suite_digest": exam.digest,
        "tbr.judge": identity(config.judge),
        "tbr.gate": config.gate.name,
        "tbr.gate.alpha": str(config.gate.alpha),
        "tbr.evaluation_run": case.ours.run_id,
        "tbr.champion_before": case.champion or "",
        "tbr.champion_evaluation_run": case.theirs.run_id if case.theirs else "",
        "tbr.artifacts_digest": case.digest,
        **lineage(case.ours.model),
    }
    for rule in verdict.rules:
        facts[f"tbr.gate.{rule.name}"] = (
            f"{'passed' if rule.passed else 'failed'} value={rule.value:.5f} "
            f"bound={rule.bound:.5f} limit={rule.limit:g} n={rule.n}"
        )
    return facts


def lineage(model: LoggedModel) -> dict[str, str]:
    """Return where a model comes from: training run, reflection runs, data sets with digests."""
    facts = {
        "tbr.trained_by": model.run_id or "",
        "tbr.reflection_runs": model.tags.get("tbr.reflection_runs", ""),
    }
    try:
        used = MlflowClient().get_run(model.run_id).inputs.dataset_inputs
    except MlflowException:  # a model that was logged outside a run
        return facts
    named = {f"{one.dataset.name} {one.dataset.digest}" for one in used}
    return facts | {"tbr.datasets": ", ".join(sorted(named))}
