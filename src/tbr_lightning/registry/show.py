"""What a person sees of the registry and its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from tbr_lightning.registry.entry import Entry

_WORDS = 220  # letters of a reason in a table


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
            f"[bold]{row['aliases']}[/bold]" if row["aliases"] else "",
            f"{entry.action}\n[dim]{entry.at[:10]}[/dim]" if entry else "",
            escape(short(entry.why if entry else row["verdict"])),
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
        when = f"{entry.at[:10]} {entry.at[11:19]}\n[dim]{escape(entry.who)}[/dim]"
        runs = f"\n[dim]run {entry.evidence[0]}[/dim]" if entry.evidence else ""
        about = f" v{entry.version}" if entry.version else ""
        table.add_row(
            str(entry.seq),
            when,
            f"[bold]{entry.action}{about}[/bold]\n{moves(entry)}",
            escape(short(entry.why)) + runs,
        )
    return table


def moves(entry: Entry) -> str:
    """Return an entry's alias moves, one a line, as in ``champion 1 → 2``."""
    return "\n".join(
        f"{alias} {before or '–'} → {after or '–'}"
        for alias, (before, after) in entry.moves.items()
    )


def head_line(entries: Sequence[Entry], where: str) -> str:
    """Return where the ledger is and how far it goes."""
    if not entries:
        return f"ledger {where}: empty"
    count = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    return f"ledger {where}: {count}, head {entries[-1].hash[:16]}"


def short(text: str) -> str:
    """Return a reason that fits a table."""
    return text if len(text) <= _WORDS else text[:_WORDS].rsplit(" ", 1)[0] + " …"


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        show_lines=False,
    )
