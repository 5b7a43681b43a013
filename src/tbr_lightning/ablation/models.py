"""What the trials of a study tune: the model, its architecture and its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tbr_lightning.config.compose import compose_verb
from tbr_lightning.tuning.space import overrides_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from tbr_lightning.tuning.study import Study


@dataclass(frozen=True)
class Model:
    """The model that a trial tunes.

    Attributes:
        name: Name of the model's config.
        architecture: Its ``model_type``.
        parameters: Number of parameters without adapter; ``None`` where only the weights show it.
    """

    name: str
    architecture: str
    parameters: int | None

    @property
    def size(self) -> str:
        """The number of parameters, for people."""
        return "?" if self.parameters is None else millions(self.parameters)


def millions(count: int) -> str:
    """Return a number of parameters with its unit, to two or three digits."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if count >= 0.1 * size:
            return (
                f"{count / size:.3g} {unit}" if count >= 10 * size else f"{count / size:.2f} {unit}"
            )
    return f"{count / 1e3:.0f} k"


def chooses_model(key: str) -> bool:
    """Return whether a key of a space chooses the model."""
    return key == "model" or key.startswith("model.")


def model_of_trial(study: Study, trial: FrozenTrial) -> Model:
    """Return the model that a trial tunes."""
    chosen = {k: v for k, v in trial.params.items() if chooses_model(k) or k == "data"}
    return model_of(*study.fixed, *overrides_of(chosen))


def values_of(trial: FrozenTrial, keys: Sequence[str]) -> str:
    """Return a trial's values of some keys in one text."""
    values = (trial.params[key] for key in keys)
    return " ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values)


@cache  # composing takes most of a second, and a study ends in many trials of few models
def model_of(*words: str) -> Model:
    """Return the model that overrides of a training run choose; no weights are read."""
    from tbr_lightning.models.architecture import count_parameters
    from tbr_lightning.models.config_facts import planned_config

    config = compose_verb("train", words).config
    if config.model.path is not None or not config.model.architecture:
        kind = config.model.architecture.get("model_type", config.model.name)
        return Model(config.model.name, kind, None)
    planned = planned_config(config.model, data=config.data.name)
    return Model(config.model.name, planned.model_type, count_parameters(planned))
