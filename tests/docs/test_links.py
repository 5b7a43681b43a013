"""Links and anchors within the repository lead somewhere, here and on the site."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import site_build

from ..conftest import ROOT
from .conftest import PAGES, name


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = set()
    for is_prose, line in site_build.prose(page.read_text("utf-8")):
        if is_prose and (heading := re.match(r"#+ (.*)", line)):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_anchors(page: Path) -> None:
    for is_prose, line in site_build.prose(page.read_text("utf-8")):
        if not is_prose:
            continue
        for link in site_build.LINK.finditer(re.sub(r"`[^`]*`", "`x`", line)):
            to, _, anchor = link["to"].partition("#")
            if re.match(r"[a-z]+:", to):
                continue
            target = (page.parent / to).resolve() if to else page
            assert target.exists(), f"{name(page)}: {link[0]}"
            assert target.is_relative_to(ROOT), f"{name(page)}: {link[0]}"
            if anchor:
                assert anchor in anchors(target), f"{name(page)}: {link[0]}"


def in_nav(nav: object) -> set[str]:
    """Return the pages of a navigation, at any depth."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    assert isinstance(parts, list) or hasattr(parts, "__iter__")
    return set().union(*(in_nav(part) for part in parts))  # type: ignore[union-attr]


def test_every_page_is_in_the_navigation_and_nothing_else() -> None:
    nav = in_nav(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    pages = {place for place in site_build.pages().values() if place.endswith(".md")}
    assert nav == pages | {f"reference/{page}" for page in site_build.GENERATED}


def test_links_are_turned_to_where_pages_stand_on_the_site() -> None:
    places = {
        "README.md": "index.md",
        "docs/a/b.md": "a/b.md",
        "SECURITY.md": "project/security.md",
    }
    text = "[x](docs/a/b.md#y) [s](SECURITY.md) [`f`](src/f.py) [w](https://w.org) [h](#h)\n"
    turned = site_build.on_site(text, "README.md", places)
    assert turned == "[x](a/b.md#y) [s](project/security.md) `f` [w](https://w.org) [h](#h)\n"
    assert site_build.on_site("[s](../../SECURITY.md)", "docs/a/b.md", places) == (
        "[s](../project/security.md)"
    )
    code = "```\n[s](SECURITY.md)\n```\n"
    assert site_build.on_site(code, "README.md", places) == code


def test_what_pages_would_fetch_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text(
        '<script src="a.js"></script><link rel="stylesheet" href="b.css"><a href="//c">'
    )
    assert site_build.remote(tmp_path) == []
    for text in (
        '<script async src="https://c.org/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.org/f.css">',
        "<img alt=x src=http://c.org/i.png>",
    ):
        page.write_text(text)
        assert len(site_build.remote(tmp_path)) == 1, text
