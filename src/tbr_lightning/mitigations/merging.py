"""Model merging: the mean of two models' weights, a baseline."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from tbr_lightning.data.cache import content_key
from tbr_lightning.errors import UserError, within
from tbr_lightning.evaluation.respond import load_model
from tbr_lightning.mitigations.mitigation import Mitigation
from tbr_lightning.models.adapters import merged
from tbr_lightning.models.digest import check_unchanged
from tbr_lightning.models.logged import LoggedModel, find_model

if TYPE_CHECKING:
    from tbr_lightning.config.verbs import EvaluateConfig
    from tbr_lightning.models.backbone import Backbone


@dataclass
class Merging(Mitigation):
    """Averages the weights with those of a model of the same architecture.

    Source:
        Wortsman et al., 2022, arXiv 2203.05482 (model soups); here of two models that were tuned
        from one base on different rows, one of them without refusals.
    """

    _target_: str = "tbr_lightning.mitigations.merging.Merging"
    name: str = "merging"
    other: str = ""  # models:/…, a run id, a folder or a hub id
    share: float = 0.5  # share of the other model's weights

    def __post_init__(self) -> None:
        super().__post_init__()
        within("mitigation.share", self.share, 0, 1)

    @cached_property
    def _logged(self) -> LoggedModel | None:
        """The logged model that ``other`` names now; ``None`` for a folder or a hub id.

        An alias is read once, so that what is merged is what :attr:`identity` speaks of.
        """
        is_run = re.fullmatch("[0-9a-f]{32}", self.other) is not None
        return find_model(self.other) if is_run or self.other.startswith("models:/") else None

    @property
    def identity(self) -> str:
        """Hash of the settings and of the other model's files: an alias may come to mean others."""
        if self._logged is None:
            return super().identity
        settings = replace(self, other="").identity
        return content_key(settings, self._logged.model_id, check_unchanged(self._logged))

    @torch.no_grad()
    def apply(self, backbone: Backbone, config: EvaluateConfig) -> Backbone:
        """Return the model with averaged weights; its own are changed."""
        if not self.other:
            raise UserError("mitigation.other is not set: give the model to merge with")
        named = self.other if self._logged is None else self._logged.uri
        other = load_model(named, config.paths).backbone.model
        backbone, other = replace(backbone, model=merged(backbone.model)), merged(other)
        mine, theirs = dict(backbone.model.named_parameters()), dict(other.named_parameters())
        if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in theirs.items()}:
            raise UserError(
                f"mitigation.other='{self.other}' is of another architecture than "
                f"{backbone.origin}: give a model tuned from the same base"
            )
        for name, weights in mine.items():
            both = (1 - self.share) * weights.float() + self.share * theirs[name].to(
                weights.device, torch.float32
            )
            weights.copy_(both.to(weights.dtype))
        return replace(backbone, folder=None)
