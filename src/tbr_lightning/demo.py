"""The verb ``demo``: the whole loop in a miniature world, through the ordinary verbs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tbr_lightning import cli
from tbr_lightning.config.verbs import DemoVerbConfig

if TYPE_CHECKING:
    from tbr_lightning.demonstration.arms import Outcome
    from tbr_lightning.promote import PromoteResult


def command(config: DemoVerbConfig) -> int:
    """Run every arm, gate, and show the outcome. A missed target is stated, not an error."""
    from rich.console import Console

    from tbr_lightning.demonstration import show
    from tbr_lightning.demonstration.arms import outcomes, plan
    from tbr_lightning.evaluation.report import two_sided_figure
    from tbr_lightning.evaluation.results import metrics, rates
    from tbr_lightning.tracking import runs

    console, demo = Console(), config.demo
    console.print(
        "Think-Before-Refusal in a miniature world: a small made-up language, a tiny model of "
        "it,\nand held-out requests. It shows the mechanism, not what real models do.\n"
    )
    with runs.start_run("demo", "demo", config, config.tracking) as opened:
        done: dict[str, list[Outcome]] = {}
        steps = len(plan(config))
        for number, one in enumerate(outcomes(config), start=1):
            done.setdefault(one.arm, []).append(one)
            found = rates(one.rows)
            seed = f" seed {one.seed}" if one.seed is not None else ""
            console.print(
                f"[{number}/{steps}] {one.arm}{seed}: false refusal "
                f"{100 * found.false_refusal.value:.1f}%, harmful compliance "
                f"{100 * found.harmful_compliance.value:.1f}%, general accuracy "
                f"{100 * found.general_accuracy.value:.1f}%",
                highlight=False,
                markup=False,
            )
        verdicts = _gate(config, done)
        console.print()
        console.print(show.examples(done))
        console.print(show.arm_table(done, demo.arms))
        figure = two_sided_figure(
            {name: [rates(one.rows) for one in many] for name, many in done.items()},
            "Micro-world, test prompts (a made miniature)",
        )
        figure.savefig(demo.figure)
        runs.log_figure(figure, "demo.png")
        for name, many in done.items():
            for key in ("false_refusal_rate", "harmful_compliance_rate", "general_accuracy"):
                values = [metrics(one.rows)[key] for one in many]
                runs.log_metrics({f"{name}/{key}": sum(values) / len(values)})
        targets = show.claim(done, demo.baseline, demo.candidate)
        runs.log_text("\n".join([*targets, *verdicts]) + "\n", "summary.txt")
    for line in (*targets, "", *verdicts):
        console.print(line, highlight=False, markup=False)
    console.print(
        f"\nFigure: {demo.figure} (also in MLflow, run {opened.id}). Next:\n"
        "  make ui                                     every run, answer and model in MLflow\n"
        f"  {_python()} -m tbr_lightning.promote status      who is champion, and why\n"
        f"  {_python()} -m tbr_lightning.serve               talk to the champion over HTTP",
        highlight=False,
        markup=False,
    )
    return 0


def _gate(config: DemoVerbConfig, done: dict[str, list[Outcome]]) -> list[str]:
    """Crown the control, gate the candidate against it, then an unsafe model; return the words."""
    demo = config.demo
    lines = []
    for arm, baseline in ((demo.baseline, True), (demo.candidate, False), (demo.unsafe, False)):
        result = _promote(config, done[arm][0].model_uri or "", baseline=baseline)
        against = f" against v{result.champion}" if result.champion else ""
        lines.append(f"gate: {arm} (v{result.version}){against}: {result.verdict.sentence}")
    return lines


def _promote(config: DemoVerbConfig, model_uri: str, *, baseline: bool) -> PromoteResult:
    from tbr_lightning import promote
    from tbr_lightning.config.compose import compose_verb

    overrides = [f"model='{model_uri}'", f"name={config.demo.name}", f"baseline={baseline}"]
    settings = compose_verb("promote", [*overrides, *config.demo.evaluate]).config
    return promote.run(replace(settings, tracking=config.tracking, paths=config.paths))


def _python() -> str:
    return ".venv/bin/python" if Path(".venv/bin/python").exists() else "python"


if __name__ == "__main__":
    sys.exit(cli.main("demo"))
