"""Single-vector ablation: the direction of false refusal is projected out of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tbr_lightning.errors import UserError, at_least, within
from tbr_lightning.mitigations.directions import (
    at_depth,
    dev_prompts,
    false_refusal_direction,
    groups_of,
    last_states,
    layers_of,
    states_of,
)
from tbr_lightning.mitigations.mitigation import Mitigation
from tbr_lightning.models.adapters import merged

if TYPE_CHECKING:
    from tbr_lightning.config.verbs import EvaluateConfig
    from tbr_lightning.models.backbone import Backbone

_OF_LAYER = "per_layer_projection"  # of Gemma 3n and 4
_OUTPUTS = (
    *("o_proj", "down_proj", "dense", "dense_4h_to_h", "fc2", "out_proj", "c_proj"),
    _OF_LAYER,
)
"""Names of the matrices of a block that write to the residual stream."""

_EXPERTS = "down_proj"
"""Name of the same where all experts of a block are one tensor."""

_PROBE = 16  # tokens on which the result is checked


@dataclass
class Ablation(Mitigation):
    """Projects one direction out of every matrix that writes to the residual stream.

    Source:
        Wang et al., 2025 (ICLR), arXiv 2410.03415. Theirs is the direction, its orthogonalisation
        and the projection; they choose layer and token position by scores of refusal tokens, here
        the position is the last token of the prompt and the depth is a setting.
    """

    _target_: str = "tbr_lightning.mitigations.vector_ablation.Ablation"
    name: str = "ablation"
    depth: float = 0.6  # share of the blocks below the states that the direction is found in
    strength: float = 1.0  # share of the direction that is taken away; 0 changes nothing
    orthogonal: float = 1.0  # share of the true refusal direction that is taken out of it first
    only_refused: bool = True  # find it on dev prompts that the model refuses
    prompts: int = 128  # maximum number of dev prompts of each kind
    fewest: int = 8  # minimum number of prompts in each group
    answer_tokens: int = 48  # token limit of the dev prompts' answers

    uses_dev: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depth", "orthogonal"):
            within(f"mitigation.{name}", getattr(self, name), 0, 1)
        within("mitigation.strength", self.strength, 0, 2)
        for name in ("prompts", "fewest", "answer_tokens"):
            at_least(f"mitigation.{name}", getattr(self, name), 1)

    def check(self, config: EvaluateConfig) -> None:
        """Refuse engines and suites that give no direction."""
        super().check(config)
        dev_prompts(self.name, config, self.prompts, self.fewest)

    def apply(self, backbone: Backbone, config: EvaluateConfig) -> Backbone:
        """Return the model without the direction; its own weights are changed."""
        prompts = dev_prompts(self.name, config, self.prompts, self.fewest)
        backbone = replace(backbone, model=merged(backbone.model))
        layers_of(backbone.model)
        groups = groups_of(
            self.name,
            backbone,
            config,
            prompts,
            only_refused=self.only_refused,
            fewest=self.fewest,
            answer_tokens=self.answer_tokens,
        )
        block = at_depth(backbone.model, self.depth)
        refused, harmful, harmless = (
            last_states(backbone, config, group)[:, block]
            for group in (groups.falsely_refused, groups.harmful, groups.harmless)
        )
        direction = false_refusal_direction(refused, harmful, harmless, self.orthogonal)
        ablate(backbone.model, direction, self.strength)
        return replace(backbone, folder=None)


@torch.no_grad()
def ablate(model: Any, direction: Tensor, strength: float = 1.0) -> None:
    """Take a direction out of all that a model writes to its residual stream, in place.

    An output layer that shares the embeddings' matrix loses it with them; any other one stays.

    Args:
        model: A causal language model.
        direction: Unit vector, shape ``(hidden,)``.
        strength: Share of the direction that is taken away.

    Raises:
        UserError: A block has no matrix whose name is known, or experts of an unknown form, or
            still writes the direction that was taken out as a whole.
    """
    decoder, blocks = model.get_decoder(), layers_of(model)
    inside = {id(module) for module in blocks.modules()}
    for module in decoder.modules():
        # Of tokens and, in some models, of positions: rows are what they write.
        of_stream = isinstance(module, torch.nn.Embedding) and id(module) not in inside
        if of_stream and module.weight.shape[1] == len(direction):
            _project(module.weight, direction, strength)
    for block in blocks:
        found = False
        for rows, scale in _writers(block, model, len(direction)):
            found = True
            # What a norm scales after the matrix is taken out before it.
            along = direction if scale is None else direction.to(scale.device) * scale.float()
            _project(rows, along / along.norm(), strength)
        if not found:
            raise _unknown(model)
    if strength == 1:
        _check(model, direction)


def _project(rows: Tensor, along: Tensor, strength: float) -> None:
    """Take a unit vector out of rows, shape ``(…, hidden)``, in place."""
    along = along.to(rows.device)
    values = rows.float()
    values = values - strength * (values @ along)[..., None] * along
    rows.copy_(values.to(rows.dtype))


def _writers(block: Any, model: Any, hidden: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield what a block writes, ``(…, hidden)``, with the scale of a norm before the stream."""
    for name, module in block.named_modules():
        scale = _scale(block, name, hidden)
        if name.rpartition(".")[2] in _OUTPUTS and hasattr(module, "weight"):
            transposed = type(module).__name__ == "Conv1D"
            yield (module.weight if transposed else module.weight.T), scale
            if getattr(module, "bias", None) is not None:
                yield module.bias, scale
        experts = dict(module.named_parameters(recurse=False)).get(_EXPERTS)
        if experts is not None:
            yield _of_experts(module, experts, hidden, model), scale
            if (bias := getattr(module, f"{_EXPERTS}_bias", None)) is not None:
                yield bias, scale


def _of_experts(module: Any, experts: Tensor, hidden: int, model: Any) -> Tensor:
    """Return the matrices of a block's experts as rows of what they write."""
    last = getattr(module, "is_transposed", None)
    if last is None:  # the shape tells, unless both sides are of one size
        sides = [size == hidden for size in experts.shape[1:]]
        last = sides[1] if sum(sides) == 1 else None
    if experts.ndim != 3 or last is None or getattr(module, "has_post_expert_norm", False):
        raise _unknown(model)
    return experts if last else experts.transpose(1, 2)


def _scale(block: Any, name: str, hidden: int) -> Tensor | None:
    """Return the scale of a norm between a part of a block and the stream; ``None`` without one."""
    part = "attention" if "attn" in name or "attention" in name else "rest"
    if name == _OF_LAYER:
        norm = block.post_per_layer_input_norm
    elif hasattr(block, "post_feedforward_layernorm"):  # of Gemma and OLMo
        norm = block.post_attention_layernorm if part == "attention" else None
        norm = norm or block.post_feedforward_layernorm
    elif hasattr(block, "post_mlp_layernorm"):  # of GLM-4
        norm = block.post_self_attn_layernorm if part == "attention" else block.post_mlp_layernorm
    else:
        return None
    # Some families add 1 to the weight. The mean square of ones is 1, so they show the scale.
    scale: Tensor = norm(torch.ones(hidden, device=norm.weight.device)).float()
    return scale


def _check(model: Any, direction: Tensor) -> None:
    """Raise where blocks still write a direction that was taken out as a whole."""
    words = model.get_input_embeddings().weight.shape[0]
    states = states_of(model, [list(range(min(words, _PROBE)))], 0)
    left = (states @ direction.float().cpu()).abs() / states.norm(dim=-1).clamp(min=1e-12)
    if left.max() > max(1e-3, torch.finfo(model.dtype).eps):
        raise _unknown(model)


def _unknown(model: Any) -> UserError:
    return UserError(
        f"the output matrices of {type(model).__name__} are not known to mitigation=ablation: "
        "choose a mitigation of prompts or decoding"
    )
