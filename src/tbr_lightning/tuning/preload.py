"""What trials on one device need, imported once in the process that they are forked from."""

from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches

from tbr_lightning.processes import import_all

import_all(
    (
        # MLflow imports these when it first opens a store.
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
        "alembic.context",
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

# Whoever logs a model has MLflow look up the modules of all installed packages, once in a process.
warn_dependency_requirement_mismatches(["mlflow"])
