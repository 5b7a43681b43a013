"""The aliases follow the ledger: what an interrupted command left is completed, drift is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import model_digest
from tbr_lightning.registry import aliases, anchors
from tbr_lightning.registry.entry import (
    ANEW,
    Draft,
    Entry,
    Move,
    aliases_after,
    broken_link,
    models_after,
    spoken,
    weights_of,
)
from tbr_lightning.registry.ledger import ConflictError, Ledger, ledger_url
from tbr_lightning.tracking.store import connect

DECISIONS = ("promote", "baseline", "refuse")
"""Actions of entries that are a verdict of the gate."""


@dataclass(frozen=True)
class Registry:
    """A registered model with its ledger.

    Attributes:
        name: Of the registered model.
        ledger: Of its decisions.
        heads: File of anchors.
    """

    name: str
    ledger: Ledger
    heads: Path


@dataclass(frozen=True)
class Standing:
    """How things stand.

    Attributes:
        entries: Of the ledger, the oldest first.
        aliases: Who holds each alias by the ledger.
        drift: A sentence for each alias that somebody has moved outside, or for each version
            that is another model now.
        is_anew: The drift is of versions, whose numbers mean other models now.
    """

    entries: tuple[Entry, ...]
    aliases: dict[str, str]
    drift: tuple[str, ...] = ()
    is_anew: bool = False

    @property
    def head(self) -> Entry | None:
        """The last entry."""
        return self.entries[-1] if self.entries else None

    def refuse_drift(self) -> None:
        """Raise :class:`UserError` if an alias was moved outside."""
        if self.drift:
            raise UserError(
                "; ".join(self.drift) + ": put it back with 'promote repair', or take it over with "
                "'promote accept reason=…'"
            )


def open_registry(name: str, tracking: TrackingConfig, paths: PathsConfig) -> Registry:
    """Connect to MLflow's store and to the ledger.

    Raises:
        UserError: One of them cannot be used.
    """
    connect(tracking)
    return Registry(name, Ledger(ledger_url(tracking)), anchors.heads_file(name, paths))


def look(registry: Registry) -> Standing:
    """Return how things stand; nothing is written.

    Raises:
        UserError: There is no such registered model, or the ledger is not intact.
    """
    there, entries, seen = _read(registry)
    anew = replaced(registry.name, there, entries, seen=seen is not None)
    told = drift(entries, there.aliases)
    if not anew and entries and (seen is None or seen.seq < entries[-1].seq):
        told = (
            f"{entries[-1].name} is not carried out yet: the next command that promotes, rolls "
            "back or repairs completes it",
        )
    return Standing(tuple(entries), aliases_after(entries), anew or told, is_anew=bool(anew))


def recover(registry: Registry) -> Standing:
    """Complete what an interrupted command left, and return how things stand.

    Aliases from before the ledger began are taken over by an entry of their own. A registered
    model that was made anew under an old name is drift.

    Raises:
        UserError: There is no such registered model, or the ledger is not intact.
    """
    there, entries, seen = _read(registry)
    if not entries and there.aliases:
        with suppress(ConflictError):
            registry.ledger.append(registry.name, _adopted(registry, there), None)
        return recover(registry)
    if anew := replaced(registry.name, there, entries, seen=seen is not None):
        return Standing(tuple(entries), aliases_after(entries), anew, is_anew=True)
    if entries and (seen is None or seen.seq < entries[-1].seq):
        project(registry)
        entries = registry.ledger.entries(registry.name)
        there = _registered(registry)
    return Standing(tuple(entries), aliases_after(entries), drift(entries, there.aliases))


def _read(registry: Registry) -> tuple[aliases.Registered, list[Entry], anchors.Anchor | None]:
    there = _registered(registry)
    entries = list(registry.ledger.entries(registry.name))
    seen = anchors.tagged(there.tags, "the registered model's tag")
    problem = broken_link(entries) or anchors.problem(entries, [seen] if seen else [])
    if problem:
        raise UserError(
            f"{problem}; nothing is moved until that is repaired: see 'promote verify', and check "
            f"tracking.ledger={registry.ledger.shown}"
        )
    return there, entries, seen


def replaced(
    name: str, there: aliases.Registered, entries: Sequence[Entry], *, seen: bool
) -> tuple[str, ...]:
    """Return a sentence for each version that is another model than the ledger decided on.

    Args:
        name: Of the registered model.
        there: As MLflow has it.
        entries: Of the ledger.
        seen: The registered model carries the ledger's tag, so that it was not made anew.
    """
    told = []
    known = models_after(entries)
    for version in sorted(set(aliases_after(entries).values())):
        try:
            actual = aliases.model_of(name, version).model_id
        except UserError:
            continue  # a version that is gone is told where its files are needed
        if version in known and known[version] != actual:
            told.append(
                f"version {version} is models:/{actual} now, the ledger decided on "
                f"models:/{known[version]}: the registered model was made anew or changed outside"
            )
    fresh = bool(entries) and entries[-1].action not in ("adopt", ANEW)
    if not told and fresh and not seen and there.created.isoformat() > entries[-1].at:
        told.append(
            f"the registered model was made anew at {there.created.isoformat()}, after the "
            f"ledger's {entries[-1].name}"
        )
    return tuple(told)


def drift(entries: Sequence[Entry], actual: dict[str, str]) -> tuple[str, ...]:
    """Return a sentence for each alias that is elsewhere than the ledger says."""
    wanted = aliases_after(entries)
    return tuple(
        f"the alias {alias} points at {spoken(actual.get(alias))}, the ledger says "
        f"{spoken(wanted.get(alias))}: it was moved outside"
        for alias in aliases.ALIASES
        if actual.get(alias) != wanted.get(alias)
    )


def project(registry: Registry, *, force: bool = False) -> None:
    """Bring aliases, tags and anchors to where the ledger's last entry puts them.

    One process does so at a time, and always for the last entry there is, so that a slow one
    cannot undo what a later one has done. An alias that somebody moved outside meanwhile, or whose
    version is gone, stays where it is: that is drift, and told by the next command.

    Args:
        registry: Which.
        force: Move those aliases too.
    """
    name = registry.name
    with registry.ledger.alone(name):
        entries = registry.ledger.entries(name)
        there = _registered(registry)
        seen = anchors.tagged(there.tags, "the registered model's tag")
        done = seen.seq if seen else 0
        if not entries or (done >= entries[-1].seq and not force):
            return
        force = force or any(entry.action == "repair" for entry in entries[done:])
        steps = [aliases_after(entries[:seq]) for seq in range(done, len(entries) + 1)]
        for alias in aliases.ALIASES:
            actual, wanted = there.aliases.get(alias), steps[-1].get(alias)
            ours = any(actual == step.get(alias) for step in steps)
            if actual != wanted and (ours or force):
                aliases.move(name, alias, wanted)
        for entry in entries[done:]:
            _write_on_version(name, entry)
        if seen is None and anchors.problem(entries, anchors.noted(registry.heads)):
            anchors.set_aside(registry.heads)
        anchors.note(registry.heads, entries[-1])
        aliases.tag_model(name, anchors.TAG, anchors.text_of(entries[-1]))


def digests_of(name: str, versions: Sequence[str]) -> dict[str, str]:
    """Return the digest and the model of each version whose artifacts are there."""
    found: dict[str, str] = {}
    for version in versions:
        with suppress(UserError):
            model = aliases.model_of(name, version)
            found |= weights_of(version, model_digest(model), model.model_id)
    return found


def moves_between(before: dict[str, str], after: dict[str, str]) -> dict[str, Move]:
    """Return what becomes of each alias that differs."""
    return {
        alias: (before.get(alias), after.get(alias))
        for alias in aliases.ALIASES
        if before.get(alias) != after.get(alias)
    }


def _registered(registry: Registry) -> aliases.Registered:
    there = aliases.registered(registry.name)
    if there is None:
        raise UserError(f"name='{registry.name}' is not registered: promote a model first")
    return there


def taken_over(
    registry: Registry, there: aliases.Registered, entries: Sequence[Entry], action: str, why: str
) -> Draft:
    """Return the entry that takes over aliases which no entry accounts for."""
    return Draft(
        action,
        there.aliases.get(aliases.CHAMPION, ""),
        moves_between(aliases_after(entries), there.aliases),
        why,
        weights=digests_of(registry.name, sorted(set(there.aliases.values()))),
    )


def _adopted(registry: Registry, there: aliases.Registered) -> Draft:
    why = "aliases that were set before the ledger began"
    return taken_over(registry, there, (), "adopt", why)


def _write_on_version(name: str, entry: Entry) -> None:
    """Write on the version what was decided about it; one that was deleted since needs nothing."""
    if not entry.version:
        return
    told = {anchors.TAG: anchors.text_of(entry), "tbr.decision": entry.action}
    if entry.action in DECISIONS:
        told |= {"tbr.verdict": entry.why, "tbr.promoted": str(entry.action != "refuse").lower()}
    with suppress(MlflowException):
        aliases.tag_version(name, entry.version, told)
        runs = "".join(f"\n- run `{run_id}`" for run_id in entry.evidence)
        aliases.describe_version(
            name,
            entry.version,
            f"**{entry.action}**, ledger entry {entry.seq}, {entry.at}, {entry.who}\n\n"
            f"{entry.why}\n{runs}",
        )
