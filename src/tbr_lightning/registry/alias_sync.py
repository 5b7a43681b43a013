"""The aliases follow the ledger: interrupted commands are completed, outside changes reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow.exceptions import MlflowException

from tbr_lightning.config.schema import PathsConfig, TrackingConfig
from tbr_lightning.errors import UserError
from tbr_lightning.models.digest import check_unchanged, model_files
from tbr_lightning.registry import aliases
from tbr_lightning.registry.entry import (
    TAG,
    Entry,
    Move,
    NewEntry,
    aliases_after,
    models_after,
    spoken,
    weights_of,
)
from tbr_lightning.registry.ledger import Ledger, ledger_url, unsigned
from tbr_lightning.registry.version_rates import rates_of
from tbr_lightning.tracking.abandoned import close_abandoned
from tbr_lightning.tracking.run import Run
from tbr_lightning.tracking.signing import keys_of
from tbr_lightning.tracking.store import connect

DECISIONS = ("promote", "baseline", "refuse")
"""Actions of entries that are a verdict of the gate."""


_LONGEST = 2000  # characters of a reason in a description; the ledger has all of them
_BETWEEN = re.compile(r"; (?![^()]*\))")  # what parts reasons, and stands within none

MOVED, ANEW_DRIFT, UNSIGNED, BEFORE = "moved", "anew", "unsigned", "before"
"""Kinds of drift. Only what was moved can be put back; the others can only be taken over."""


@dataclass(frozen=True)
class Registry:
    """A registered model with its ledger.

    Attributes:
        name: Name of the registered model.
        ledger: Ledger of its decisions.
    """

    name: str
    ledger: Ledger


@dataclass(frozen=True)
class Standing:
    """The state of a registry.

    Attributes:
        entries: Entries of the ledger, the oldest first.
        aliases: Version that holds each alias according to the ledger.
        drift: A sentence for each alias, version or entry without a trusted decision behind it.
        kind: Kind of drift: aliases were moved outside, the registered model was made anew so that
            version numbers mean other models, the ledger is from before entries were signed, or
            aliases are from before there was a ledger; empty if there is none.
    """

    entries: tuple[Entry, ...]
    aliases: dict[str, str]
    drift: tuple[str, ...] = ()
    kind: str = ""

    @property
    def head(self) -> Entry | None:
        """The last entry."""
        return self.entries[-1] if self.entries else None

    @property
    def fix(self) -> str:
        """Advice on what to do about the drift."""
        accept = "take it over with 'promote accept reason=…'"
        return f"put it back with 'promote repair', or {accept}" if self.kind == MOVED else accept

    def refuse_drift(self) -> None:
        """Raise :class:`UserError` if there is drift."""
        if self.drift:
            raise UserError(f"{'; '.join(self.drift)}: {self.fix}")


def open_registry(
    name: str, tracking: TrackingConfig, paths: PathsConfig, *, write: bool = True
) -> Registry:
    """Connect to MLflow's store and to the ledger; whoever writes closes what was killed before.

    Args:
        name: Name of the registered model.
        tracking: Tracking config, which names their locations.
        paths: Paths, which name the location of the keys.
        write: Whether to append to the ledger; otherwise nothing that is missing is created.

    Raises:
        UserError: One of them cannot be used.
    """
    file = Path(tracking.uri.removeprefix("sqlite:///"))
    if not write and tracking.uri.startswith("sqlite:///") and not file.exists():
        raise UserError(f"tracking.uri: there is no file {file.absolute()}: promote a model first")
    experiment = connect(tracking)
    if write:
        close_abandoned(experiment)
    return Registry(name, Ledger(ledger_url(tracking), keys_of(paths), write=write))


def look(registry: Registry) -> Standing:
    """Return the state of the registry; nothing is written.

    Raises:
        UserError: There is no such registered model, or the ledger is not intact.
    """
    there, entries, done = _read(registry)
    standing = _standing(registry.name, there, entries, done)
    if standing.kind in ("", MOVED) and entries and done < entries[-1].seq:
        told = (
            f"{entries[-1].name} has not reached the aliases yet: the next command that promotes, "
            "rolls back or repairs completes it",
        )
        return replace(standing, drift=told, kind=MOVED)
    return standing


def recover(registry: Registry) -> Standing:
    """Complete what an interrupted command left, and return the state of the registry.

    Raises:
        UserError: There is no such registered model, or the ledger is not intact.
    """
    there, entries, done = _read(registry)
    standing = _standing(registry.name, there, entries, done)
    if standing.kind not in ("", MOVED) or not entries or done >= entries[-1].seq:
        return standing
    project(registry)
    there, entries, done = _read(registry)
    return _standing(registry.name, there, entries, done)


def followed(there: aliases.Registered, entries: Sequence[Entry]) -> tuple[int, str | None]:
    """Return the last entry that the aliases have followed, and what contradicts that.

    The registered model's tag records it, which also reveals a ledger whose end was cut off.
    """
    seq, _, value = there.tags.get(TAG, "").strip().partition(" ")
    if not seq.isdecimal():
        return 0, None
    done = int(seq)
    if done > len(entries):
        end = f"ends at entry {len(entries)}" if entries else "is empty"
        return done, (
            f"the ledger {end}, but the registered model's tag {TAG} has seen entry {done}: its "
            "end was cut off, or it is another ledger"
        )
    if done and entries[done - 1].hash != value:
        return done, (
            f"entry {done} is not the one that the registered model's tag {TAG} has seen: the "
            "ledger was rewritten, or it is another"
        )
    return done, None


def _read(registry: Registry) -> tuple[aliases.Registered, list[Entry], int]:
    # The aliases first: what is appended meanwhile is then not carried out yet, and no drift.
    there = _registered(registry)
    entries = registry.ledger.entries(registry.name)
    done, cut = followed(there, entries)
    back = registry.ledger.put_back(registry.name, entries)
    if problem := registry.ledger.problem(entries) or cut or back:
        raise UserError(
            f"{problem}; nothing is moved until that is repaired: see 'promote verify', and check "
            f"tracking.ledger={registry.ledger.shown}"
        )
    return there, entries, done


def _standing(
    name: str, there: aliases.Registered, entries: Sequence[Entry], done: int
) -> Standing:
    kind = ""
    if told := replaced(name, entries, done):
        kind = ANEW_DRIFT
    elif entries and (count := unsigned(entries)) == len(entries):
        told, kind = (f"entries 1 to {count} of the ledger carry no signature",), UNSIGNED
    elif not entries and there.aliases:
        held = ", ".join(f"{alias} at version {one}" for alias, one in there.aliases.items())
        told, kind = (f"there are aliases ({held}), and the ledger has no entry",), BEFORE
    elif told := drift(entries, there.aliases):
        kind = MOVED
    return Standing(tuple(entries), aliases_after(entries), told, kind)


def replaced(name: str, entries: Sequence[Entry], done: int) -> tuple[str, ...]:
    """Return a sentence for each version that is another model than the ledger decided on.

    Args:
        name: Name of the registered model.
        entries: Entries of the ledger.
        done: Last entry that the aliases have followed. A registered model that was made anew
            has followed none, so that versions which are not there were never in it.
    """
    told = []
    held, there = set(aliases_after(entries).values()), aliases.registered_ids(name)
    for version, known in sorted(models_after(entries).items()):
        actual = there.get(version)
        if actual is None and (done or version not in held):
            continue  # a version that was deleted is reported where its files are needed
        if actual != known:
            now = f"models:/{actual}" if actual else "not there"
            told.append(
                f"version {version} is {now} now, the ledger decided on models:/{known}: the "
                "registered model was made anew or changed outside"
            )
    return tuple(told)


def drift(entries: Sequence[Entry], actual: dict[str, str]) -> tuple[str, ...]:
    """Return a sentence for each alias that differs from the ledger."""
    wanted = aliases_after(entries)
    return tuple(
        f"the alias {alias} points at {spoken(actual.get(alias))}, the ledger records "
        f"{spoken(wanted.get(alias))}: it was moved outside this program"
        for alias in aliases.ALIASES
        if actual.get(alias) != wanted.get(alias)
    )


def project(registry: Registry, *, force: bool = False) -> None:
    """Apply the ledger's last entry to aliases and tags.

    What was decided is written on versions, on the promotions' runs and on the registered model.
    One process does so at a time, and always for the last entry there is, so that a slow one
    cannot undo what a later one has done. An alias that somebody moved outside meanwhile, or whose
    version is gone, stays where it is: that is drift, and reported by the next command.

    Args:
        registry: Registry to update.
        force: Whether to move those aliases too.
    """
    name = registry.name
    with registry.ledger.alone(name):
        entries = registry.ledger.entries(name)
        there = _registered(registry)
        done, _ = followed(there, entries)
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
            _write_on_run(entry)
        champion = steps[-1].get(aliases.CHAMPION)
        if champion is not None and any(aliases.CHAMPION in one.moves for one in entries[done:]):
            _describe_champion(name, champion, entries)
        # Last, so that whoever is killed before it has all of this done by the next command.
        aliases.tag_model(name, TAG, entries[-1].mark)


def digests_of(name: str, versions: Sequence[str]) -> dict[str, str]:
    """Return the digest and the model of each version whose artifacts exist.

    Raises:
        UserError: The artifacts are not those that the training run logged.
    """
    found: dict[str, str] = {}
    for version in versions:
        try:
            model = aliases.model_of(name, version)
            files = model_files(model)
        except UserError:  # they are gone
            continue
        found |= weights_of(version, check_unchanged(model, files), model.model_id)
    return found


def moves_between(before: dict[str, str], after: dict[str, str]) -> dict[str, Move]:
    """Return the move of each alias that differs."""
    return {
        alias: (before.get(alias), after.get(alias))
        for alias in aliases.ALIASES
        if before.get(alias) != after.get(alias)
    }


def _registered(registry: Registry) -> aliases.Registered:
    there = aliases.registered(registry.name)
    if there is None:
        raise aliases.unknown(registry.name)
    return there


def taken_over(
    registry: Registry, there: aliases.Registered, entries: Sequence[Entry], action: str, why: str
) -> NewEntry:
    """Return the entry that takes over aliases as they are."""
    return NewEntry(
        action,
        there.aliases.get(aliases.CHAMPION, ""),
        moves_between(aliases_after(entries), there.aliases),
        why,
        weights=digests_of(registry.name, sorted(set(there.aliases.values()))),
    )


def _write_on_version(name: str, entry: Entry) -> None:
    """Write on the version what was decided about it; one that was deleted since needs nothing."""
    if not entry.version:
        return
    told = {TAG: entry.mark, "tbr.decision": entry.action}
    if entry.action in DECISIONS:
        told |= {"tbr.verdict": entry.why, "tbr.promoted": str(entry.action != "refuse").lower()}
    with suppress(MlflowException):
        aliases.tag_version(name, entry.version, told)
        # Lists of versions show the first words, and show them as they are written.
        rates = f": {rates_of(entry.version, [entry])}" if len(entry.evidence) > 1 else ""
        runs = ", ".join(f"`{run_id}`" for run_id in entry.evidence)
        aliases.describe_version(
            name,
            entry.version,
            f"{entry.action}{rates}\n\nby {entry.who}, {_minute(entry.at)}, ledger entry "
            f"{entry.seq}\n\n{reasons(entry.why)}" + (f"\n\nruns: {runs}" if runs else ""),
        )


def _write_on_run(entry: Entry) -> None:
    """Write on a promotion's run where in the ledger its decision stands, if the run is there."""
    if entry.action in DECISIONS and entry.evidence:
        with suppress(MlflowException):
            Run(entry.evidence[0]).set_tags({TAG: entry.mark})


def _describe_champion(name: str, version: str, entries: Sequence[Entry]) -> None:
    """Write on the registered model who is champion, with what rates, and why."""
    last = next((entry for entry in reversed(entries) if entry.version == version), None)
    why = ""
    if last:
        why = f"\n\n**{last.action}** by {last.who}, {_minute(last.at)}\n\n{reasons(last.why)}"
    with suppress(MlflowException):
        aliases.describe_model(
            name, f"**Champion: version {version}.** Test half: {rates_of(version, entries)}.{why}"
        )


def _minute(at: str) -> str:
    """Return an entry's time as people write it."""
    return f"{at[:10]} {at[11:16]} UTC"


def reasons(why: str) -> str:
    """Return the reasons of an entry as a list in Markdown, some 2,000 characters of them."""
    if len(why) > _LONGEST:
        why = why[:_LONGEST].rsplit(" ", 1)[0] + " …"
    head, colon, rest = why.partition(": ")
    parts = _BETWEEN.split(rest)
    if not colon or len(parts) == 1:
        return why
    return f"{head}:\n" + "".join(f"\n- {part}" for part in parts)
