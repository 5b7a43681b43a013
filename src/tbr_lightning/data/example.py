"""The TBR data schema: what one training row is."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tbr_lightning.kinds import Kind

_SHAPES = str.maketrans("‘’‛`“”„«»‐‑‒–—", "''''" + '"' * 5 + "-" * 5)
_MARK = r"[.,;:!?…。！？、，；：¡¿'\"()\[\]{}<>*_\-]"
# A mark between letters or digits is part of a word, but not in scripts without blanks.
_BETWEEN = re.compile(
    rf"(?<![^\W_]){_MARK}+|{_MARK}+(?![^\W_])|{_MARK}{{2,}}|(?<=[\u3040-\u9fff]){_MARK}+"
)


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
        context: Earlier messages, system text and turns, as JSON of messages; or empty.
        reflection: A rationale that came with the row, e.g. in its response's think block.
    """

    instruction: str
    response: str
    kind: Kind
    source: str
    input: str = ""
    rejected: str | None = None
    context: str = ""
    reflection: str | None = None

    @property
    def id(self) -> str:
        """Identity of the instruction, see :func:`instruction_id`."""
        input = f"{self.input}\x1f{self.context}" if self.context else self.input
        return instruction_id(self.instruction, input)

    @property
    def prompt(self) -> str:
        """The user's turn: the instruction, then its input after a blank line if it has one."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    @property
    def messages(self) -> list[dict[str, str]]:
        """The whole prompt as chat messages: the earlier ones, and the user's turn."""
        before: list[dict[str, str]] = json.loads(self.context) if self.context else []
        return [*before, {"role": "user", "content": self.prompt}]

    @property
    def requests(self) -> list[str]:
        """What the user says in the whole prompt, turn by turn."""
        return [turn["content"] for turn in self.messages if turn["role"] == "user"]


def context_of(before: Sequence[Mapping[str, str]]) -> str:
    """Return messages as :attr:`Example.context` keeps them; an empty text for none."""
    return json.dumps(list(before), ensure_ascii=False) if before else ""


def normal_form(instruction: str, input: str = "") -> str:
    """Return a request in normal form: without what two writings of the same one differ in.

    That is case, Unicode's compatibility forms, blanks, invisible characters, punctuation (but
    within a word or number, as in ``don't`` and ``1.5``), and whether its second part is in a
    column of its own.
    """
    text = unicodedata.normalize("NFKC", f"{instruction} {input}").casefold()
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return " ".join(_BETWEEN.sub(" ", text.translate(_SHAPES)).split())


def request_key(instruction: str, input: str, context: str) -> str:
    """Return what two writings of a request after the same conversation agree in."""
    return f"{normal_form(instruction, input)}\x1f{context}"
