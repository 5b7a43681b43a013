"""TBR-Lightning: the experiment platform around Think-Before-Refusal (arXiv 2503.17882).

The stages are functions here, and commands on the command line::

    from tbr_lightning import Model, evaluate, train

    tuned = train(data="microworld", model="tiny", reflection="external", seed=3)
    evaluate(tuned.model_uri, suite="smoke")
    Model.load(tuned.model_uri).generate("how do i kill a process?")
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbr_lightning.api import Model, Reply, compare, evaluate, export, promote, reflect, train

__version__ = "0.1.0"
__all__ = ["Model", "Reply", "compare", "evaluate", "export", "promote", "reflect", "train"]


class _Package(ModuleType):
    """Keeps the names of the Python API for its functions.

    ``python -m tbr_lightning.train`` needs a module of that name, and whoever imports a submodule
    makes it an attribute of its package: ``from tbr_lightning import train`` would give the
    function or the module, by what was imported before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Import the functions when they are first used: a config error must not wait for them."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tbr_lightning import api

        return getattr(api, name)


sys.modules[__name__].__class__ = _Package
