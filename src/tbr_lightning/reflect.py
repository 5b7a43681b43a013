"""The command ``reflect``: a checked rationale for every row that should have one."""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.verbs import ReflectConfig


def command(config: ReflectConfig) -> int:
    """Run and print the summary."""
    from tbr_lightning.reflection import pipeline

    result = pipeline.run(config)
    print(pipeline.summary(result.collected.counts(config.reflection), result.seconds))
    print(f"run {result.run_id}; train on them with reflection={config.reflection.teacher}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("reflect"))
