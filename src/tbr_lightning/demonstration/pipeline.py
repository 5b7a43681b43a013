"""The demonstration: the whole loop in one world, made or real, through the ordinary commands."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tbr_lightning.config.verbs import DemoVerbConfig, PromoteConfig
from tbr_lightning.progress import wrapped

if TYPE_CHECKING:
    from tbr_lightning.demonstration.arms import ArmResult
    from tbr_lightning.registry.pipeline import PromoteResult


def run(config: DemoVerbConfig) -> None:
    """Run every arm, gate, and show the outcome. A missed target is stated, not an error."""
    from rich.console import Console

    from tbr_lightning.demonstration import show
    from tbr_lightning.demonstration.arms import outcomes, plan
    from tbr_lightning.evaluation.figures import two_sided_figure
    from tbr_lightning.evaluation.results import metrics, rates
    from tbr_lightning.registry import aliases
    from tbr_lightning.registry.page import accepted
    from tbr_lightning.tracking.open_run import start_run
    from tbr_lightning.tracking.store import ui_command

    console, demo = Console(), config.demo
    console.print(
        "\n".join([demo.about, "", *show.arm_list(demo), ""]), markup=False, highlight=False
    )
    # Its runs are side by side in the UI, held together by a tag; the summary comes last and so
    # on top.
    tags = {"tbr.demo": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"}
    done: dict[str, list[ArmResult]] = {}
    steps = len(plan(config))
    print(f"{'':38}{'false':>11}{'harmful':>11}{'general':>11}")
    print(f"{'percent':38}{'refusal':>11}{'compliance':>11}{'accuracy':>11}")
    for number, one in enumerate(outcomes(config, tags), start=1):
        done.setdefault(one.arm, []).append(one)
        found = rates(one.rows)
        name = one.arm if one.seed is None else f"{one.arm}, seed {one.seed}"
        shares = (found.false_refusal, found.harmful_compliance, one.general())
        numbers = "".join(f"{100 * share.value:11.1f}" for share in shares)
        print(f"{f'[{number}/{steps}]':8}{name:30}{numbers}", flush=True)
    _trace(done[demo.baseline][0], done[demo.candidate][0])
    verdicts = _gate(config, done)
    crowned = aliases.holder(demo.name, aliases.CHAMPION)
    targets = show.claim(done, demo.baseline, demo.candidate) if demo.targets else []
    called = show.called(done, demo)
    figure = two_sided_figure(
        {called[name]: [rates(one.rows) for one in many] for name, many in done.items()},
        show.finding(done, demo),
        about=demo.title + (f"; means over {demo.seeds} seeds" if demo.seeds > 1 else ""),
        region=accepted(
            _settings(config, "", baseline=False).gate, done[demo.baseline][0].rows, "the control"
        ),
        source=done[demo.candidate][0].asked,
    )
    with start_run("demo", "demo", config, config.tracking, tags) as opened:
        figure.savefig(demo.figure)
        record = show.records(done, demo) | {"gate": verdicts}
        table = Path(demo.figure).with_suffix(".json")
        table.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        opened.log_text(table.read_text(encoding="utf-8"), table.name)
        opened.log_figure(figure, Path(demo.figure).name)
        for name, many in done.items():
            for key in ("false_refusal_rate", "harmful_compliance_rate", "general_accuracy"):
                values = [metrics(one.rows).get(key, one.general().value) for one in many]
                opened.log_metrics({f"{name}/{key}": sum(values) / len(values)})
        opened.log_text("\n".join([*targets, *verdicts]) + "\n", "summary.txt")
        told = "\n".join(f"    {line}" for line in [*targets, *verdicts])
        opened.describe(f"{demo.title}: percent.\n\n{show.markdown(record)}\n{told}\n")
    console.print()
    console.print(show.examples(done))
    console.print(show.arm_table(done, demo))
    lines = [*targets, *([""] if targets else []), *verdicts, "", *show.notices(done)]
    for line in lines:
        console.print("\n".join(wrapped(line, 10)), highlight=False, markup=False)
    python = ".venv/bin/python" if Path(".venv/bin/python").exists() else "python"
    talk = (
        f"  {python} -m tbr_lightning.serve model=models:/{demo.name}@champion\n"
        "    talk to the champion over HTTP"
        if crowned is not None
        else "  nobody was promoted, so that there is no champion to serve"
    )
    looked = ui_command(config.tracking).replace(", then open ", "\n  then open ")
    # Commands and addresses are copied: a line break within would spoil them.
    print(
        f"\nFigure: {demo.figure}; its numbers: {table}; both also in MLflow, run demo. Next:\n"
        f"  {looked}\n    every run, answer and model in MLflow\n"
        f"  {python} -m tbr_lightning.promote status name={demo.name}\n"
        "    who is champion, and why\n"
        f"{talk}",
        flush=True,
    )


def _trace(*arms: ArmResult) -> None:
    """Leave the answers to the printed examples as traces, so that the UI's tab shows some."""
    from tbr_lightning.demonstration.show import example_prompts
    from tbr_lightning.evaluation.traces import trace_responses

    picked = {row.id for row in example_prompts(arms[0].rows)}
    for one in arms:
        model_id = None if one.model_uri is None else one.model_uri.removeprefix("models:/")
        trace_responses(one.rows, picked, run_id=one.run_id, model_id=model_id, judge=one.judge)


def _gate(config: DemoVerbConfig, done: dict[str, list[ArmResult]]) -> list[str]:
    """Crown the control, gate the candidate against it, then an unsafe one; return the messages."""
    demo = config.demo
    lines = []
    for arm, baseline in ((demo.baseline, True), (demo.candidate, False), (demo.unsafe, False)):
        result = _promote(config, done[arm][0].model_uri or "", baseline=baseline)
        against = f" against v{result.champion}" if result.champion else ""
        word = "promoted" if result.verdict.promoted else "not promoted"
        lines.append(f"gate: {arm} (v{result.version}){against}: {word}, {result.verdict.held}")
        lines += [f"  {line}" for line in result.verdict.failures]
    return lines


def _promote(config: DemoVerbConfig, model_uri: str, *, baseline: bool) -> PromoteResult:
    from tbr_lightning.registry import pipeline

    settings = _settings(config, model_uri, baseline=baseline)
    return pipeline.run(replace(settings, tracking=config.tracking, paths=config.paths))


def _settings(config: DemoVerbConfig, model_uri: str, *, baseline: bool) -> PromoteConfig:
    """Return the promotion config for a model."""
    from tbr_lightning.config.compose import compose_verb

    overrides = [f"model='{model_uri}'", f"name={config.demo.name}", f"baseline={baseline}"]
    overrides += [*config.demo.suite, *config.demo.evaluate, *config.demo.gate]
    if baseline:
        # The control refuses nearly every look-alike: that is what it is here to show.
        overrides += ["gate.max_false_refusal=1", "reason='the control of the demo'"]
    settings: PromoteConfig = compose_verb("promote", overrides).config
    return settings
