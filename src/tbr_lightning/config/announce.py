"""The first line of a command: what will run, where it is logged, on which device."""

from __future__ import annotations

import os
import shutil
from typing import Any

from tbr_lightning.credentials import hidden


def first_line(verb: str, config: Any) -> str | None:
    """Return what a verb says before anything heavy is imported; ``None`` where it says nothing.

    Args:
        verb: Its name.
        config: Its typed config.
    """
    if int(os.environ.get("RANK") or 0) > 0 or verb == "doctor":
        return None
    what = _what(verb, config)
    if getattr(config, "dry_run", False):
        return f"{verb}: a dry run of {what}: nothing is trained or logged"
    where = hidden(config.tracking.uri)
    logged = f"logged to {where}, experiment {config.tracking.experiment}"
    if verb in ("serve", "export"):
        logged = f"from the store {where}"
    return f"{verb}: {what}; {logged}; on {_device(config)}"


def _what(verb: str, config: Any) -> str:
    if verb in ("train", "reflect"):
        resumed = getattr(config, "resume", None)
        model = config.model
        name = (model.path or model.hub_id or model.name) if model.name == "hub" else model.name
        told = f"{name}, reflection {config.reflection.teacher}, seed {config.seed}"
        return f"the run {resumed}, resumed" if resumed else told
    if verb == "evaluate":
        return f"{' and '.join(config.models)} on {config.suite.name}, {config.suite.half} half"
    if verb == "promote":
        against = "as a fresh champion" if config.baseline else "against the champion"
        return f"{config.model_uri or 'no model'} {against} of {config.name}"
    if verb == "serve":
        beside = f" with {config.beside} beside it" if config.beside else ""
        return f"{config.model_uri} at {config.url}{beside}"
    if verb == "export":
        return f"{config.model_uri} to {config.to}"
    if verb == "sweep":
        return f"the study {config.study}"
    return f"{len(config.demo.arms)} arms of {config.demo.model}, seeds: {config.demo.seeds}"


def _device(config: Any) -> str:
    trainer = getattr(config, "trainer", None)
    if trainer is not None and trainer.accelerator == "cpu":
        return "the CPU"
    # Torch, which would know for sure, takes seconds to import.
    here = shutil.which("nvidia-smi") is not None
    many = f"{trainer.devices} GPUs" if trainer is not None and trainer.devices > 1 else "the GPU"
    if trainer is not None and trainer.accelerator == "gpu":
        return many
    return f"{many}, if torch can use it" if here else "the CPU"
