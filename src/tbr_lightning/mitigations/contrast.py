"""Contrastive decoding: away from what an emphasis on safety adds to each token's logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tbr_lightning.data.chat_template import rendered, with_begin
from tbr_lightning.errors import UserError, within
from tbr_lightning.mitigations.mitigation import Mitigation
from tbr_lightning.mitigations.prompts import SAFETY, with_system
from tbr_lightning.models.decoding import Guidance

if TYPE_CHECKING:
    from tbr_lightning.config.verbs import EvaluateConfig
    from tbr_lightning.models.backbone import Backbone

_PLACE = "\ue000"  # private-use character: placeholder of the first words


@dataclass
class Contrast(Mitigation):
    """Adds to the logits what the same prompt with a safety system prompt takes from them.

    Source:
        Shi et al., 2024 (ACL), arXiv 2401.17633 (Self-CD). In their code the logits are
        ``with - ratio * (with - without)`` with ratio 2.5, here ``without + strength * (without -
        with)``, so that strength is their ratio less 1 and 0 is plain decoding.
    """

    _target_: str = "tbr_lightning.mitigations.contrast.Contrast"
    name: str = "contrast"
    strength: float = 1.5  # their ratio less 1; 0 is plain decoding
    text: str = SAFETY  # the emphasis on safety

    unservable: ClassVar[str] = (
        "decodes every prompt twice in our own loop, which no serving engine does: it can be "
        "evaluated, not kept or served"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        within("mitigation.strength", self.strength, 0, 10)
        if not self.text.strip():
            raise UserError("mitigation.text is empty: give the words that emphasise safety")

    def apply(self, backbone: Backbone, config: EvaluateConfig) -> Backbone:
        """Return the model guided away from its own emphasis on safety."""
        if not self.strength:
            return backbone
        head, emphasised = _head(backbone), _head(with_system(backbone, self.text))
        guide = _Guide(self.name, self.identity, self.strength, head, emphasised)
        return replace(backbone, guide=guide)


def _head(backbone: Backbone) -> list[int]:
    """Return the tokens before the first words of a conversation."""
    text = rendered(backbone.tokenizer, [{"role": "user", "content": _PLACE}])
    head = backbone.tokenizer.encode(text.partition(_PLACE)[0], add_special_tokens=False)
    return with_begin(backbone.tokenizer, list(head))


@dataclass(frozen=True)
class _Guide:
    name: str
    identity: str
    strength: float
    head: list[int]
    emphasised: list[int]

    @contextmanager
    def __call__(self, model: Any, prompts: Sequence[Sequence[int]]) -> Iterator[Guidance]:
        size = len(self.head)
        if any(list(prompt[:size]) != self.head for prompt in prompts):
            raise UserError(
                f"mitigation={self.name}: some prompts begin with a system turn of their own, to "
                "which no other can be added here: choose a suite without them"
            )
        beside = [[*self.emphasised, *prompt[size:]] for prompt in prompts]
        yield Guidance(beside=beside, mix=self._mix)

    def _mix(self, plain: Tensor, safe: Tensor) -> Tensor:
        return plain + self.strength * (plain - safe)
