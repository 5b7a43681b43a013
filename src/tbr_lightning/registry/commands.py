"""The actions of ``promote``: registry and ledger shown, checked and moved back."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tbr_lightning.config.verbs import PromoteConfig
from tbr_lightning.errors import UserError, command_of
from tbr_lightning.progress import cell, plain, wrapped
from tbr_lightning.registry import alias_moves, aliases, pipeline
from tbr_lightning.registry.alias_sync import look, open_registry
from tbr_lightning.registry.audit import audit, chain_problem
from tbr_lightning.registry.entry import Entry
from tbr_lightning.registry.ledger import unsigned
from tbr_lightning.registry.version_rates import rates_of
from tbr_lightning.reports.page import FILE

_WORDS = 220  # characters of a reason in a table

BROKEN, REFUSED = 1, 3
"""Exit codes: the ledger or what it decided does not hold; a candidate was refused."""


def gate(config: PromoteConfig) -> int:
    """Run, print the verdict in words, and return 0 if promoted, 3 if refused."""
    result = pipeline.run(config, _tell)
    against = f"against champion v{result.champion}" if result.champion else "with no champion yet"
    word = "promoted" if result.verdict.promoted else "not promoted"
    verdict = result.verdict
    print(f"{config.name} v{result.version} {against}: {word} ({verdict.held})")
    for line in verdict.failures:
        print("\n".join(wrapped(f"  {line}", 10)))
    if config.details:
        print("\n".join(f"  {line}" for line in verdict.table))
    more = "" if config.details else "; details=true prints every rule"
    print(f"run {result.run_id}, ledger entry {result.entry.seq}{more}")
    if verdict.promoted:
        served = f"{command_of('serve')} model=models:/{config.name}@{aliases.CHAMPION}"
        print(f"next: {served} (and the same suite)")
    print(f"report: {result.report or f'the artifact {FILE}'}")
    return 0 if verdict.promoted else REFUSED


def _tell(text: str) -> None:
    for line in text.splitlines():
        print("\n".join(wrapped(line, 4, sys.stderr)), file=sys.stderr)


def status(config: PromoteConfig) -> int:
    """Print the aliases with reasons, and outside changes; return 1 if the ledger is broken."""
    registry = open_registry(config.name, config.tracking, config.paths, write=False)
    rows = aliases.versions(config.name)
    if aliases.registered(config.name) is None:
        raise aliases.unknown(config.name)
    entries = registry.ledger.entries(config.name)
    problem = chain_problem(registry, entries)
    standing = look(registry) if problem is None else None
    Console().print(status_table(config.name, rows, entries))
    print(head_line(entries, registry.ledger.shown))
    if standing is not None and standing.drift:
        print(plain("\n".join(f"drift: {line}" for line in standing.drift)))
        print(f"  {standing.fix}")
    if problem is not None:
        print(plain(f"NOT INTACT: {problem}\n  see promote verify"))
    return BROKEN if problem is not None else 0


def history(config: PromoteConfig) -> int:
    """Print the ledger."""
    registry = open_registry(config.name, config.tracking, config.paths, write=False)
    entries = registry.ledger.entries(config.name)
    if not entries:
        raise UserError(
            f"name='{config.name}' has no entry in {registry.ledger.shown}: promote a model first, "
            "or give another name or tracking.ledger"
        )
    Console().print(history_table(config.name, entries))
    print(head_line(entries, registry.ledger.shown))
    return 0


def verify(config: PromoteConfig) -> int:
    """Print what holds and what does not; return 0 if all holds, else 1."""
    registry = open_registry(config.name, config.tracking, config.paths, write=False)
    found = audit(registry)
    for line in found.sound:
        print(plain(f"ok      {line}"))
    for line in found.problems:
        print(plain(f"BROKEN  {line}"))
    return BROKEN if found.problems else 0


def rollback(config: PromoteConfig) -> int:
    """Make the previous champion the champion again, once both versions' rates are printed.

    Raises:
        UserError: No reason is given, or there is nothing to go back to.
    """
    registry = open_registry(config.name, config.tracking, config.paths)
    _, before, after = alias_moves.rollback_of(registry)
    entries = registry.ledger.entries(config.name)
    for word, version in (("champion now", before), ("champion before", after)):
        if version is not None:
            print(f"{word}, v{version}: {rates_of(version, entries)}", flush=True)
    if not config.reason:
        raise UserError(
            "reason is not set: a rollback changes what is in production, so give one, as in "
            "reason='too many refusals in the field'; nothing was moved"
        )
    entry = alias_moves.rollback(registry, config.reason)
    print(
        f"{config.name}: champion is version {after} again, and version {before} the previous one"
    )
    print(f"ledger entry {entry.seq}; promote rollback takes it back")
    return 0


def repair(config: PromoteConfig) -> int:
    """Move aliases that were changed outside back to where the ledger has them."""
    registry = open_registry(config.name, config.tracking, config.paths)
    return _told(config, alias_moves.repair(registry, config.reason), "put back")


def accept(config: PromoteConfig) -> int:
    """Record in the ledger what was moved outside."""
    if not config.reason:
        raise UserError("reason is not set: say why, as in reason='moved by hand: outage'")
    registry = open_registry(config.name, config.tracking, config.paths)
    return _told(config, alias_moves.accept(registry, config.reason), "taken over")


def _told(config: PromoteConfig, entry: Entry | None, word: str) -> int:
    if entry is None:
        print(f"{config.name}: the aliases are where the ledger puts them; nothing to do")
    else:
        print(f"{config.name}: {word}: {entry.why}\nledger entry {entry.seq}")
    return 0


def status_table(name: str, rows: Sequence[Mapping[str, str]], entries: Sequence[Entry]) -> Table:
    """Return every version, newest first: its aliases, and what was last decided about it."""
    last = {entry.version: entry for entry in entries}
    table = _table(name)
    table.add_column("version", justify="right")
    table.add_column("aliases", no_wrap=True)
    table.add_column("decision", no_wrap=True)
    table.add_column("why", ratio=1)
    for row in rows:
        entry = last.get(row["version"])
        table.add_row(
            row["version"],
            f"[bold]{cell(row['aliases'])}[/bold]" if row["aliases"] else "",
            f"{cell(entry.action)}\n[dim]{cell(entry.at[:10])}[/dim]" if entry else "",
            cell(short(entry.why if entry else row["verdict"])),
        )
    return table


def history_table(name: str, entries: Sequence[Entry]) -> Table:
    """Return the ledger, the oldest entry first."""
    table = _table(f"{name}: the ledger")
    table.add_column("", justify="right")
    table.add_column("when, who", overflow="fold")
    table.add_column("what", overflow="fold")
    table.add_column("why, run", ratio=1, overflow="fold")
    for entry in entries:
        when = f"{cell(f'{entry.at[:10]} {entry.at[11:19]}')}\n[dim]{cell(entry.who)}[/dim]"
        runs = f"\n[dim]run {cell(entry.evidence[0])}[/dim]" if entry.evidence else ""
        about = f" v{entry.version}" if entry.version else ""
        table.add_row(
            str(entry.seq),
            when,
            f"[bold]{cell(entry.action + about)}[/bold]\n{cell(_moved(entry))}",
            cell(short(entry.why)) + runs,
        )
    return table


def _moved(entry: Entry) -> str:
    """Return an entry's alias moves, one a line, as in ``champion 1 → 2``."""
    return "\n".join(
        f"{alias} {before or '–'} → {after or '–'}"
        for alias, (before, after) in entry.moves.items()
    )


def head_line(entries: Sequence[Entry], where: str) -> str:
    """Return where the ledger is and how many entries it has."""
    if not entries:
        return f"ledger {where}: empty"
    count = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    signed = len(entries) - unsigned(entries)
    told = "signed" if signed == len(entries) else f"{signed} of them signed"
    return f"ledger {where}: {count}, {told}, head {entries[-1].hash[:16]}"


def short(text: str) -> str:
    """Return a reason shortened to fit a table."""
    return text if len(text) <= _WORDS else text[:_WORDS].rsplit(" ", 1)[0] + " …"


def _table(title: str) -> Table:
    return Table(
        title=cell(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        show_lines=False,
    )
