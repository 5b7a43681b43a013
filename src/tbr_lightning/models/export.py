"""One export in Hugging Face format, reloaded and compared before it counts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from tbr_lightning.data.chat_template import stops_of
from tbr_lightning.data.think_format import ThinkFormat
from tbr_lightning.locate import reference_to
from tbr_lightning.models.adapters import merged
from tbr_lightning.models.backbone import Backbone, load_folder
from tbr_lightning.models.bases import Base, find_base
from tbr_lightning.models.generation import stop_tokens
from tbr_lightning.models.precision import name_of

LAYOUT = "tbr.json"
"""In an adapter's folder: the think format, which a whole model has in its config."""


def export(backbone: Backbone, folder: Path, *, dtype: str, form: str = "merged") -> Backbone:
    """Save a tuned model, reload it, compare both on a probe, and return the reloaded one.

    The folder holds safetensors, the tokenizer with its chat template and a response template (so
    that serving stacks return the reflection as ``reasoning_content``) and a generation config.

    Args:
        backbone: The tuned model.
        folder: Target folder.
        dtype: Type of the saved weights.
        form: ``merged`` for a whole model, or ``adapter`` for the adapter alone.

    Raises:
        RuntimeError: A tensor is empty, or the reloaded model gives other logits.
    """
    model, tokenizer = backbone.model, backbone.tokenizer
    probe = torch.tensor([tokenizer.encode("How do I kill a Python process?")])
    _refuse_empty(model)
    trained = _logits(model.eval(), probe)
    if form == "merged" and hasattr(model, "merge_and_unload"):
        model = merged(model)
        _compare(trained, _logits(model.eval(), probe), model.dtype)
    if form == "merged":
        # Not the buffers: rotary frequencies stay in float32, as when the model is loaded.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    trained = _logits(model, probe)
    tokenizer.response_template = response_template(backbone)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    if form == "adapter":
        _name_base(model, backbone.folder)
        model.save_pretrained(folder)
        (folder / LAYOUT).write_text(json.dumps(backbone.think_format.as_dict(), indent=2))
        reloaded = load_adapter(folder, base=backbone.folder, dtype=name_of(model.dtype))
    else:
        _complete(model, backbone)
        model.save_pretrained(folder)
        reloaded = load_folder(folder, origin=str(folder), thinks=True)
    _compare(trained, _logits(reloaded.model, probe), reloaded.model.dtype)
    return replace(reloaded, origin=backbone.origin, folder=backbone.folder)


def load_adapter(folder: Path, *, base: Path | None = None, dtype: str = "auto") -> Backbone:
    """Load an exported adapter onto its base.

    Args:
        folder: Folder that :func:`export` wrote with ``form="adapter"``.
        base: Folder of the base; ``None``, or a missing one, for the base that the adapter names.
        dtype: Type of the base's weights.

    Raises:
        UserError: The base is not available.
    """
    from peft import PeftModel

    if base is not None and (base / "config.json").is_file():
        found = Base(str(base))
    else:
        found = find_base(folder)
    loaded = load_folder(
        found.source,
        saved_think_format(folder),
        origin=found.source,
        thinks=True,
        dtype=dtype,
        revision=found.revision,
        tokenizer=folder,
    )
    return replace(loaded, model=PeftModel.from_pretrained(loaded.model, str(folder)).eval())


def saved_think_format(folder: Path) -> ThinkFormat | None:
    """Return the think format that an adapter was exported with; ``None`` for other adapters."""
    if not (folder / LAYOUT).is_file():
        return None
    return ThinkFormat.of_dict(json.loads((folder / LAYOUT).read_text()))


def _name_base(model: Any, folder: Path | None) -> None:
    """Make an adapter name its base by hub id and commit, so that other machines find it."""
    if folder is None:
        return
    base = reference_to(folder)
    for settings in model.peft_config.values():
        settings.base_model_name_or_path, settings.revision = base.name, base.revision


def merge_into(folder: Path, target: Path, *, base: Path | None = None) -> None:
    """Write an exported adapter merged into its base, for programs that cannot apply adapters."""
    backbone = load_adapter(folder, base=base)
    probe = torch.tensor([backbone.tokenizer.encode("How do I kill a Python process?")])
    apart = _logits(backbone.model, probe)
    model = merged(backbone.model)
    _compare(apart, _logits(model, probe), model.dtype)
    _complete(model, backbone)
    model.save_pretrained(target)
    backbone.tokenizer.save_pretrained(target)


def _complete(model: Any, backbone: Backbone) -> None:
    think_format, tokenizer = backbone.think_format, backbone.tokenizer
    stops = list(stop_tokens(replace(backbone, model=model)))
    model.config.tbr = think_format.as_dict()
    # A tuned model needs no sampling settings of its base: answers are greedy unless asked.
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=think_format.max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops[0] if len(stops) == 1 else stops,
        pad_token_id=tokenizer.pad_token_id,
    )


def _refuse_empty(model: Any) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.numel() == 0:
            raise RuntimeError(f"refusing to save {name}: it has no elements")


def response_template(backbone: Backbone) -> dict[str, Any]:
    """Return how transformers splits a response into ``reasoning_content`` and ``content``."""
    think_format, tokenizer = backbone.think_format, backbone.tokenizer
    turn = [{"role": "user", "content": "x"}]
    asked, begun = (
        tokenizer.apply_chat_template(turn, add_generation_prompt=begin, tokenize=False)
        for begin in (False, True)
    )
    # Where the assistant begins; a template without such a mark begins after the user's text.
    anchor = begun.removeprefix(asked) or asked.partition("x")[2] or "x"
    # Of several blocks all are reflection, and text before one is a part of the answer, as in
    # `ThinkFormat.split`: else the last part of each would be all that is left.
    parts = {"content": "text", "repeats": True, "join": "\n\n"}
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": anchor,
        "fields": {
            "reasoning_content": {
                "open": think_format.think_open.strip(),
                "close": think_format.think_close.strip(),
                **parts,
            },
            "content": {"close": tokenizer.decode(stops_of(tokenizer)[:1]), **parts},
        },
    }


def _logits(model: Any, ids: Any) -> Any:
    with torch.inference_mode():
        return model(input_ids=ids.to(model.device)).logits.float().cpu()


def _compare(trained: Any, exported: Any, dtype: torch.dtype) -> None:
    """Raise unless an exported model gives the trained one's logits, but for rounding.

    The trained model is asked before an adapter is merged, since merging is what may go wrong.
    """
    # Rounding of a weight, grown over the layers: some tens of units of the type at most.
    bound = max(1e-3, 32 * torch.finfo(dtype).eps)
    worst = (trained - exported).abs().max().item()
    if not worst <= bound * max(1.0, trained.abs().max().item()):
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
