"""The command ``train``: fine-tune with or without reflections, export, log."""

from __future__ import annotations

import sys

from tbr_lightning import cli
from tbr_lightning.config.texts import store_words
from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.errors import command_of


def command(config: TrainConfig) -> int:
    """Run and print what was made; or, with ``dry_run``, what would be."""
    from tbr_lightning.training import pipeline, ranks

    place = ranks.launched()
    if place is not None:
        ranks.check_launched(place, config.trainer)
        if place.rank > 0:
            # The first rank prepares and logs; the others take part in the steps only.
            ranks.fit_and_leave(ranks.share(None))
            return 0
    if config.dry_run:
        from tbr_lightning.training.preview import preview

        preview(config)
        return 0
    result = pipeline.run(config, tell=lambda text: print(text, file=sys.stderr, flush=True))
    print(f"trained {pipeline.told(result)}")
    print(f"run {result.run_id}")
    print(f"model {result.model_uri}")
    suite = f"{config.data.suite}{store_words(config.given)}"
    print(f"next: {command_of('evaluate')} model={result.model_uri} {suite}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("train"))
