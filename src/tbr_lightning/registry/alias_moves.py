"""Commands that move aliases: each writes the ledger first, and the aliases follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import check_unchanged, model_digest
from tbr_lightning.models.logged import LoggedModel
from tbr_lightning.registry import aliases
from tbr_lightning.registry.alias_sync import (
    ANEW_DRIFT,
    BEFORE,
    MOVED,
    UNSIGNED,
    Registry,
    Standing,
    moves_between,
    open_registry,
    project,
    recover,
    taken_over,
)
from tbr_lightning.registry.aliases import CHALLENGER, CHAMPION, PREVIOUS
from tbr_lightning.registry.entry import ANEW, Entry, NewEntry, spoken, weights_after, weights_of
from tbr_lightning.registry.ledger import ConflictError


def register(registry: Registry, model: LoggedModel) -> str:
    """Return the version of a logged model, registering it if needed."""
    with registry.ledger.alone(registry.name):  # so that two do not register it twice
        return aliases.version_of(registry.name, model)


def commit(registry: Registry, draft: NewEntry, standing: Standing) -> Entry:
    """Write a decision into the ledger, then let the aliases follow.

    Raises:
        ConflictError: Another process has decided something meanwhile; nothing was written.
    """
    entry = registry.ledger.append(registry.name, draft, standing.head)
    project(registry)
    return entry


def challenge(
    name: str,
    model: LoggedModel,
    tracking: TrackingConfig,
    paths: PathsConfig,
    *,
    why: str,
    evidence: Sequence[str] = (),
) -> str:
    """Register a logged model, make it the challenger, and return its version.

    A model that is champion or challenger already keeps its alias.

    Raises:
        UserError: The model's files are gone or were changed since training, an alias was moved
            outside, or the ledger is broken.
    """
    registry = open_registry(name, tracking, paths)
    digest = check_unchanged(model)
    version = register(registry, model)
    while True:
        standing = recover(registry)
        standing.refuse_drift()
        holders = standing.aliases
        check_weights(standing, version, digest)
        if version in (holders.get(CHAMPION), holders.get(CHALLENGER)):
            return version
        moves = {CHALLENGER: (holders.get(CHALLENGER), version)}
        draft = NewEntry(
            "challenge", version, moves, why, evidence, weights_of(version, digest, model.model_id)
        )
        try:
            commit(registry, draft, standing)
        except ConflictError:
            continue
        return version


def crowned(holders: dict[str, str], version: str) -> dict[str, str]:
    """Return the holder of each alias once a version is champion.

    The champion before it becomes the previous one, and the winner is challenger no longer.
    """
    after = {**holders, CHAMPION: version}
    before = holders.get(CHAMPION)
    if before is not None and before != version:
        after[PREVIOUS] = before
    if after.get(CHALLENGER) == version:
        del after[CHALLENGER]
    return after


def decision(
    standing: Standing,
    action: str,
    version: str,
    *,
    why: str,
    evidence: Sequence[str],
    weights: dict[str, str],
) -> NewEntry:
    """Return the draft of a decision: ``promote`` and ``baseline`` crown, ``refuse`` moves nothing.

    What holds an alias keeps it when it is refused: a challenger of a study is not champion, which
    is all that the alias means.
    """
    holders = standing.aliases
    after = holders if action == "refuse" else crowned(holders, version)
    return NewEntry(action, version, moves_between(holders, after), why, evidence, weights)


def rollback_of(registry: Registry) -> tuple[Standing, str | None, str]:
    """Return the registry's state, the champion, and the version that a rollback would crown.

    Raises:
        UserError: An alias was moved outside, or there is no previous champion.
    """
    standing = recover(registry)
    standing.refuse_drift()
    now, before = standing.aliases.get(CHAMPION), standing.aliases.get(PREVIOUS)
    if before is None:
        raise UserError(
            f"name='{registry.name}' has no previous champion to go back to "
            f"(the champion is {spoken(now)}): promote another model"
        )
    return standing, now, before


def rollback(registry: Registry, reason: str) -> Entry:
    """Make the previous champion the champion again, and this one the previous.

    So a second rollback undoes the first. The weights are compared with the ledger's before.

    Raises:
        UserError: There is no previous champion, or its files are gone or changed.
    """
    standing, now, before = rollback_of(registry)
    old = aliases.model_of(registry.name, before)
    digest = model_digest(old)
    check_weights(standing, before, digest)
    after = {**standing.aliases, CHAMPION: before}
    if now is not None:
        after[PREVIOUS] = now
    crowning = [e for e in standing.entries if e.version == before and CHAMPION in e.moves]
    draft = NewEntry(
        "rollback",
        before,
        moves_between(standing.aliases, after),
        reason or f"back from {spoken(now)}",
        crowning[-1].evidence if crowning else (),
        weights_of(before, digest, old.model_id),
    )
    try:
        return commit(registry, draft, standing)
    except ConflictError as error:
        raise UserError(
            "somebody else has moved the aliases meanwhile, so nothing was rolled back: look at "
            "'promote history' and roll back again if still needed"
        ) from error


def repair(registry: Registry, reason: str) -> Entry | None:
    """Move aliases that were changed outside back to where the ledger has them.

    Returns:
        The entry that records it, or ``None`` if there was no drift.

    Raises:
        UserError: A version that the ledger names is gone.
    """
    standing = recover(registry)
    if not standing.drift:
        return None
    if standing.kind != MOVED:
        raise UserError(
            f"{'; '.join(standing.drift)}: moving aliases back cannot undo that: restore the "
            f"store or the ledger, or {standing.fix}"
        )
    why = "; ".join(standing.drift) + (f"; {reason}" if reason else "")
    draft = NewEntry("repair", standing.aliases.get(CHAMPION, ""), {}, why)
    return _after(registry, draft, standing)


def accept(registry: Registry, reason: str) -> Entry | None:
    """Record in the ledger what was moved outside, made anew, or not signed.

    Returns:
        The entry that records it, or ``None`` if there was no drift.

    Raises:
        UserError: The files of a version that holds an alias are gone or changed.
    """
    standing = recover(registry)
    there = aliases.registered(registry.name)
    if not standing.drift or there is None:
        return None
    action = {ANEW_DRIFT: ANEW, BEFORE: "adopt"}.get(standing.kind, "accept")
    draft = taken_over(registry, there, standing.entries, action, reason)
    if action == "accept":
        taken = {after for _, after in draft.moves.values() if after is not None}
        if standing.kind == UNSIGNED:
            taken |= set(there.aliases.values())
        weights: dict[str, str] = {}
        for version in sorted(taken):
            model = aliases.model_of(registry.name, version)
            digest = check_unchanged(model)
            check_weights(standing, version, digest)
            weights |= weights_of(version, digest, model.model_id)
        draft = replace(draft, weights=weights)  # no others: their files were not checked
    return _after(registry, draft, standing)


def check_weights(standing: Standing, version: str, digest: str) -> None:
    """Raise :class:`UserError` if a version's artifacts are not those that the ledger knows."""
    known = weights_after(standing.entries).get(version)
    if known is not None and known != digest:
        raise UserError(
            f"the files of version {version} are not those that were registered: their digest is "
            f"{digest[:16]}…, the ledger has {known[:16]}…; restore them, or log the model again"
        )


def _after(registry: Registry, draft: NewEntry, standing: Standing) -> Entry:
    try:
        entry = registry.ledger.append(registry.name, draft, standing.head)
    except ConflictError as error:
        raise UserError("somebody else has written to the ledger meanwhile: try again") from error
    project(registry, force=True)
    return entry
