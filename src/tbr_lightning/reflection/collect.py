"""Collecting a reflection for every row that should have one, asking only for what is missing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tbr_lightning.config.schema import ReflectionConfig
from tbr_lightning.data.example import Example
from tbr_lightning.data.table import Examples
from tbr_lightning.errors import UserError
from tbr_lightning.progress import track
from tbr_lightning.reflection.checks import REASONS, boilerplate, reject_reason
from tbr_lightning.reflection.record import Reflection, request_key
from tbr_lightning.reflection.relevance import off_topic
from tbr_lightning.reflection.store import RecordStore
from tbr_lightning.reflection.teachers import Request, Teacher, shipped_prompts


@dataclass(frozen=True)
class Collected:
    """The reflections of one data set.

    Attributes:
        reflections: Reflections by the instruction's id, rejected ones included.
        asked: Number of rows that the teacher was asked for now; the others were in the store.
    """

    reflections: dict[str, Reflection]
    asked: int

    @property
    def accepted(self) -> dict[str, str]:
        """Texts to train on, by the instruction's id."""
        return {
            key: found.draft.text for key, found in self.reflections.items() if not found.reject
        }

    def counts(self, config: ReflectionConfig) -> dict[str, float]:
        """Return rows, accepted, rejected by reason, tokens, cost, and how many were asked now.

        Tokens and cost are of the reflections that are here, whenever they were written; replies
        that a later attempt replaced are not among them.
        """
        rejected = Counter(found.reject for found in self.reflections.values() if found.reject)
        drafts = [found.draft for found in self.reflections.values()]
        prices = config.endpoint
        read = sum(draft.prompt_tokens for draft in drafts)
        written = sum(draft.completion_tokens for draft in drafts)
        return {
            "rows": len(self.reflections),
            "accepted": len(self.accepted),
            **{f"rejected/{reason}": rejected[reason] for reason in REASONS},
            "prompt_tokens": read,
            "completion_tokens": written,
            "cost": (read * prices.prompt_price + written * prices.completion_price) / 1e6,
            "asked": self.asked,
        }


def wanted(examples: Sequence[Example], config: ReflectionConfig) -> list[Example]:
    """Return the rows that should carry a reflection."""
    if config.teacher == "none":
        return []
    return [
        example
        for example in examples
        if example.kind in config.kinds
        and (example.kind != "look_alike" or _part(example) < config.look_alike_share)
    ]


def _part(example: Example) -> float:
    """Return a number in [0, 1) fixed for each row, so that a share always means the same rows."""
    return int(example.id[:8], 16) / 16**8


def texts_of(collected: Collected, config: ReflectionConfig, seed: int) -> dict[str, str]:
    """Return the texts to train on, by the instruction's id.

    Args:
        collected: Reflections of all rows.
        config: Reflection config; with ``exchanged`` the texts are permuted among the rows.
        seed: Random seed of that permutation.
    """
    texts = collected.accepted
    if not config.exchanged:
        return texts
    order = sorted(texts, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    return {key: texts[order[index - 1]] for index, key in enumerate(order)}


def missing(
    rows: Sequence[Example],
    teacher: Teacher,
    store: RecordStore[Reflection],
    seed: int | None = None,
) -> list[Example]:
    """Return the rows whose reflection is not in the store yet."""
    keys = {_key(example, teacher, seed): example for example in rows}
    found = store.get(keys)
    return [example for key, example in keys.items() if key not in found]


def collect(
    rows: Sequence[Example],
    teacher: Teacher,
    store: RecordStore[Reflection],
    run_id: str = "",
    *,
    attempts: int = 1,
    markers: Sequence[str] = (),
    unstated: str = "reject",
) -> Collected:
    """Return a reflection for each row, from the store or else from the teacher.

    Each is on disk as soon as the teacher has written it, so nothing is lost or asked twice. Rows
    whose reflection is rejected are asked for again with a new seed, up to ``attempts`` times.
    """
    of_id = {example.id: example for example in rows}
    by_id: dict[str, Reflection] = {}
    asked, wanting = 0, list(rows)
    for attempt in range(attempts if teacher.repeats else 1):
        seed = attempt or None
        asked += _ask(missing(wanting, teacher, store, seed), teacher, store, run_id, seed)
        found = store.get(_key(example, teacher, seed) for example in wanting)
        by_id |= {item.instruction_id: item for item in found.values()}
        if teacher.checked:
            by_id = _checked(by_id, of_id, teacher, markers, unstated)
        wanting = [example for example in rows if by_id[example.id].reject]
        if not wanting:
            break
    return Collected(by_id, asked)


def _checked(
    by_id: Mapping[str, Reflection],
    of_id: Mapping[str, Example],
    teacher: Teacher,
    markers: Sequence[str],
    unstated: str,
) -> dict[str, Reflection]:
    """Return the reflections with the reason why each is rejected, if it is."""
    texts = {key: item.draft.text for key, item in by_id.items()}
    requests = {key: of_id[key].prompt for key in by_id}
    prompt = teacher.prompt or shipped_prompts()
    same, elsewhere = set[str](), set[str]()
    if not teacher.templated:
        same, elsewhere = boilerplate(texts), off_topic(texts, requests)

    def reason(key: str, item: Reflection) -> str | None:
        own = reject_reason(
            item.draft,
            of_id[key].kind,
            request=requests[key],
            prompt=prompt,
            markers=markers,
            unstated=unstated,
        )
        if own is None and key in same:
            return "boilerplate"
        if own in (None, "off_format", "contradicts") and key in elsewhere:
            return "off_topic"
        return own

    return {key: replace(item, reject=reason(key, item)) for key, item in by_id.items()}


def _ask(
    rows: Sequence[Example],
    teacher: Teacher,
    store: RecordStore[Reflection],
    run_id: str,
    seed: int | None,
) -> int:
    """Let the teacher write, store each draft at once, and return how many there are."""
    if not rows:
        return 0
    request = Request(rows, seed, run_id or None)
    with store.writing() as put:
        for example, draft in track(teacher.write(request), "reflections", len(rows)):
            made = Reflection(
                example.id,
                draft,
                teacher.name,
                teacher.prompt_hash,
                teacher.sampling_of(seed, example),
                run_id=run_id,
            )
            put(made)
    return len(rows)


def check_accepted(collected: Collected, config: ReflectionConfig) -> None:
    """Raise :class:`UserError` if too few rows carry a reflection for the run to be meaningful.

    With ``on_reject=drop`` no row trains without one.
    """
    rows, accepted = len(collected.reflections), len(collected.accepted)
    if config.on_reject == "drop" or accepted >= config.min_accepted * rows:
        return
    reasons = Counter(item.reject for item in collected.reflections.values() if item.reject)
    most, count = reasons.most_common(1)[0]
    raise UserError(
        f"only {accepted} of {rows} rows have a reflection, fewer than reflection.min_accepted="
        f"{config.min_accepted:g} asks for; {count} were rejected as {most}: use another teacher "
        "or prompt, or reflection.unstated=accept where they state no conclusion, or lower "
        "reflection.min_accepted"
    )


def apply_rejects(examples: Examples, collected: Collected, config: ReflectionConfig) -> Examples:
    """Return the rows to train on, after ``reflection.on_reject``.

    Raises:
        UserError: ``on_reject=error`` and a reflection was rejected.
    """
    rejected = {key: item.reject for key, item in collected.reflections.items() if item.reject}
    if not rejected or config.on_reject == "plain":
        return examples
    if config.on_reject == "drop":
        return examples.select([i for i, key in enumerate(examples.ids()) if key not in rejected])
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(rejected.values()).items())
    raise UserError(
        f"{len(rejected)} of {len(collected.reflections)} reflections were rejected ({reasons}): "
        "use reflection.on_reject=plain or drop, or another teacher"
    )


def _key(example: Example, teacher: Teacher, seed: int | None) -> str:
    return request_key(
        example.id, teacher.name, teacher.prompt_hash, teacher.sampling_of(seed, example)
    )
