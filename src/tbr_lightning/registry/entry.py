"""Entries of the ledger: what they hold, how they are chained, what follows from them."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

Move = tuple[str | None, str | None]
"""Version that held an alias before and after; ``None`` for nobody."""

BEGIN = "0" * 64
"""Hash that the first entry names as the one before it."""

ANEW = "anew"
"""Action of the entry after which the versions of earlier ones mean others."""


TAG = "tbr.ledger"
"""Tag with number and hash of an entry: on a registered model of the last that its aliases have
followed, on a version and on a promotion's run of the one that decided."""


@dataclass(frozen=True)
class NewEntry:
    """A decision that is not in the ledger yet.

    Attributes:
        action: ``challenge``, ``promote``, ``baseline``, ``refuse``, ``rollback``, ``repair``,
            ``accept``, ``adopt`` or ``anew``.
        version: The version it is about, or empty.
        moves: Old and new version of each alias that moves.
        why: Reason, in words.
        evidence: IDs of the runs that it rests on.
        weights: Digest of the artifacts of each version that it puts somewhere, and under
            ``VERSION/model`` the id of its logged model, see :func:`weights_of`.
    """

    action: str
    version: str
    moves: Mapping[str, Move]
    why: str
    evidence: Sequence[str] = ()
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A line of the ledger.

    Attributes:
        model: Name of the registered model.
        seq: Number of the entry: 1, 2, … without a gap.
        at: Time, UTC, ISO 8601.
        who: Author, as USER@HOST.
        action: As in :class:`NewEntry`, like the fields up to ``weights``.
        version: As in :class:`NewEntry`.
        moves: As in :class:`NewEntry`.
        why: As in :class:`NewEntry`.
        evidence: As in :class:`NewEntry`.
        weights: As in :class:`NewEntry`.
        prev_hash: Hash of the entry before.
        hash: SHA-256 over all the fields before.
        signature: Signature of :meth:`statement`; empty in entries older than signatures.
    """

    model: str
    seq: int
    at: str
    who: str
    action: str
    version: str
    moves: dict[str, Move]
    why: str
    evidence: list[str]
    weights: dict[str, str]
    prev_hash: str
    hash: str = ""
    signature: str = ""

    def digest(self) -> str:
        """Return the hash that this entry should carry."""
        values = {k: value for k, value in asdict(self).items() if k not in ("hash", "signature")}
        return hashlib.sha256(canonical(values).encode()).hexdigest()

    def statement(self) -> bytes:
        """Return the bytes to sign; the first words keep them from other uses."""
        return f"tbr ledger entry {self.hash}".encode()

    @property
    def mark(self) -> str:
        """Value of :data:`TAG` for this entry."""
        return f"{self.seq} {self.hash}"

    @property
    def name(self) -> str:
        """Name of the entry in sentences."""
        return f"entry {self.seq} ({self.action} by {self.who}, {self.at})"


def canonical(value: object) -> str:
    """Return the canonical JSON of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def aliases_after(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the version that holds each alias after the entries."""
    holders: dict[str, str] = {}
    for entry in entries:
        for alias, (_, after) in entry.moves.items():
            if after is None:
                holders.pop(alias, None)
            else:
                holders[alias] = after
    return holders


def weights_after(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the digest that each version should have."""
    known: dict[str, str] = {}
    for entry in entries:
        if entry.action == ANEW:
            known.clear()
        known |= entry.weights
    return known


def weights_of(version: str, digest: str, model_id: str) -> dict[str, str]:
    """Return what an entry records of a version: the digest of its files, and its model.

    A version's number alone shows neither, since a registered model can be made anew.
    """
    return {version: digest, f"{version}/model": model_id}


def models_after(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the logged model that each version should be; earlier entries name none."""
    known = weights_after(entries)
    return {key.removesuffix("/model"): value for key, value in known.items() if "/" in key}


def broken_link(entries: Sequence[Entry]) -> str | None:
    """Return a sentence on the first entry that does not follow from the one before it."""
    last, holders = BEGIN, dict[str, str]()
    for number, entry in enumerate(entries, start=1):
        if entry.seq != number:
            return f"entry {number} is missing: entry {entry.seq} comes after {number - 1}"
        if entry.digest() != entry.hash:
            return f"{entry.name} was changed after it was written: its hash does not fit"
        if entry.prev_hash != last:
            return f"{entry.name} does not follow entry {number - 1}: the hash before it is another"
        for alias, (before, _) in entry.moves.items():
            if holders.get(alias) != before:
                return (
                    f"{entry.name} moves {alias} from {spoken(before)}, but entry {number - 1} "
                    f"left it at {spoken(holders.get(alias))}"
                )
        last, holders = entry.hash, aliases_after(entries[:number])
    return None


def spoken(version: str | None) -> str:
    """Return the name of a version in sentences."""
    return "none" if version is None else f"version {version}"


def who() -> str:
    """Return the current user as USER@HOST."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
