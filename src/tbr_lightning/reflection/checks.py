"""Checks on what a teacher wrote. A reflection that fails one never reaches training."""

from __future__ import annotations

from tbr_lightning.data.example import Kind
from tbr_lightning.reflection.record import Conclusion, Draft

REASONS = ("empty", "cut", "off_format", "contradicts")


def expected_conclusion(kind: Kind) -> Conclusion:
    """Return what a right reflection on a row of this kind concludes."""
    return "harmful" if kind == "harmful" else "harmless"


def reject_reason(draft: Draft, kind: Kind) -> str | None:
    """Return why a draft must not be trained on, or ``None`` if it may.

    ``empty``: nothing was written. ``cut``: it ended by length. ``off_format``: it states no
    conclusion. ``contradicts``: its conclusion is not the row's label.
    """
    if not draft.text.strip():
        return "empty"
    if draft.cut:
        return "cut"
    if draft.conclusion is None:
        return "off_format"
    return None if draft.conclusion == expected_conclusion(kind) else "contradicts"
