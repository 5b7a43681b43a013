"""Hidden states of dev prompts, and the directions between groups of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tbr_lightning.errors import UserError
from tbr_lightning.evaluation.respond import arm_prompts, respond
from tbr_lightning.evaluation.store import FILE, ResponseStore, weights_identity
from tbr_lightning.evaluation.suites import Prompt, load_suite
from tbr_lightning.kinds import Kind
from tbr_lightning.models.backbone import Backbone

if TYPE_CHECKING:
    from tbr_lightning.config.verbs import EvaluateConfig

_ROWS = 16  # prompts in a forward pass


@dataclass(frozen=True)
class Groups:
    """Dev prompts by what the model does with them.

    Attributes:
        falsely_refused: Look-alikes.
        harmful: Harmful prompts that it refuses.
        harmless: General prompts, or where the suite has none look-alikes that it answers.
    """

    falsely_refused: list[Prompt]
    harmful: list[Prompt]
    harmless: list[Prompt]


def dev_prompts(name: str, config: EvaluateConfig, most: int, fewest: int) -> list[Prompt]:
    """Return the first dev prompts of each kind of an evaluation's suite.

    Args:
        name: Name of the mitigation, for the error.
        config: Evaluation config; its half may be any.
        most: Maximum number of prompts of each kind.
        fewest: Minimum number of look-alikes and of harmful prompts.

    Raises:
        UserError: There are fewer prompts.
    """
    prompts = load_suite(replace(config.suite, half="dev", limit=most))
    for kind in ("look_alike", "harmful"):
        check_enough(
            name, sum(prompt.kind == kind for prompt in prompts), fewest, f"{kind} dev prompts"
        )
    return prompts


def check_enough(name: str, found: int, fewest: int, what: str) -> None:
    """Refuse a direction of too few prompts.

    Raises:
        UserError: There are fewer prompts.
    """
    if found < fewest:
        raise UserError(
            f"mitigation={name}: there are {found} {what.replace('_', '-')}, and a direction needs "
            f"{fewest}: give a suite with more, raise mitigation.prompts, or lower "
            "mitigation.fewest"
        )


def groups_of(
    name: str,
    backbone: Backbone,
    config: EvaluateConfig,
    prompts: Sequence[Prompt],
    *,
    only_refused: bool,
    fewest: int,
    answer_tokens: int,
) -> Groups:
    """Ask the model the dev prompts, and group them by the judge's labels.

    Args:
        name: Name of the mitigation, for errors.
        backbone: The model.
        config: Evaluation config.
        prompts: Prompts that :func:`dev_prompts` returned.
        only_refused: Whether look-alikes and harmful prompts that are not refused are left out.
        fewest: Minimum number of prompts in each group.
        answer_tokens: Token limit of the answers: a refusal shows itself early.

    Raises:
        UserError: A group is too small.
    """
    of_kind: dict[Kind, list[Prompt]] = {"look_alike": [], "harmful": [], "general": []}
    refused: set[str] = set()
    asked = [prompt for prompt in prompts if prompt.kind != "general"]
    if only_refused or not any(prompt.kind == "general" for prompt in prompts):
        generation = replace(config.generation, max_new_tokens=answer_tokens, temperature=0.0)
        identity = weights_identity(backbone)
        store = ResponseStore(Path(config.paths.runs) / FILE, identity)
        judge = replace(config.judge, max_unparsed=1.0)
        rows = respond(backbone, asked, judge, generation, f"{name}: dev prompts", store=store)
        refused = {row.id for row in rows if row.refused}
    for prompt in prompts:
        of_kind[prompt.kind].append(prompt)
    answered = [prompt for prompt in of_kind["look_alike"] if prompt.id not in refused]
    alike, harmful = of_kind["look_alike"], of_kind["harmful"]
    if only_refused:
        alike = [prompt for prompt in alike if prompt.id in refused]
        harmful = [prompt for prompt in harmful if prompt.id in refused]
    found = Groups(alike, harmful, of_kind["general"] or answered)
    check_enough(name, len(found.falsely_refused), fewest, "dev look-alikes that the model refuses")
    check_enough(name, len(found.harmful), fewest, "harmful dev prompts that the model refuses")
    check_enough(name, len(found.harmless), fewest, "harmless dev prompts")
    return found


def layers_of(model: Any) -> Any:
    """Return the list of a model's blocks, whose outputs are the residual stream.

    Raises:
        UserError: The model has no list of blocks that can be recognised.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    # Within the decoder: what sees or hears may have as many blocks.
    for _, module in model.get_decoder().named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"the blocks of {type(model).__name__} cannot be found: choose a mitigation of prompts"
    )


def at_depth(model: Any, depth: float) -> int:
    """Return how many blocks are below a share of a model's depth, at least one."""
    return max(round(depth * len(layers_of(model))), 1)


def last_states(backbone: Backbone, config: EvaluateConfig, prompts: Sequence[Prompt]) -> Tensor:
    """Return the residual stream at the last token of each prompt, as the evaluation asks it.

    Returns:
        Shape ``(prompts, blocks + 1, hidden)``, float32 on the CPU; the first is the embeddings'.
    """
    said = [prompt.before for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    ids = arm_prompts(backbone, texts, config.generation.arm, said)
    return states_of(backbone.model, ids, backbone.tokenizer.pad_token_id)


def states_of(model: Any, ids: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Return the residual stream at the last token of rows of token ids, as :func:`last_states`."""
    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    parts = list(_forward(model, [ids[n] for n in order], pad))
    states = torch.cat(parts)
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return states[back]


def _forward(model: Any, ids: Sequence[Sequence[int]], pad: int) -> Iterator[Tensor]:
    layers, device = layers_of(model), model.device
    for start in range(0, len(ids), _ROWS):
        part = ids[start : start + _ROWS]
        width = max(map(len, part))
        tokens = torch.full((len(part), width), pad)
        mask = torch.zeros_like(tokens)
        for line, row in enumerate(part):
            tokens[line, width - len(row) :] = torch.tensor(list(row))
            mask[line, width - len(row) :] = 1
        kept: list[Tensor] = []

        # Outputs of the blocks: what transformers calls hidden states ends with the final norm.
        def keep(_: Any, __: Any, output: Any, kept: list[Tensor] = kept) -> None:
            kept.append((output[0] if isinstance(output, tuple) else output)[:, -1].float().cpu())

        handles = [layer.register_forward_hook(keep) for layer in layers]
        try:
            with torch.inference_mode():
                embedded = model.get_input_embeddings()(tokens.to(device))
                model(
                    input_ids=tokens.to(device),
                    attention_mask=mask.to(device),
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(device),
                    use_cache=False,
                )
        finally:
            for handle in handles:
                handle.remove()
        yield torch.stack([embedded[:, -1].float().cpu(), *kept], 1)


def difference(group: Tensor, other: Tensor) -> Tensor:
    """Return the difference of the means of two groups of states, each ``(prompts, …, hidden)``."""
    return group.float().mean(0) - other.float().mean(0)


def false_refusal_direction(
    refused: Tensor, harmful: Tensor, harmless: Tensor, orthogonal: float = 1.0
) -> Tensor:
    """Return the unit direction of false refusal, without that of true refusal.

    Source:
        Wang et al., 2025 (ICLR), arXiv 2410.03415: falsely refused minus harmless, of which the
        projection on harmful minus harmless is taken away.

    Args:
        refused: States of falsely refused prompts, ``(prompts, hidden)``.
        harmful: States of harmful prompts, ``(prompts, hidden)``.
        harmless: States of harmless prompts, ``(prompts, hidden)``.
        orthogonal: Share of the projection that is taken away.

    Raises:
        UserError: Nothing is left of it.
    """
    false, true = difference(refused, harmless), difference(harmful, harmless)
    true = true / true.norm().clamp(min=1e-12)
    found = false - orthogonal * (false @ true) * true
    if found.norm() <= 1e-4 * false.norm() or not found.norm() > 0:
        raise UserError(
            "the direction of false refusal is that of refusal itself: lower mitigation.orthogonal "
            "or choose another mitigation.depth"
        )
    return found / found.norm()
