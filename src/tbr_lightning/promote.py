"""The verb ``promote``: gate a candidate against the champion, and move the aliases."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tbr_lightning import cli
from tbr_lightning.config.verbs import PromoteConfig
from tbr_lightning.errors import UserError

if TYPE_CHECKING:
    from tbr_lightning.registry.entry import Entry

BROKEN, REFUSED = 1, 3


def command(config: PromoteConfig) -> int:
    """Run, print the verdict in words, and return 0 if promoted, 3 if refused."""
    from tbr_lightning.registry import pipeline

    result = pipeline.run(config, lambda text: print(text, file=sys.stderr))
    against = f"against champion v{result.champion}" if result.champion else "with no champion yet"
    word = "promoted" if result.verdict.promoted else "not promoted"
    print(f"{config.name} v{result.version} {against}: {word}")
    print("\n".join(f"  {line}" for line in result.verdict.lines))
    print(f"run {result.run_id}, ledger entry {result.entry.seq}")
    return 0 if result.verdict.promoted else REFUSED


def command_status(config: PromoteConfig) -> int:
    """Print who is what and why, and what was moved outside; return 1 if the ledger is broken."""
    from rich.console import Console

    from tbr_lightning.registry import aliases, audit, show
    from tbr_lightning.registry.alias_sync import open_registry, settle

    registry = open_registry(config.name, config.tracking, config.paths)
    rows = aliases.versions(config.name)
    if aliases.registered(config.name) is None:
        raise UserError(f"name='{config.name}' is not registered: promote a model first")
    entries = registry.ledger.entries(config.name)
    problem = audit.chain_problem(registry, entries)
    told: tuple[str, ...] = ()
    if problem is None:
        standing = settle(registry)
        rows, entries = aliases.versions(config.name), list(standing.entries)
        told = standing.drift
    Console().print(show.status_table(config.name, rows, entries))
    print(show.head_line(entries, registry.ledger.shown))
    for line in told:
        print(f"drift: {line}")
    if told:
        print("  put it back: promote repair; take it over: promote accept reason=…")
    if problem is not None:
        print(f"NOT INTACT: {problem}\n  see promote verify")
    return BROKEN if problem is not None else 0


def command_history(config: PromoteConfig) -> int:
    """Print the ledger."""
    from rich.console import Console

    from tbr_lightning.registry import show
    from tbr_lightning.registry.alias_sync import open_registry

    registry = open_registry(config.name, config.tracking, config.paths)
    entries = registry.ledger.entries(config.name)
    if not entries:
        raise UserError(
            f"name='{config.name}' has no entry in {registry.ledger.shown}: promote a model first, "
            "or give another name or tracking.ledger"
        )
    Console().print(show.history_table(config.name, entries))
    print(show.head_line(entries, registry.ledger.shown))
    return 0


def command_verify(config: PromoteConfig) -> int:
    """Print what holds and what does not; return 0 if all holds, else 1."""
    from tbr_lightning.registry.alias_sync import open_registry, settle
    from tbr_lightning.registry.audit import audit, chain_problem

    registry = open_registry(config.name, config.tracking, config.paths)
    if not chain_problem(registry, registry.ledger.entries(config.name)):
        settle(registry)
    found = audit(registry)
    for line in found.sound:
        print(f"ok      {line}")
    for line in found.problems:
        print(f"BROKEN  {line}")
    return BROKEN if found.problems else 0


def command_rollback(config: PromoteConfig) -> int:
    """Make the previous champion the champion again."""
    from tbr_lightning.registry import moves
    from tbr_lightning.registry.alias_sync import open_registry
    from tbr_lightning.registry.aliases import CHAMPION

    registry = open_registry(config.name, config.tracking, config.paths)
    entry = moves.rollback(registry, config.reason)
    before, after = entry.moves[CHAMPION]
    print(
        f"{config.name}: champion is version {after} again, and version {before} the previous one"
    )
    print(f"ledger entry {entry.seq}; promote rollback takes it back")
    return 0


def command_repair(config: PromoteConfig) -> int:
    """Put aliases that were moved outside back to where the ledger has them."""
    from tbr_lightning.registry import moves
    from tbr_lightning.registry.alias_sync import open_registry

    registry = open_registry(config.name, config.tracking, config.paths)
    return _told(config, moves.repair(registry, config.reason), "put back")


def command_accept(config: PromoteConfig) -> int:
    """Take over into the ledger what was moved outside."""
    if not config.reason:
        raise UserError("reason is not set: say why, as in reason='moved by hand: outage'")
    from tbr_lightning.registry import moves
    from tbr_lightning.registry.alias_sync import open_registry

    registry = open_registry(config.name, config.tracking, config.paths)
    return _told(config, moves.accept(registry, config.reason), "taken over")


def _told(config: PromoteConfig, entry: Entry | None, word: str) -> int:
    if entry is None:
        print(f"{config.name}: the aliases are where the ledger puts them; nothing to do")
    else:
        print(f"{config.name}: {word}: {entry.why}\nledger entry {entry.seq}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main("promote"))
