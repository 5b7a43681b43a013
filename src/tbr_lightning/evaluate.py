"""The command ``evaluate``: what a model refuses that it should not, and what it lets through."""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.verbs import EvaluateConfig


def command(config: EvaluateConfig) -> int:
    """Run, print the table, and print where the rest is."""
    from tbr_lightning.evaluation import pipeline, terminal

    if config.mitigated and config.mitigation.log:
        from tbr_lightning.mitigations.log_mitigated import kept

        config = kept(config)
    explain: pipeline.Explain | None = None
    if config.attribution:
        from tbr_lightning.attribution import report

        explain = report.log
    if len(config.models) > 1:
        terminal.several(config, pipeline.compare(config, explain))
    else:
        terminal.one(config, pipeline.run(config, explain))
    return 0


def command_calibrate(config: EvaluateConfig) -> int:
    """Validate the judge on labels of people, and print its agreement."""
    from tbr_lightning.evaluation import calibration

    result = calibration.run(config)
    calibration.show(result, config)
    return 0


def command_labelled(config: EvaluateConfig) -> int:
    """Write answers that people marked in MLflow as rows for the next training."""
    from tbr_lightning.evaluation import labelled

    labelled.show(labelled.run(config), config)
    return 0


def command_draw(config: EvaluateConfig) -> int:
    """Draw the figures of a stored evaluation, and print where its page is."""
    from tbr_lightning.evaluation import terminal

    terminal.drawn(config)
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("evaluate"))
