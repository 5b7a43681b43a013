"""The engines that can serve a model, each described by a few functions."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbr_lightning.errors import UserError
from tbr_lightning.serving.parameters import GREEDY, Constraint, one_of
from tbr_lightning.serving.release import Release
from tbr_lightning.serving.transformers_engine import SUPPRESSED, cache_words
from tbr_lightning.serving.weights import FORCE, Weights


@dataclass(frozen=True)
class Engine:
    """What the server needs to know of an engine.

    Attributes:
        name: Name of the engine.
        command: Makes the command of weights, socket and further arguments; it runs in the folder
            beside the weights.
        request: Makes body and id for the engine of a request's body, weights, policy and id.
        adapters: Whether it applies adapters to their base itself.
        splits: Whether its replies carry ``reasoning_content`` apart from ``content``.
        only: Values that it can honour, by parameter.
        strict: Whether it supports no other parameters; else it checks those itself.
    """

    name: str
    command: Callable[[Weights, Path, Sequence[str]], list[str]]
    request: Callable[[dict[str, Any], Weights, str, str], tuple[dict[str, Any], str]]
    adapters: bool
    splits: bool
    only: Mapping[str, Constraint]
    strict: bool


def choose(wanted: str) -> Engine:
    """Return the engine for ``engine=``.

    Raises:
        UserError: vLLM is requested and cannot run here.
    """
    problem = _no_vllm()
    if wanted == "vllm" and problem is not None:
        raise UserError(f"engine=vllm {problem}: use engine=transformers")
    return VLLM if wanted != "transformers" and problem is None else TRANSFORMERS


def _no_vllm() -> str | None:
    if importlib.util.find_spec("vllm") is None:
        return "needs the package vllm, which is not installed (pip install vllm)"
    import torch

    return None if torch.cuda.is_available() else "needs a CUDA device and there is none"


def _transformers_command(weights: Weights, socket: Path, words: Sequence[str]) -> list[str]:
    sized = cache_words(weights.config)
    return [
        sys.executable,
        "-m",
        "tbr_lightning.serving.transformers_engine",
        "--socket",
        str(socket),
        "--bar",
        str(weights.first),
        "--saved",
        _saved_type(weights.config),
        weights.folder.name,  # it answers requests that name the model exactly so
        "--continuous-batching",
        "--log-level",
        "error",
        *([] if _on_gpu() or any(word.startswith("--cb-") for word in words) else sized),
        *words,
    ]


def _on_gpu() -> bool:
    # Not asked of torch: the server itself needs none.
    return shutil.which("nvidia-smi") is not None


def _saved_type(config: Mapping[str, Any]) -> str:
    """Return the type of the saved weights; empty where ``config.json`` does not say."""
    parts = (config, config.get("text_config") or {})
    named = [part.get(key) for part in parts for key in ("dtype", "torch_dtype")]
    return next((str(one) for one in named if one), "")


def _transformers_request(
    body: dict[str, Any], weights: Weights, policy: str, number: str
) -> tuple[dict[str, Any], str]:
    sent = {
        "model": weights.folder.name,
        "messages": body["messages"],
        "max_tokens": body["max_tokens"],
        "stream": bool(body.get("stream")),
    }
    if policy == "force":
        sent["chat_template_kwargs"] = {FORCE: True}
    return sent, number + SUPPRESSED if policy == "suppress" else number


TRANSFORMERS = Engine(
    name="transformers",
    command=_transformers_command,
    request=_transformers_request,
    adapters=False,
    splits=True,
    # Continuous batching takes its sampling from the model's generation config, once: greedy.
    only=GREEDY,
    strict=True,
)
"""``transformers serve`` with continuous batching."""


def _vllm_command(weights: Weights, socket: Path, words: Sequence[str]) -> list[str]:
    adapter = (
        []
        if weights.adapter is None
        else [
            "--enable-lora",
            "--lora-modules",
            f"adapter={weights.adapter}",
        ]
    )
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        str(weights.folder),
        "--served-model-name",
        weights.folder.name,
        "--uds",
        str(socket),
        "--chat-template",
        str(weights.folder / "chat_template.jinja"),
        *adapter,
        *words,
    ]


def _vllm_request(
    body: dict[str, Any], weights: Weights, policy: str, number: str
) -> tuple[dict[str, Any], str]:
    sent = {
        **body,
        "model": "adapter" if weights.adapter else weights.folder.name,
        # Where a marker is a special token, the others are taken out of the text afterwards.
        "skip_special_tokens": weights.hidden is None,
    }
    if sent.get("stream"):
        sent["stream_options"] = {"include_usage": True}
    if policy == "force":
        sent["chat_template_kwargs"] = {FORCE: True}
    if policy == "suppress":
        sent["bad_words"] = [*sent.get("bad_words", []), weights.think_format.think_open.strip()]
    return sent, number


VLLM = Engine(
    name="vllm",
    command=_vllm_command,
    request=_vllm_request,
    adapters=True,
    # Its reasoning parsers know the markers of certain models, as tokens of their vocabulary, and
    # some take an answer without a think block for a reflection. Ours splits by the think format.
    splits=False,
    only={"n": one_of(1)},
    strict=False,
)
"""``vllm serve``. Not verified: no machine with a GPU and the package was at hand."""


@dataclass(frozen=True)
class Served:
    """What a request and its reply need to know of the model.

    Attributes:
        release: Release with the names of the model.
        weights: Files and markers of the model.
        engine: Engine that answers.
    """

    release: Release
    weights: Weights
    engine: Engine

    @property
    def title(self) -> str:
        """Name and version."""
        return self.release.title
