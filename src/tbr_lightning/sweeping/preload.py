"""What trials on one device need, imported once in the process that they are forked from."""

from tbr_lightning.forking import import_all

import_all(
    (
        "tbr_lightning.training.preload",
        "mlflow.transformers",
        "tbr_lightning.train",
        "tbr_lightning.training.finish",
        "tbr_lightning.training.prepare",
        "tbr_lightning.evaluate",
        "tbr_lightning.evaluation.figures",
        "tbr_lightning.evaluation.report",
        "tbr_lightning.evaluation.respond",
        "tbr_lightning.microworld.prompts",
        "tbr_lightning.sweeping.mirror",
        "tbr_lightning.sweeping.outcome",
        "tbr_lightning.sweeping.reuse",
        "tbr_lightning.tracking.responses",
    )
)
