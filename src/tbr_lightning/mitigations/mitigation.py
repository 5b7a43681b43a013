"""The base of every mitigation: a config whose ``apply`` changes a loaded model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from tbr_lightning.data.cache import content_key, contents_key
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.config.verbs import EvaluateConfig
    from tbr_lightning.models.backbone import Backbone


@dataclass
class Mitigation:
    """Base of every mitigation; ``_target_`` in ``conf/mitigation/`` names the class.

    A mitigation of your own derives from it and adds its settings as typed fields.

    Attributes:
        unservable: Reason why it cannot be kept as a model that serving reads; empty where it can.
        uses_dev: Whether it is found on the dev half of the suite.
    """

    _target_: str = ""  # set by each class to its own path
    name: str = "none"  # name shown in tables and runs
    source: str = ""  # paper
    log: bool = False  # keep the changed model in MLflow, and evaluate that

    unservable: ClassVar[str] = ""
    uses_dev: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.log and self.unservable:
            raise UserError(f"mitigation.log=true: mitigation={self.name} {self.unservable}")

    def check(self, config: EvaluateConfig) -> None:
        """Refuse what cannot work, before a model is loaded.

        Raises:
            UserError: The engine or the prompts do not allow it.
        """
        if self.unservable and config.generation.engine == "vllm":
            raise UserError(
                "generation.engine=vllm hands out neither hidden states nor logits, which "
                f"mitigation={self.name} needs at every step: use generation.engine=transformers"
            )

    def apply(self, backbone: Backbone, config: EvaluateConfig) -> Backbone:
        """Return the model with the mitigation on; its weights may be changed in place.

        Args:
            backbone: The model.
            config: Evaluation config: the suite whose dev half directions and thresholds are found
                on, the judge of the answers to it, and the folders.

        Raises:
            UserError: The model or the prompts do not allow it.
        """
        raise UserError(
            f"mitigation={self.name}: {type(self).__name__} has no method apply: write it"
        )

    @property
    def identity(self) -> str:
        """Hash of all settings that decide its effect, and of the files that they name."""
        settings = {k: v for k, v in asdict(self).items() if k not in ("log", "source")}
        files = [contents_key(v) for v in settings.values() if isinstance(v, str)]
        return content_key(settings, files)


@dataclass
class Plain(Mitigation):
    """No mitigation: the model as it is."""

    _target_: str = "tbr_lightning.mitigations.mitigation.Plain"

    def __post_init__(self) -> None:
        if self.log:
            raise UserError("mitigation.log=true: mitigation=none changes nothing: choose another")

    def apply(self, backbone: Backbone, config: EvaluateConfig) -> Backbone:
        """Return the model as it is."""
        return backbone
