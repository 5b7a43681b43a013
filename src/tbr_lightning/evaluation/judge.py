"""Judges label an answer: what they take and give, and how one is chosen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.utils import get_method

from tbr_lightning.config.evaluation import JudgeConfig
from tbr_lightning.evaluation.judges.base import (
    LABELLED,
    REFUSALS,
    Case,
    Judge,
    Label,
    Verdict,
    on_answered,
    unanswered,
)
from tbr_lightning.evaluation.judges.rules import VERSION, rules

__all__ = [
    "LABELLED",
    "REFUSALS",
    "Case",
    "Judge",
    "Label",
    "Verdict",
    "identity",
    "make_judge",
    "on_answered",
    "rules",
    "unanswered",
]


def make_judge(config: JudgeConfig) -> Judge:
    """Return the judge that a config describes; its ``_target_`` builds it.

    Raises:
        UserError: Something that it needs is missing.
    """
    build: Any = get_method(config._target_)
    judge: Judge = build(config)
    return judge


_WEIGHED = ("_target_", "name", "hub_id", "revision", "path", "chat", "labels", "base_url", "model")
"""Settings that may change a verdict, beside the prompt file's text."""


def identity(config: JudgeConfig) -> str:
    """Return a name of the judge that differs where its verdicts may.

    Two evaluations are compared only if it agrees.
    """
    settings = {key: value for key, value in asdict(config).items() if key in _WEIGHED}
    if config.prompt is not None and Path(config.prompt).is_file():
        settings["prompt"] = Path(config.prompt).read_text(encoding="utf-8")
    digest = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True).encode()).hexdigest()
    return f"{config.name}/{digest[:12]}"
