"""Reflections that other arms of a comparison give the rows, as far as they are known here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tbr_lightning.config.verbs import TrainConfig
from tbr_lightning.data.cache import write_whole
from tbr_lightning.data.example import Example
from tbr_lightning.reflection.checks import reject_reason
from tbr_lightning.reflection.collect import wanted
from tbr_lightning.reflection.pipeline import markers_of, store_file, store_of
from tbr_lightning.reflection.record import Draft
from tbr_lightning.reflection.teachers import Request, recorded_teacher, run_teacher


@dataclass(frozen=True)
class Beside:
    """Reflections that other arms would put before the answers of the rows.

    Attributes:
        texts: Distinct texts by the instruction's id.
        rows: Number of rows that some arm would reflect on.
        unknown: Number of those rows without any known reflection.
    """

    texts: Mapping[str, Sequence[str]]
    rows: int = 0
    unknown: int = 0

    @property
    def notice(self) -> str | None:
        """Notice for an arm without reflections; ``None`` if all reflections are known."""
        if not self.unknown:
            return None
        return (
            f"no reflection is known of {self.unknown} of {self.rows} rows that other arms reflect "
            "on: should one make a row longer than model.max_length, this arm trains on that row "
            "and the other does not: give reflection.path=FILE or reflection.run_id=RUN of theirs, "
            "or train that arm first"
        )

    def save(self, file: Path) -> None:
        """Write it to a file, since more may be known by the time that a run is resumed."""
        write_whole(file, json.dumps([dict(self.texts), self.rows, self.unknown]))

    @classmethod
    def saved(cls, file: Path) -> Beside:
        """Return what :meth:`save` wrote."""
        return cls(*json.loads(file.read_text("utf-8")))


def known_beside(config: TrainConfig, examples: Sequence[Example]) -> Beside:
    """Return the known reflections of the rows, whoever wrote them.

    They are those of the rows themselves, of the store, of the data's own teacher, and of
    ``reflection.path`` and ``reflection.run_id``. What the checks would reject does not count.

    Raises:
        UserError: A file or run that the config names cannot be read.
    """
    setting = config.reflection
    if not setting.same_rows:
        return Beside({})
    with_any = replace(setting, teacher="recorded")
    rows = {example.id: example for example in wanted(examples, with_any)}
    found: dict[str, list[str]] = {}
    for key, text in _texts(config, rows):
        kept = found.setdefault(key, [])
        if text not in kept and _passes(config, rows[key], text):
            kept.append(text)
    texts = {key: sorted(kept) for key, kept in sorted(found.items()) if kept}
    unknown = len(rows) - len(texts) if setting.teacher == "none" else 0
    return Beside(texts, len(rows), unknown)


def _texts(config: TrainConfig, rows: Mapping[str, Example]) -> Iterator[tuple[str, str]]:
    """Yield (instruction's id, text) of every reflection at hand."""
    for example in rows.values():
        if example.reflection:
            yield example.id, example.reflection
    if rows and store_file(config).is_file():
        for found in store_of(config).records():
            if found.instruction_id in rows:
                yield found.instruction_id, found.draft.text
    setting = config.reflection
    teachers = []
    if setting.endpoint.base_url is None:
        teachers.append(config.data.teacher("external", config.seed))
    if setting.teacher == "none" and setting.path is not None:
        teachers.append(recorded_teacher(setting.path))
    if setting.teacher == "none" and setting.run_id is not None:
        teachers.append(run_teacher(setting.run_id))
    for teacher in teachers:
        if teacher is not None and rows:
            for example, draft in teacher.write(Request(list(rows.values()))):
                yield example.id, draft.text


def _passes(config: TrainConfig, example: Example, text: str) -> bool:
    draft = Draft(text, None)
    markers = markers_of(config)
    return reject_reason(draft, example.kind, markers=markers, unstated="accept") is None
