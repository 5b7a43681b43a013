"""Whether the ledger, its signatures, the aliases and the weights still agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import model_digest
from tbr_lightning.registry import aliases
from tbr_lightning.registry.alias_sync import Registry, followed, look
from tbr_lightning.registry.entry import Entry, aliases_after, weights_after
from tbr_lightning.registry.ledger import unsigned


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        sound: Sentences on what holds.
        problems: Sentences on what does not hold.
    """

    sound: tuple[str, ...]
    problems: tuple[str, ...]


def chain_problem(registry: Registry, entries: Sequence[Entry]) -> str | None:
    """Return a sentence on the first thing that shows the ledger to be altered, or ``None``."""
    there = aliases.registered(registry.name)
    return (
        registry.ledger.problem(entries)
        or (followed(there, entries)[1] if there else None)
        or registry.ledger.put_back(registry.name, entries)
    )


def intact(entries: Sequence[Entry]) -> str:
    """Return a sentence on an intact ledger, which says what of it is not signed."""
    count = unsigned(entries)
    told = f"the ledger is intact, entries 1 to {len(entries)}"
    if count == 0:
        return f"{told}, each signed by a trusted key"
    if count == len(entries):
        return f"{told}, none of them signed"
    return f"{told}; 1 to {count} are not signed, {entries[count].name} took them over"


def audit(registry: Registry) -> Audit:
    """Check the chain, the signatures, the aliases, and the files of every version with an alias.

    Raises:
        UserError: There is no such registered model, or it has no ledger.
    """
    name, entries = registry.name, registry.ledger.entries(registry.name)
    there = aliases.registered(name)
    if there is None:
        raise aliases.unknown(name)
    sound: list[str] = []
    if problem := chain_problem(registry, entries):
        problems = [problem]
    elif not entries:
        raise UserError(
            f"name='{name}' has no entry in {registry.ledger.shown}: give the ledger with "
            "tracking.ledger=URL, or promote a model first"
        )
    else:
        sound.append(intact(entries))
        problems = list(look(registry).drift)
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
