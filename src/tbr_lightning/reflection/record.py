"""A reflection as a record of its own, joined to an instruction by the instruction's id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tbr_lightning.data.conclusions import Conclusion


@dataclass(frozen=True, slots=True)
class Draft:
    """A teacher's text for one instruction, before any check.

    Attributes:
        text: The rationale, without markers.
        conclusion: Conclusion of the rationale, if it states one.
        prompt_tokens: Tokens the teacher read; 0 where nothing was read.
        completion_tokens: Tokens the teacher wrote.
        cut: Whether the text ended at the length limit, not by itself.
        filtered: Reason that the endpoint gave for refusing to write one; else empty.
    """

    text: str
    conclusion: Conclusion | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False
    filtered: str = ""


@dataclass(frozen=True, slots=True)
class Reflection:
    """A rationale on whether one request is harmful, with its provenance.

    Attributes:
        instruction_id: Identity of the instruction (:attr:`Example.id`).
        draft: Draft that the teacher wrote.
        teacher: Identity of the writer.
        prompt_hash: Hash of the prompt that the teacher was given.
        sampling: Decoding settings.
        reject: Reason why it failed the checks, or ``None``.
        run_id: ID of the MLflow run that made it.
    """

    instruction_id: str
    draft: Draft
    teacher: str
    prompt_hash: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    reject: str | None = None
    run_id: str = ""

    @property
    def key(self) -> str:
        """Hash of all that determines the request; the same request is never made twice."""
        return request_key(self.instruction_id, self.teacher, self.prompt_hash, self.sampling)

    @classmethod
    def of_fields(cls, *, draft: Mapping[str, Any], **others: Any) -> Reflection:
        """Return the record whose fields were stored, those of the draft within."""
        return cls(draft=Draft(**draft), **others)


def request_key(
    instruction_id: str, teacher: str, prompt_hash: str, sampling: Mapping[str, Any]
) -> str:
    """Return the hash of (instruction, teacher, prompt, sampling)."""
    parts = json.dumps([instruction_id, teacher, prompt_hash, dict(sampling)], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()
