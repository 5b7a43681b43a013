"""One export in Hugging Face form, reloaded and compared before it counts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from tbr_lightning.modeling.backbone import Backbone, load_folder


def export(backbone: Backbone, folder: Path) -> Backbone:
    """Save a tuned model, reload it, compare both on a probe, and return the reloaded one.

    Adapters are merged. The folder holds safetensors, the tokenizer with its chat template and a
    response template (so that serving stacks return the reflection as ``reasoning_content``), a
    generation config, and the layout of the think block as ``tbr`` in ``config.json``.

    Raises:
        RuntimeError: A tensor is empty, or the reloaded model gives other logits.
    """
    model, tokenizer, layout = backbone.model, backbone.tokenizer, backbone.layout
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.eval()
    for name, tensor in model.state_dict().items():
        if tensor.numel() == 0:
            raise RuntimeError(f"refusing to save {name}: it has no elements")
    model.config.tbr = layout.as_dict()
    # A tuned model needs no sampling settings of its base: answers are greedy unless asked.
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=layout.max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.response_template = response_template(backbone)
    tokenizer.padding_side = "left"
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    reloaded = load_folder(folder, origin=str(folder), thinks=True)
    _compare(model, reloaded.model, tokenizer)
    return reloaded


def response_template(backbone: Backbone) -> dict[str, Any]:
    """Return how transformers splits a response into ``reasoning_content`` and ``content``."""
    layout, tokenizer = backbone.layout, backbone.tokenizer
    turn = [{"role": "user", "content": "x"}]
    asked, begun = (
        tokenizer.apply_chat_template(turn, add_generation_prompt=begin, tokenize=False)
        for begin in (False, True)
    )
    # Where the assistant begins; a template without such a mark begins after the user's text.
    anchor = begun.removeprefix(asked) or asked.partition("x")[2] or "x"
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": anchor,
        "fields": {
            "reasoning_content": {
                "open": layout.think_open.strip(),
                "close": layout.think_close.strip(),
                "content": "text",
            },
            "content": {"close": tokenizer.eos_token, "content": "text"},
        },
    }


def _compare(model: Any, reloaded: Any, tokenizer: Any) -> None:
    ids = torch.tensor([tokenizer.encode("How do I kill a Python process?")])
    with torch.inference_mode():
        before = model(input_ids=ids.to(model.device)).logits.float().cpu()
        after = reloaded(input_ids=ids.to(reloaded.device)).logits.float().cpu()
    worst = (before - after).abs().max().item()
    if not worst <= 1e-3 * max(1.0, before.abs().max().item()):
        raise RuntimeError(f"the exported model differs from the trained one (logits by {worst})")


def weights_digest(folder: Path) -> str:
    """Return SHA-256 over the safetensors files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
