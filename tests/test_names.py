"""Names and texts that others wrote are shown as they are: no markup, and no terminal control."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from tbr_lightning.evaluation.report import Line, terminal_table
from tbr_lightning.evaluation.statistics import Rate
from tbr_lightning.progress import cell, plain
from tbr_lightning.registry.commands import history_table, status_table
from tbr_lightning.registry.entry import Entry

BAD = "[/x] [bold]b\\"
ESCAPE = "\x1b]0;title\x07\x9b2J\u202e"


def shown(table: Table) -> str:
    out = StringIO()
    Console(file=out, width=300, force_terminal=False).print(table)
    return out.getvalue()


@pytest.mark.parametrize("text", [BAD, "[/]", "[link=x]y[/link]", "a\\[b]", "a\\ b"])
def test_a_cell_shows_a_text_as_it_is(text: str) -> None:
    table = Table(cell(text), title=cell(text))
    table.add_row(f"{cell(text)}\n[dim]note[/dim]")
    found = shown(table)
    assert found.count(text) == 3
    assert "note" in found


def test_nothing_controls_the_terminal() -> None:
    assert plain(f"a\n\tb{ESCAPE}") == "a\n\tb\ufffd]0;title\ufffd\ufffd2J\ufffd"
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(cell(ESCAPE))


def test_the_ledgers_tables_show_whatever_stands_in_it() -> None:
    """Who can write the database is to be seen in `status`, and not to break or use it."""
    text = f"{BAD} {ESCAPE}"
    entry = Entry(
        model=text,
        seq=1,
        at=text,
        who=text,
        action=text,
        version="1",
        moves={text: (text, text)},
        why=text,
        evidence=[text],
        weights={},
        prev_hash="",
    )
    row = {"version": "1", "aliases": text, "model": text, "verdict": text}
    for table in (
        history_table(text, [entry]),
        status_table(text, [row], [entry]),
        status_table(text, [row], [replace(entry, version="2")]),
    ):
        found = shown(table)
        assert "[/x] [bold]b" in found
        assert "\x1b" not in found


def test_a_table_of_models_shows_their_names() -> None:
    lines = [Line(BAD, f"{BAD}{model}", BAD, Rate(1, 2)) for model in "ab"]
    assert "[/x] [bold]b\\a" in shown(terminal_table(BAD, lines))
