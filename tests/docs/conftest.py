"""The pages of the repository and their code blocks."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..conftest import ROOT

sys.path.insert(0, str(ROOT / "docs" / "tools"))

PAGES = sorted(
    [*ROOT.glob("*.md"), *(p for p in (ROOT / "docs").rglob("*.md") if "tools" not in p.parts)]
)
"""Every page, those at the root too."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title if it names a file, its text and where it begins."""

    language: str
    title: str
    text: str
    where: str


def name(page: Path) -> str:
    """A page as tests are called after it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    inside: list[str] | None = None
    head, start = "", 0
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        fence = re.match(r"\s*```(.*)", line)
        if fence and inside is None:
            inside, head, start = [], fence[1].strip(), number
        elif fence and inside is not None:
            title = re.search(r'title="([^"]+)"', head)
            language = head.split(" ")[0]
            text = "\n".join(inside) + "\n"
            yield Block(language, title[1] if title else "", text, f"{name(page)}:{start}")
            inside = None
        elif inside is not None:
            inside.append(line)
    assert inside is None, f"{name(page)}: a block is not closed"
