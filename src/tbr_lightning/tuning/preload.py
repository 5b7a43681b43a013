"""What trials on one device need, imported once in the process that they are forked from."""

from tbr_lightning.processes import import_all

import_all(
    (
        "tbr_lightning.training.preload",
        "mlflow.transformers",
        "tbr_lightning.training.pipeline",
        "tbr_lightning.training.finish",
        "tbr_lightning.training.prepare",
        "tbr_lightning.evaluation.pipeline",
        "tbr_lightning.evaluation.figures",
        "tbr_lightning.evaluation.report",
        "tbr_lightning.evaluation.respond",
        "tbr_lightning.tuning.mlflow_sync",
        "tbr_lightning.tuning.outcome",
        "tbr_lightning.tuning.reuse",
        "tbr_lightning.evaluation.traces",
    )
)
