"""What every single-device trial needs, imported once in the process that trials are forked from.

Nothing here may start a thread, open a connection or touch a GPU: a fork would break it. (The one
thread there is belongs to pyarrow's allocator, which knows of forks.)
"""

from importlib import import_module

for _name in (
    "torch",
    "scipy.stats",
    "transformers",
    "lightning.pytorch",
    "peft",
    "mlflow.transformers",
    "tbr_lightning.train",
    "tbr_lightning.training.fit",
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
):
    import_module(_name)
