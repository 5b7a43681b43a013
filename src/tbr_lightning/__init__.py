"""TBR-Lightning: the experiment platform around Think-Before-Refusal (arXiv 2503.17882).

The stages are functions here, as they are verbs on the command line::

    from tbr_lightning import Model, evaluate, train

    tuned = train(data="microworld", model="tiny", reflection="external", seed=3)
    evaluate(tuned.model_uri, suite="smoke")
    Model.load(tuned.model_uri).generate("how do i kill a process?")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbr_lightning.api import Model, Reply, compare, evaluate, promote, reflect, train

__version__ = "0.1.0"
__all__ = ["Model", "Reply", "compare", "evaluate", "promote", "reflect", "train"]


def __getattr__(name: str) -> Any:
    """Import the functions when they are first used: a config error must not wait for them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tbr_lightning import api

    return getattr(api, name)
