"""The verb ``promote``: gate a candidate against the champion, and move the aliases."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tbr_lightning import cli
from tbr_lightning.config.verbs import EvaluateConfig, PromoteConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.evaluation.results import Judged
    from tbr_lightning.registry.gate import Verdict

REFUSED = 3


@dataclass(frozen=True)
class PromoteResult:
    """What a promotion leaves.

    Attributes:
        run_id: MLflow run.
        version: The candidate's version in the registry.
        champion: The champion it met, or ``None`` if there was none.
        verdict: The gate's decision.
    """

    run_id: str
    version: str
    champion: str | None
    verdict: Verdict


def run(config: PromoteConfig) -> PromoteResult:
    """Gate a candidate; the aliases move only if it passes.

    Raises:
        UserError: There is no such model, or the suite cannot support the gate.
    """
    if not config.model_uri:
        raise UserError("model is not set: give the candidate, e.g. model=models:/m-…")
    if config.suite.half != "test":
        raise UserError(f"suite.half={config.suite.half}: the gate reads the test half only")
    from tbr_lightning.evaluation import figures
    from tbr_lightning.evaluation.results import rates
    from tbr_lightning.registry import aliases, gate
    from tbr_lightning.tracking import runs
    from tbr_lightning.tracking.models import find_model
    from tbr_lightning.tracking.store import connect

    connect(config.tracking)
    candidate = find_model(config.model_uri)
    with runs.start_run(
        "promote", f"promote {candidate.model_id}", config, config.tracking
    ) as opened:
        ours = _evaluation(config, candidate.uri)
        version = aliases.version_of(config.name, candidate)
        before = aliases.holder(config.name, aliases.CHAMPION)
        theirs = None
        if config.baseline:
            before = None
        elif before is not None and before != version:
            theirs = _evaluation(config, f"models:/{config.name}/{before}")
        elif before == version:
            raise UserError(
                f"model='{config.model_uri}' is the champion already (version {version})"
            )
        verdict = gate.judge(ours, theirs, config.gate)
        aliases.move(config.name, aliases.CHALLENGER, version)
        if verdict.promoted:
            aliases.crown(config.name, version)
        facts = {
            "tbr.verdict": verdict.sentence[:4900],
            "tbr.promoted": str(verdict.promoted).lower(),
            "tbr.promote_run": opened.id,
            "tbr.trained_by": candidate.run_id,
        }
        aliases.tag_version(config.name, version, facts)
        runs.set_tags({"mlflow.runName": f"promote v{version}"})
        runs.set_tags({**facts, "tbr.candidate": version, "tbr.champion_before": before or ""})
        runs.log_table(
            [{"rule": r.name, "passed": r.passed, "because": r.because} for r in verdict.rules],
            "verdict.json",
        )
        sides = {f"candidate v{version}": [rates(ours)]}
        if theirs is not None:
            sides[f"champion v{before}"] = [rates(theirs)]
        figure = figures.two_sided_figure(sides, f"{config.name}: {config.suite.name}, test half")
        runs.log_figure(figure, "gate.png")
    return PromoteResult(opened.id, version, before, verdict)


def _evaluation(config: PromoteConfig, uri: str) -> list[Judged]:
    """Return the model's evaluation with exactly these prompts, judge and settings.

    It is looked for in the store, and made if there is none.
    """
    from tbr_lightning import evaluate
    from tbr_lightning.evaluation import suites
    from tbr_lightning.evaluation.respond import evaluation_key, load_subject, token_limit
    from tbr_lightning.evaluation.results import from_table
    from tbr_lightning.tracking.models import find_model
    from tbr_lightning.tracking.runs import find_run, load_text

    digest = suites.digest(suites.load_suite(config.suite))
    model = find_model(uri)
    layout = load_subject(model.uri, config.paths).backbone.layout
    key = evaluation_key(
        digest, config.judge, config.generation, token_limit(layout, config.generation)
    )
    found = find_run(
        {"tbr.stage": "evaluate", "tbr.subject": model.model_id, "tbr.evaluation_key": key}
    )
    if found is not None:
        return from_table(load_text(found, evaluate.RESPONSES))
    return evaluate.run(
        EvaluateConfig(
            model_uri=model.uri,
            suite=config.suite,
            judge=config.judge,
            generation=config.generation,
            tracking=config.tracking,
            paths=config.paths,
            threads=config.threads,
            traces=0,
        )
    ).rows


def command(config: PromoteConfig) -> int:
    """Run, print the verdict in words, and return 0 if promoted, 3 if refused."""
    result = run(config)
    against = f"against champion v{result.champion}" if result.champion else "with no champion yet"
    word = "promoted" if result.verdict.promoted else "not promoted"
    print(f"{config.name} v{result.version} {against}: {word}")
    print("\n".join(f"  {line}" for line in result.verdict.lines))
    print(f"run {result.run_id}")
    return 0 if result.verdict.promoted else REFUSED


def command_status(config: PromoteConfig) -> int:
    """Print every version with its aliases and the gate's last word on it."""
    from rich.console import Console
    from rich.table import Table

    from tbr_lightning.registry.aliases import versions
    from tbr_lightning.tracking.store import connect

    connect(config.tracking)
    rows = versions(config.name)
    if not rows:
        raise UserError(f"name='{config.name}' is not registered: promote a model first")
    table = Table("version", "aliases", "model", "verdict", title=config.name)
    for row in rows:
        table.add_row(row["version"], row["aliases"], row["model"], row["verdict"])
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("promote"))
