"""The command ``sweep``: an Optuna study whose trials are training and evaluation runs.

Run again, the same command finishes what is left of the budget; two at once share it.
"""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.sweep import SweepConfig
from tbr_lightning.errors import UserError


def command(config: SweepConfig) -> int:
    """Run what is left of the study's budget, and end the study."""
    from tbr_lightning.ablation.arena_plan import arena_file

    if (file := arena_file(config.study)) is not None:
        from tbr_lightning.ablation import arena

        arena.run(file, config)
        return 0
    if config.model_uri or config.sweep.train or config.sweep.evaluate:
        raise UserError(
            f"study={config.study} has its model and overrides in its file: model=, sweep.train "
            "and sweep.evaluate are for study=arena"
        )
    from tbr_lightning.ablation.study import log_groups
    from tbr_lightning.tuning import pipeline

    pipeline.run(config, log_groups)
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("sweep"))
