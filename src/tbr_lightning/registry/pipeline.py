"""From a candidate and the champion to a decision in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tbr_lightning.config.verbs import PromoteConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.models.logged import LoggedModel
    from tbr_lightning.registry.alias_sync import Standing
    from tbr_lightning.registry.entry import Entry
    from tbr_lightning.registry.evidence import Evidence, Exam
    from tbr_lightning.registry.gate import Decision
    from tbr_lightning.registry.record import DecisionInputs


@dataclass(frozen=True)
class PromoteResult:
    """The result of a promotion.

    Attributes:
        run_id: ID of the MLflow run.
        version: The candidate's version in the registry.
        champion: The champion it met, or ``None`` if there was none.
        verdict: The gate's decision.
        entry: Entry of the decision in the ledger.
        report: Local path of its page; ``None`` if the page is in MLflow alone.
    """

    run_id: str
    version: str
    champion: str | None
    verdict: Decision
    entry: Entry
    report: Path | None = None


def run(config: PromoteConfig, tell: Callable[[str], None] = lambda _: None) -> PromoteResult:
    """Gate a candidate; the aliases move only if it passes.

    If another process changes the champion meanwhile, the candidate is compared with the new one.

    Args:
        config: Config of the command.
        tell: Receives what the suite can show, before anything is generated, and what other
            processes did meanwhile.

    Raises:
        UserError: There is no such model, the suite cannot support the gate, the ledger is not
            intact, or an alias was moved outside.
    """
    if not config.model_uri:
        raise UserError("model is not set: give the candidate, e.g. model=models:/m-…")
    if config.suite.half != "test":
        raise UserError(f"suite.half={config.suite.half}: the gate reads the test half only")
    from tbr_lightning.evaluation import pages
    from tbr_lightning.evaluation.external_models import logged_model
    from tbr_lightning.models.digest import check_unchanged
    from tbr_lightning.models.logged import called
    from tbr_lightning.registry import alias_moves, aliases, gate, page, record
    from tbr_lightning.registry.alias_sync import Standing, open_registry, recover
    from tbr_lightning.registry.entry import weights_of
    from tbr_lightning.registry.evidence import exam_of
    from tbr_lightning.registry.ledger import ConflictError
    from tbr_lightning.reports.page import FILE, render
    from tbr_lightning.tracking.open_run import start_run

    exam = exam_of(config)
    registry = open_registry(config.name, config.tracking, config.paths)
    candidate = logged_model(config.model_uri, config, config.tracking, config.paths)
    digest = check_unchanged(candidate)
    standing = recover(registry) if aliases.registered(config.name) else Standing((), {})
    standing.refuse_drift()
    tell(_check_start(exam, candidate, aliases.known_version(config.name, candidate), standing))
    version = alias_moves.register(registry, candidate)
    standing = recover(registry)
    standing.refuse_drift()  # a ledger of a registered model that was deleted, say
    alias_moves.check_weights(standing, version, digest)
    title, attempt = f"promote {called(candidate)}", 0
    with start_run("promote", title, config, config.tracking) as opened:
        while True:
            attempt += 1
            case = _case(exam, candidate, version, digest, standing)
            verdict = gate.judge(
                case.ours.answers, case.theirs.answers if case.theirs else None, config.gate
            )
            for name, rows in page.answers(case).items():
                tell(pages.verdict(name, rows))
            theirs = case.theirs.rows if case.theirs else None
            region = page.accepted(config.gate, theirs)
            record.log_verdict(opened, exam, case, verdict, attempt=attempt, region=region)
            report = opened.log_page(
                render(page.decision_page(opened.id, exam, case, verdict)), FILE
            )
            draft = alias_moves.decision(
                standing,
                _action(config, verdict),
                version,
                why=verdict.sentence + (f"; {config.reason}" if config.reason else ""),
                evidence=[opened.id, *case.evidence],
                weights=weights_of(version, digest, candidate.model_id),
            )
            try:
                entry = alias_moves.commit(registry, draft, standing)
                break
            except ConflictError:
                before, standing = standing, recover(registry)
                standing.refuse_drift()
                tell(_meanwhile(standing, before))
                _check_start(exam, candidate, version, standing)
    return PromoteResult(opened.id, version, case.champion, verdict, entry, report)


def _action(config: PromoteConfig, verdict: Decision) -> str:
    if not verdict.promoted:
        return "refuse"
    return "baseline" if config.baseline else "promote"


def _champion(config: PromoteConfig, standing: Standing) -> str | None:
    from tbr_lightning.registry.aliases import CHAMPION

    return None if config.baseline else standing.aliases.get(CHAMPION)


def _check_start(
    exam: Exam, candidate: LoggedModel, version: str | None, standing: Standing
) -> str:
    """Return what the suite can show, and refuse at once what must fail in the end."""
    from tbr_lightning.registry import aliases
    from tbr_lightning.registry.evidence import check_same_limit
    from tbr_lightning.registry.sample_size import check_support, no_room
    from tbr_lightning.registry.version_rates import rates_of, refusals_on

    config = exam.config
    champion = _champion(config, standing)
    holder = standing.aliases.get(aliases.CHAMPION)
    if holder is not None and holder == version and not (config.baseline and config.reason):
        raise UserError(
            f"model='{config.model_uri}' is the champion already (version {version}): "
            "'promote history' shows that decision; there is nothing to do"
        )
    if config.baseline and holder is not None and not config.reason:
        raise UserError(
            f"reason is not set: baseline=true replaces champion v{holder} "
            f"({rates_of(holder, standing.entries)}) without a comparison, so give a reason, as in "
            "reason='another base model'"
        )
    if champion is None and config.champion_evaluation is not None:
        raise UserError("there is no champion to compare with: leave champion_evaluation out")
    if champion is not None:
        check_same_limit(exam, [candidate, aliases.model_of(config.name, champion)])
    told = [check_support(exam.sizes, config.gate, paired=champion is not None)]
    if (
        champion is not None
        and (counts := refusals_on(exam.digest, champion, standing.entries)) is not None
    ):
        told.append(no_room(*counts, config.gate) or "")
    return "\n".join(filter(None, told))


def _case(
    exam: Exam, candidate: LoggedModel, version: str, digest: str, standing: Standing
) -> DecisionInputs:
    from tbr_lightning.registry import aliases
    from tbr_lightning.registry.entry import weights_after
    from tbr_lightning.registry.evidence import evidence_for
    from tbr_lightning.registry.record import DecisionInputs

    config = exam.config
    champion = _champion(config, standing)
    theirs: Evidence | None = None
    ours = evidence_for(exam, candidate, config.candidate_evaluation, "candidate", expected=digest)
    if champion is not None:
        model = aliases.model_of(config.name, champion)
        known = weights_after(standing.entries).get(champion)
        theirs = evidence_for(exam, model, config.champion_evaluation, "champion", expected=known)
    return DecisionInputs(version, ours, champion, theirs, digest)


def _meanwhile(now: Standing, before: Standing) -> str:
    """Return in words what another process has done."""
    from tbr_lightning.registry.aliases import CHAMPION

    champion = now.aliases.get(CHAMPION)
    if champion != before.aliases.get(CHAMPION):
        return f"another promotion made version {champion} champion meanwhile: comparing with it"
    return (
        "another promotion finished in the meantime; the champion is unchanged, so the gate runs "
        "again"
    )
