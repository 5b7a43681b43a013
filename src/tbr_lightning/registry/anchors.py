"""Hashes of the ledger kept outside it, so that a ledger whose end was cut off gives itself away.

Two places: tags in MLflow (on the registered model, where it also says how far the aliases have
followed, and on each version the entry that last decided on it), and a file of all heads that this
machine has seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbr_lightning.config.schema import PathsConfig
from tbr_lightning.registry.entry import Entry

TAG = "tbr.ledger"
"""On a registered model and on a version: number and hash of an entry."""


@dataclass(frozen=True)
class Anchor:
    """An entry as it was once seen.

    Attributes:
        seq: Its number.
        hash: Its hash.
        where: What a sentence calls the place that remembers it.
    """

    seq: int
    hash: str
    where: str


def heads_file(name: str, paths: PathsConfig) -> Path:
    """Return the file that holds the heads of a model's ledger."""
    return Path(paths.runs) / "ledger" / f"{name}.heads"


def text_of(entry: Entry) -> str:
    """Return an entry's anchor as it is written."""
    return f"{entry.seq} {entry.hash}"


def tagged(tags: Mapping[str, str], where: str) -> Anchor | None:
    """Return the anchor among tags, or ``None``."""
    text = tags.get(TAG)
    return _read(text, where) if text else None


def noted(file: Path) -> list[Anchor]:
    """Return the anchors in a file; a last line that was cut off by a crash is no anchor."""
    if not file.is_file():
        return []
    lines = file.read_text("utf-8").splitlines()
    found = [_read(line, f"line {number} of {file}") for number, line in enumerate(lines, start=1)]
    return [anchor for anchor in found if anchor is not None]


def note(file: Path, entry: Entry) -> None:
    """Add an entry's anchor to the file, unless it stands there last."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.read_text("utf-8") if file.is_file() else ""
    if whole.endswith(f"{text_of(entry)}\n"):
        return
    start = "" if not whole or whole.endswith("\n") else "\n"
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{start}{text_of(entry)}\n")
        stream.flush()
        os.fsync(stream.fileno())


def set_aside(file: Path) -> None:
    """Rename the heads of an earlier ledger of that name, so that those of a new one can begin."""
    number = 1
    while (target := file.with_name(f"{file.name}.{number}")).exists():
        number += 1
    file.rename(target)


def problem(entries: Sequence[Entry], anchors: Iterable[Anchor]) -> str | None:
    """Return a sentence on the first anchor that the ledger contradicts, or ``None``."""
    for anchor in anchors:
        if anchor.seq > len(entries):
            end = f"ends at entry {len(entries)}" if entries else "is empty"
            return (
                f"the ledger {end}, but {anchor.where} has seen entry "
                f"{anchor.seq}: its end was cut off, or it is another ledger"
            )
        if entries[anchor.seq - 1].hash != anchor.hash:
            return (
                f"entry {anchor.seq} is not the one that {anchor.where} has seen: the ledger was "
                "rewritten, or it is another"
            )
    return None


def _read(text: str, where: str) -> Anchor | None:
    seq, _, value = text.strip().partition(" ")
    return Anchor(int(seq), value, where) if seq.isdecimal() and len(value) == 64 else None
