"""What every rank on a CPU needs, imported once in the process that ranks are forked from."""

from tbr_lightning.processes import import_all

# The one thread that these start belongs to pyarrow's allocator, which knows of forks.
import_all(
    (
        "torch",
        "scipy.stats",
        "transformers",
        "lightning.pytorch",
        "peft",
        "mlflow",
        "tbr_lightning.models.backbone",
        "tbr_lightning.tracking.store",
        "tbr_lightning.training.fit",
        "tbr_lightning.training.strategies",
    )
)
