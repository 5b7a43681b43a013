"""The TBR data schema: what one training row is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tbr_lightning.kinds import Kind


def instruction_id(instruction: str, input: str = "") -> str:
    """Return the identity of an instruction: 16 hex digits of SHA-256 over its two texts.

    It never depends on response or reflection, so a reflection written once can be joined to the
    instruction wherever it appears.
    """
    return hashlib.sha256(f"{instruction}\x1f{input}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with the response that a model is tuned to give.

    Attributes:
        instruction: The request.
        response: The answer to learn; for a harmful row, the refusal. Never holds the reflection.
        kind: ``general``, ``harmful``, or ``look_alike`` (benign, but phrased like a harmful one).
        source: Where the row comes from, e.g. ``alpaca`` or ``microworld``.
        input: Optional context of the instruction (Alpaca's ``input`` column).
        rejected: Optional dispreferred response, for preference objectives.
    """

    instruction: str
    response: str
    kind: Kind
    source: str
    input: str = ""
    rejected: str | None = None

    @property
    def id(self) -> str:
        """Identity of the instruction, see :func:`instruction_id`."""
        return instruction_id(self.instruction, self.input)

    @property
    def prompt(self) -> str:
        """The user's turn: the instruction, then its input after a blank line if it has one."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
