"""Decoding by vLLM, for large models on a GPU. Not verified: no machine with both was at hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tbr_lightning.errors import UserError
from tbr_lightning.models.precision import name_of

if TYPE_CHECKING:
    from tbr_lightning.models.backbone import Backbone
    from tbr_lightning.models.decoding import Rules

_CHUNK = 256  # prompts per call; results appear after each chunk


def choose_engine(wanted: str, backbone: Backbone, *, suppresses: bool) -> str:
    """Return ``vllm`` or ``transformers`` for ``generation.engine``.

    Args:
        wanted: ``auto``, ``transformers`` or ``vllm``.
        backbone: The model.
        suppresses: Whether some token must not come first, which vLLM does not support.

    Raises:
        UserError: vLLM is requested and cannot be used.
    """
    problem = _problem(backbone, suppresses)
    if wanted == "vllm" and problem:
        raise UserError(f"generation.engine=vllm {problem}: use generation.engine=transformers")
    return "vllm" if wanted != "transformers" and problem is None else "transformers"


def _problem(backbone: Backbone, suppresses: bool) -> str | None:
    if not torch.cuda.is_available():
        return "needs a CUDA device and there is none"
    if importlib.util.find_spec("vllm") is None:
        return "needs the package vllm, which is not installed (pip install vllm)"
    if backbone.folder is None:
        return "reads weights from a folder, and these were made here"
    if backbone.guide is not None:
        return f"cannot be guided while it decodes (mitigation={backbone.guide.name})"
    if suppresses:
        return "cannot keep the model from reflecting (generation.arm=suppressed)"
    return None


def decode_by_vllm(
    backbone: Backbone, prompts: Sequence[list[int]], rules: Rules
) -> Iterator[tuple[int, list[int]]]:
    """Yield (number of the prompt, new tokens with the stop token if one came)."""
    import vllm  # type: ignore[import-not-found,unused-ignore]

    backbone.model.to("cpu")  # vLLM loads the weights itself and wants the memory
    torch.cuda.empty_cache()
    engine: Any = vllm.LLM(
        model=str(backbone.folder), seed=rules.seed, dtype=name_of(backbone.model.dtype)
    )
    settings = vllm.SamplingParams(
        max_tokens=rules.limit,
        temperature=rules.temperature,
        seed=rules.seed,
        stop_token_ids=list(rules.stops),
        skip_special_tokens=False,
    )
    for start in range(0, len(prompts), _CHUNK):
        part = [{"prompt_token_ids": ids} for ids in prompts[start : start + _CHUNK]]
        for n, out in enumerate(engine.generate(part, settings, use_tqdm=False), start):
            yield n, list(out.outputs[0].token_ids)
