"""Judges label an answer: what they take and give, and how one is chosen."""

from __future__ import annotations

from typing import Any

from hydra.utils import get_method

from tbr_lightning.config.schema import JudgeConfig
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
from tbr_lightning.evaluation.judges.rules import rules

__all__ = [
    "LABELLED",
    "REFUSALS",
    "Case",
    "Judge",
    "Label",
    "Verdict",
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
