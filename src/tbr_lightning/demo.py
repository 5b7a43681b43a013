"""The command ``demo``: the whole loop in a miniature world, through the ordinary stages."""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.verbs import DemoVerbConfig


def command(config: DemoVerbConfig) -> int:
    """Run every arm, gate, and show the outcome. A missed target is stated, not an error."""
    from tbr_lightning.demonstration import pipeline

    pipeline.run(config)
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("demo"))
