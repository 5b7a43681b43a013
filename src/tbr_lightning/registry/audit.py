"""Whether the ledger, its anchors, the aliases and the weights still agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import model_digest
from tbr_lightning.registry import aliases, anchors
from tbr_lightning.registry.alias_sync import Registry, drift, replaced
from tbr_lightning.registry.entry import Entry, aliases_after, broken_link, weights_after


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        sound: What holds, a sentence each.
        problems: What does not.
    """

    sound: tuple[str, ...]
    problems: tuple[str, ...]


def chain_problem(registry: Registry, entries: Sequence[Entry]) -> str | None:
    """Return a sentence on the first thing that shows the ledger to be altered, or ``None``."""
    return broken_link(entries) or anchors.problem(entries, _anchors(registry))


def audit(registry: Registry) -> Audit:
    """Check the chain, the anchors, the aliases, and the files of every version with an alias.

    Raises:
        UserError: There is no such registered model, or it has no ledger.
    """
    name, entries = registry.name, registry.ledger.entries(registry.name)
    there = aliases.registered(name)
    if there is None:
        raise UserError(f"name='{name}' is not registered: promote a model first")
    sound: list[str] = []
    if problem := chain_problem(registry, entries):
        problems = [problem]
    elif not entries:
        raise UserError(
            f"name='{name}' has no entry in {registry.ledger.shown}: give the ledger with "
            "tracking.ledger=URL, or promote a model first"
        )
    else:
        count = len(_anchors(registry))
        sound.append(f"the ledger is intact, entries 1 to {len(entries)}; {count} anchors agree")
        seen = anchors.tagged(there.tags, "the registered model's tag") is not None
        problems = [*replaced(name, there, entries, seen=seen), *drift(entries, there.aliases)]
        if not problems:
            sound.append("the aliases are where the ledger puts them")
    known = weights_after(entries)
    for alias, version in aliases_after(entries).items():
        told = _weights_problem(name, version, known.get(version))
        if told:
            problems.append(f"{alias}: {told}")
        else:
            sound.append(f"{alias}: the files of version {version} have the ledger's digest")
    return Audit(tuple(sound), tuple(problems))


def _weights_problem(name: str, version: str, known: str | None) -> str | None:
    if known is None:
        return f"the ledger has no digest of version {version}, so its files cannot be checked"
    try:
        digest = model_digest(aliases.model_of(name, version))
    except UserError as error:
        return f"version {version}: {error}"
    if digest == known:
        return None
    return (
        f"the files of version {version} were changed: their digest is {digest[:16]}…, the ledger "
        f"has {known[:16]}…"
    )


def _anchors(registry: Registry) -> list[anchors.Anchor]:
    there = aliases.registered(registry.name)
    found = [anchors.tagged(there.tags if there else {}, "the registered model's tag")]
    for row in aliases.versions(registry.name):
        where = f"the tag of version {row['version']}"
        found.append(anchors.tagged({anchors.TAG: row["ledger"]}, where))
    return [anchor for anchor in found if anchor is not None] + anchors.noted(registry.heads)
