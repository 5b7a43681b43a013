"""A release as it is served: its files and the engine that reads them."""

from __future__ import annotations

from dataclasses import dataclass

from tbr_lightning.serving.engines import Engine
from tbr_lightning.serving.release import Release
from tbr_lightning.serving.weights import Weights


@dataclass(frozen=True)
class Served:
    """What a request and its reply must know of the model.

    Attributes:
        release: Its names.
        weights: Its files and markers.
        engine: What answers.
    """

    release: Release
    weights: Weights
    engine: Engine

    @property
    def title(self) -> str:
        """Name and version."""
        return self.release.title
