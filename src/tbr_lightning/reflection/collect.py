"""Collecting a reflection for every row that should have one, asking only for what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.data.example import Example
from tbr_lightning.errors import UserError
from tbr_lightning.progress import track
from tbr_lightning.reflection.checks import REASONS, reject_reason
from tbr_lightning.reflection.record import Reflection, request_key
from tbr_lightning.reflection.store import ReflectionStore
from tbr_lightning.reflection.teachers import Teacher


@dataclass(frozen=True)
class Collected:
    """The reflections of one data set.

    Attributes:
        reflections: By the instruction's id; rejected ones too.
        asked: How many the teacher was asked for now; the others were in the store.
    """

    reflections: dict[str, Reflection]
    asked: int

    @property
    def accepted(self) -> dict[str, str]:
        """Texts to train on, by the instruction's id."""
        return {
            key: found.draft.text for key, found in self.reflections.items() if not found.reject
        }

    def counts(self) -> dict[str, int]:
        """Return rows, accepted, rejected by reason, tokens, and how many were asked for now."""
        rejected = Counter(found.reject for found in self.reflections.values() if found.reject)
        drafts = [found.draft for found in self.reflections.values()]
        return {
            "rows": len(self.reflections),
            "accepted": len(self.accepted),
            **{f"rejected/{reason}": rejected[reason] for reason in REASONS},
            "prompt_tokens": sum(draft.prompt_tokens for draft in drafts),
            "completion_tokens": sum(draft.completion_tokens for draft in drafts),
            "asked": self.asked,
        }


def wanted(examples: Sequence[Example], config: ReflectionConfig) -> list[Example]:
    """Return the rows that should carry a reflection."""
    if config.teacher == "none":
        return []
    return [example for example in examples if example.kind in config.kinds]


def missing(rows: Sequence[Example], teacher: Teacher, store: ReflectionStore) -> list[Example]:
    """Return the rows whose reflection is not in the store yet."""
    keys = {_key(example, teacher): example for example in rows}
    found = store.get(keys)
    return [example for key, example in keys.items() if key not in found]


def collect(
    rows: Sequence[Example], teacher: Teacher, store: ReflectionStore, run_id: str = ""
) -> Collected:
    """Return a reflection for each row, from the store or else from the teacher.

    Each is on disk as soon as the teacher has written it, so nothing is lost or asked twice.
    """
    absent = missing(rows, teacher, store)
    if absent:
        for example, draft in track(teacher.write(absent), "reflections", len(absent)):
            reject = reject_reason(draft, example.kind) if teacher.checked else None
            made = Reflection(
                example.id,
                draft,
                teacher.name,
                teacher.prompt_hash,
                teacher.sampling,
                reject,
                run_id,
            )
            store.put([made])
    found = store.get(_key(example, teacher) for example in rows)
    by_id = {reflection.instruction_id: reflection for reflection in found.values()}
    # The verdict depends on the row's label, so it is made anew for what the store held.
    kinds = {example.id: example.kind for example in rows}
    if teacher.checked:
        by_id = {
            key: replace(item, reject=reject_reason(item.draft, kinds[key]))
            for key, item in by_id.items()
        }
    return Collected(by_id, len(absent))


def apply_rejects(
    examples: Sequence[Example], collected: Collected, config: ReflectionConfig
) -> list[Example]:
    """Return the rows to train on, after ``reflection.on_reject``.

    Raises:
        UserError: ``on_reject=error`` and a reflection was rejected.
    """
    rejected = {key: item.reject for key, item in collected.reflections.items() if item.reject}
    if not rejected or config.on_reject == "plain":
        return list(examples)
    if config.on_reject == "drop":
        return [example for example in examples if example.id not in rejected]
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(rejected.values()).items())
    raise UserError(
        f"{len(rejected)} of {len(collected.reflections)} reflections were rejected ({reasons}): "
        "use reflection.on_reject=plain or drop, or another teacher"
    )


def _key(example: Example, teacher: Teacher) -> str:
    return request_key(example.id, teacher.name, teacher.prompt_hash, teacher.sampling)
